/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What answers look like for people: tables, fields, times and sizes; and reading answers without trusting
 * their form. */
#pragma once

#include "cli.h"

/* Aligned columns. */
typedef struct CliTable CliTable;

/* COLUMNS are titles between '|'; one that ends in '>' is aligned to the right. */
CliTable *cli_table_new(const char *columns);
/* One cell (transfer full; NULL is shown as "-"); rows fill from the left. */
void cli_table_add(CliTable *table, char *cell);
void cli_table_print(CliTable *table);
void cli_table_free(CliTable *table);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CliTable, cli_table_free)

typedef void (*CliRowFunc)(CliTable *table, JsonObject *item);
/* A table with one row for each object of ARRAY (nullable). */
void cli_print_table(const char *columns, JsonArray *array, CliRowFunc add_row);
/* "Label   TEXT" (transfer full), or nothing for NULL. */
void cli_print_field(const char *label, char *text);

/* GET PATH, which must answer with an array or an object (as WANTED says). */
JsonNode *cli_get(Cli *cli, const char *path, JsonNodeType wanted, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* GET PATH and print its array, as a table or as JSON. */
gboolean cli_list(Cli *cli, const char *path, const char *columns, CliRowFunc add_row, GError **error);

/* Members of answers; NULL, 0 or FALSE if OBJECT has nothing of the kind. */
const char *cli_text(JsonObject *object, const char *key);
gint64 cli_number(JsonObject *object, const char *key);
gboolean cli_true(JsonObject *object, const char *key);
JsonArray *cli_array(JsonObject *object, const char *key);
/* The sum of KEY over the objects of ARRAY. */
gint64 cli_sum(JsonArray *array, const char *key);
/* The object of NODE; an empty one, kept by NODE, if it is none. */
JsonObject *cli_object(JsonNode *node);

/* As texts for people (transfer full); NULL if the member is missing. */
char *cli_format_text(JsonObject *object, const char *key);
char *cli_format_number(JsonObject *object, const char *key);
char *cli_format_size(JsonObject *object, const char *key);
char *cli_format_time(JsonObject *object, const char *key);
char *cli_format_yes(JsonObject *object, const char *key);
/* The first 8 characters of a uuid. */
char *cli_format_short(JsonObject *object, const char *key);
/* Colour is for terminals, and not for who says NO_COLOR (https://no-color.org). */
gboolean cli_has_colour(void);
#define CLI_RED    "\033[31m"
#define CLI_GREEN  "\033[32m"
#define CLI_YELLOW "\033[33m"
#define CLI_RESET  "\033[0m"

/* "1 pack", "2 packs": of a NOUN that takes an s. */
char *cli_format_count(gint64 n, const char *noun);
/* "1:02:03", "0:05". */
char *cli_format_duration(gint64 seconds);
