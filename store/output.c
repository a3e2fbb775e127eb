/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <store/output.h>

#include <common/error.h>
#include <errno.h>

static gboolean
write_to_fd(const StoreOutput *output, const guint8 *data, gsize length, GError **error)
{
  gboolean ok = output->ops ? cbt_file_pwrite_full(output->ops, output->fd, data, length, output->written)
                            : cbt_write_full(output->fd, data, length);
  if (ok && output->ops)
    cbt_file_begin_writeback(output->fd, output->written, length);
  if (!ok)
    cbt_set_error_errno(error, errno, "cannot write %s", output->name ? output->name : "the output");
  return ok;
}

gboolean
store_output_write(StoreOutput *output, const guint8 *data, gsize length, GError **error)
{
  gboolean ok = output->func ? output->func(output->user_data, data, length, error)
                             : write_to_fd(output, data, length, error);
  output->written += ok ? length : 0;
  return ok;
}
