/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* changes: asks for page after page and puts them together into one document. */
#include "output.h"

#include <common/size.h>
#include <stdio.h>

#define PAGE_EXTENTS 10000

typedef struct {
  char *base;      /* path and query without the offset */
  JsonNode *first; /* the first page, which takes the extents of all */
} Pages;

static void
pages_clear(Pages *pages)
{
  g_free(pages->base);
  g_clear_pointer(&pages->first, json_node_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Pages, pages_clear)

/* The bits of a bitmap, or what differs between points. */
static gboolean
check_options(Cli *cli, GError **error)
{
  static const char *const others[] = {"from", "to"};
  const char *bitmap = cli_option(cli, "bitmap");
  for (guint i = 0; bitmap && i < G_N_ELEMENTS(others); i++)
    if (cli_option(cli, others[i])) {
      cli_set_usage(error, "--bitmap cannot be combined with --%s", others[i]);
      return FALSE;
    }
  if (!bitmap && cli_option(cli, "lease")) {
    cli_set_usage(error, "--lease needs --bitmap");
    return FALSE;
  }
  return !bitmap || cli_check_name("Bitmap", bitmap, error);
}

static char *
make_base(Cli *cli, GError **error)
{
  g_autofree char *vm = NULL, *disk = NULL;
  if (!check_options(cli, error) || !cli_split_target(cli_arg(cli, 0), &vm, &disk, NULL, error))
    return NULL;
  g_autofree char *path = cli_path(error, "/v1/vms/%s/disks/%s/changes", vm, disk);
  GString *base = g_string_new(path);
  g_string_append_printf(base, "?limit=%d", PAGE_EXTENTS);
  static const char *const keys[] = {"from", "to", "bitmap", "lease"};
  for (guint i = 0; i < G_N_ELEMENTS(keys); i++) {
    if (!cli_option(cli, keys[i]))
      continue;
    g_string_append_printf(base, "&%s=", keys[i]);
    g_string_append_uri_escaped(base, cli_option(cli, keys[i]), "@:", FALSE);
  }
  return g_string_free(base, FALSE);
}

/* Adds the extents of PAGE to the document. FALSE if they are not there. */
static gboolean
take_page(Pages *pages, JsonNode *page)
{
  JsonArray *extents = cli_array(cli_object(page), "extents");
  if (!extents)
    return FALSE;
  if (!pages->first) {
    pages->first = json_node_ref(page);
    return TRUE;
  }
  JsonArray *all = cli_array(cli_object(pages->first), "extents");
  for (guint i = 0; i < json_array_get_length(extents); i++)
    json_array_add_element(all, json_array_dup_element(extents, i));
  return TRUE;
}

/* The offset of the page behind PAGE, which began at OFFSET; 0 at the end, -1 if it does not go on. */
static gint64
next_offset(JsonNode *page, gint64 offset)
{
  JsonObject *object = cli_object(page);
  if (json_object_get_null_member(object, "next-offset") || !json_object_has_member(object, "next-offset"))
    return 0;
  gint64 next = cli_number(object, "next-offset");
  return next > offset ? next : -1;
}

/* Pages of a bitmap fit together only while it stays in its state. */
static gboolean
check_same_state(Pages *pages, JsonNode *page, GError **error)
{
  static const char key[] = "generation";
  if (!pages->first || cli_number(cli_object(pages->first), key) == cli_number(cli_object(page), key))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_BUSY, "Freeze it under a lease (bitmap create-successor), then read it.",
                "The bitmap changed its state while it was read");
  return FALSE;
}

static gboolean
collect(Cli *cli, Pages *pages, GError **error)
{
  gint64 offset = 0;
  do {
    g_autofree char *path = g_strdup_printf("%s&offset=%" G_GINT64_FORMAT, pages->base, offset);
    g_autoptr(JsonNode) page = cli_get(cli, path, JSON_NODE_OBJECT, error);
    if (!page || !check_same_state(pages, page, error))
      return FALSE;
    offset = take_page(pages, page) ? next_offset(page, offset) : -1;
  } while (offset > 0);
  if (offset == 0)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_FAILED, "Is the daemon of the same version?",
                "The daemon's list of changes is not of the expected form");
  return FALSE;
}

static void
add_row(CliTable *table, JsonObject *extent)
{
  cli_table_add(table, cli_format_number(extent, "offset"));
  cli_table_add(table, cli_format_number(extent, "length"));
  cli_table_add(table, cli_format_text(extent, "kind"));
}

static void
print_for_people(Cli *cli, JsonObject *document)
{
  JsonArray *extents = cli_array(document, "extents");
  cli_print_table("OFFSET>|LENGTH>|KIND", extents, add_row);
  if (cli->quiet)
    return;
  g_autofree char *bytes = cbt_size_format((guint64) cli_sum(extents, "length"));
  g_autofree char *size = cli_format_size(document, "size-to");
  const char *source = cli_text(document, "source"), *proof = cli_text(document, "proof");
  g_autofree char *count = cli_format_count(json_array_get_length(extents), "extent");
  printf("%s, %s of %s; from the %s, %s\n", count, bytes, size ? size : "-", source ? source : "-",
         proof ? proof : "-");
}

static gboolean
changes(Cli *cli, GError **error)
{
  g_auto(Pages) pages = {.base = make_base(cli, error)};
  if (!pages.base || !collect(cli, &pages, error))
    return FALSE;
  JsonObject *document = cli_object(pages.first);
  json_object_set_null_member(document, "next-offset");
  if (cli->json)
    cli_print_json(cli, pages.first);
  else
    print_for_people(cli, document);
  return TRUE;
}

static const CliOption options[] = {
    {"from", "POINT", FALSE, "what changed since this recovery point; without it: all that is allocated"},
    {"to", "POINT|live", FALSE, "up to that recovery point, or to the disk as it is now (default)"},
    {"bitmap", "BITMAP", FALSE, "the bits of this bitmap; while it is frozen those that are frozen"},
    {"lease", "ID", FALSE, "only if this lease holds the bitmap"},
    {0},
};

const CliCommand cli_changes_commands[] = {
    {"changes", "NAME/DISK [--from POINT] [--to POINT|live] | --bitmap BITMAP [--lease ID]",
     "List the extents of a disk that differ", 1, 1, options, changes,
     "cbt-backup changes web/root --from web@1 --to web@0\n"
     "cbt-backup --json changes web/root --from web@latest"},
    {0},
};
