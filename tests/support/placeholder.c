void placeholder(void);
void placeholder(void) {}
