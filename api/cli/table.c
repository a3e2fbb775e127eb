/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Cells are kept in one array, row after row; widths are counted in characters when it is printed. */
#include "output.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct CliTable {
  char **titles;
  guint n_columns;
  GPtrArray *cells;
};

CliTable *
cli_table_new(const char *columns)
{
  CliTable *table = g_new0(CliTable, 1);
  table->titles = g_strsplit(columns, "|", -1);
  table->n_columns = g_strv_length(table->titles);
  table->cells = g_ptr_array_new_with_free_func(g_free);
  return table;
}

void
cli_table_free(CliTable *table)
{
  g_strfreev(table->titles);
  g_ptr_array_unref(table->cells);
  g_free(table);
}

/* Control characters, of a note for example, would break the line or the terminal. */
static void
make_printable(char *text)
{
  for (; *text; text++)
    if ((guchar) *text < 0x20 || *text == 0x7f)
      *text = ' ';
}

void
cli_table_add(CliTable *table, char *cell)
{
  if (!cell || !*cell) {
    g_free(cell);
    cell = g_strdup("-");
  }
  make_printable(cell);
  g_ptr_array_add(table->cells, cell);
}

static gboolean
is_right(CliTable *table, guint column)
{
  return g_str_has_suffix(table->titles[column], ">");
}

static glong
title_width(CliTable *table, guint column)
{
  return (glong) strlen(table->titles[column]) - is_right(table, column);
}

static glong
column_width(CliTable *table, guint column)
{
  glong width = title_width(table, column);
  for (guint i = column; i < table->cells->len; i += table->n_columns)
    width = MAX(width, g_utf8_strlen(table->cells->pdata[i], -1));
  return width;
}

static void
print_cell(CliTable *table, guint column, const char *text, glong length, glong width)
{
  gboolean right = is_right(table, column), last = column + 1 == table->n_columns;
  int n_bytes = (int) (g_utf8_offset_to_pointer(text, length) - text);
  int padding = (int) (width - length);
  printf("%*s%.*s%*s%s", right ? padding : 0, "", n_bytes, text, right || last ? 0 : padding, "",
         last ? "\n" : "  ");
}

void
cli_table_print(CliTable *table)
{
  g_autofree glong *widths = g_new(glong, table->n_columns);
  for (guint c = 0; c < table->n_columns; c++)
    widths[c] = column_width(table, c);
  for (guint c = 0; c < table->n_columns; c++)
    print_cell(table, c, table->titles[c], title_width(table, c), widths[c]);
  for (guint i = 0; i < table->cells->len; i++) {
    const char *cell = table->cells->pdata[i];
    print_cell(table, i % table->n_columns, cell, g_utf8_strlen(cell, -1), widths[i % table->n_columns]);
  }
}

void
cli_print_table(const char *columns, JsonArray *array, CliRowFunc add_row)
{
  g_autoptr(CliTable) table = cli_table_new(columns);
  for (guint i = 0; array && i < json_array_get_length(array); i++) {
    JsonNode *node = json_array_get_element(array, i);
    if (JSON_NODE_HOLDS_OBJECT(node))
      add_row(table, json_node_get_object(node));
  }
  cli_table_print(table);
}

gboolean
cli_has_colour(void)
{
  const char *no_color = g_getenv("NO_COLOR"), *term = g_getenv("TERM");
  return isatty(STDOUT_FILENO) && !(no_color && *no_color) && g_strcmp0(term, "dumb") != 0;
}

void
cli_print_field(const char *label, char *text)
{
  if (text) {
    make_printable(text);
    printf("%-12s %s\n", label, text);
  }
  g_free(text);
}
