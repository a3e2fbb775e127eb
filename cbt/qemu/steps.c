/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <cbt/qemu/steps.h>

#include <cbt/qemu/json.h>
#include <string.h>

static gboolean
tell(const QemuSteps *self, const char *command, const char *subject, GError **error)
{
  g_autofree char *step = g_strjoin(" ", command, subject, NULL);
  return !self->func || self->func(step, self->user_data, error);
}

gboolean
qemu_step_with_fd(const QemuSteps *self, const char *command, const char *subject, JsonObject *arguments,
                  int fd, JsonNode **answer, GError **error)
{
  if (tell(self, command, subject, error))
    return qmp_call_with_fd(self->qmp, command, arguments, fd, self->timeout_ms, answer, error);
  g_clear_pointer(&arguments, json_object_unref);
  return FALSE;
}

gboolean
qemu_step(const QemuSteps *self, const char *command, const char *subject, JsonObject *arguments,
          GError **error)
{
  return qemu_step_with_fd(self, command, subject, arguments, -1, NULL, error);
}

/* QEMU's id_wellformed(). */
gboolean
qemu_prefix_check(const char *prefix, GError **error)
{
  gboolean is_good = prefix && g_ascii_isalpha(prefix[0]) && strlen(prefix) <= QEMU_PREFIX_MAX_BYTES &&
                     strspn(prefix, G_CSET_a_2_z G_CSET_A_2_Z G_CSET_DIGITS "-._") == strlen(prefix);
  if (!is_good)
    cbt_set_error(
        error, CBT_ERROR_INVALID, NULL,
        "'%s' cannot begin names in QEMU: at most %d letters, digits and -._ that begin with a letter",
        prefix ? prefix : "", QEMU_PREFIX_MAX_BYTES);
  return is_good;
}

char *
qemu_name(const char *prefix, const char *kind, int index)
{
  return index < 0 ? g_strdup_printf("%s-%s", prefix, kind) : g_strdup_printf("%s-%s%d", prefix, kind, index);
}

gboolean
qemu_name_is(const char *name, const char *prefix, const char *kind, int *index)
{
  int found = -1;
  g_autofree char *begin = qemu_name(prefix, kind, -1);
  if (!name || !g_str_has_prefix(name, begin))
    return FALSE;
  const char *number = name + strlen(begin);
  if (*number) {
    guint64 value;
    if (!g_ascii_string_to_unsigned(number, 10, 0, G_MAXINT, &value, NULL))
      return FALSE;
    found = (int) value;
  }
  if (index)
    *index = found;
  return TRUE;
}

JsonNode *
qemu_nodes_query(const QemuSteps *self, GError **error)
{
  JsonNode *answer;
  if (!qmp_call(self->qmp, "query-named-block-nodes", qmp_args("flat", qmp_bool(TRUE), NULL),
                self->timeout_ms, &answer, error))
    return NULL;
  if (qemu_json_node_array(answer))
    return answer;
  json_node_unref(answer);
  cbt_set_error(error, CBT_ERROR_CORRUPT, NULL,
                "QEMU's answer to query-named-block-nodes cannot be understood");
  return NULL;
}
