/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the parts of the configuration share: config.c has the command line and the defaults, config-file.c
 * the file, config-check.c what --check-config looks at besides. */
#pragma once

#include <daemon/config.h>

/* (transfer full) What holds where neither the command line nor a file says something else; paths that depend
 * on the command line are not set. */
DaemonConfig *config_new_default(void);
/* Reads config_file, if there is one, over what CONFIG has. INVALID names group and key. */
gboolean config_file_load(DaemonConfig *config, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Whether what the keys of the file name is there: a group, folders, programs. INVALID names the key. Prints what is no
 * mistake, but may be one. */
gboolean config_check_names(const DaemonConfig *config, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* What the command line's OPTION says of a key, unless TEXT is NULL: it wins over the file. INVALID names the
 * option. */
gboolean config_option_set(DaemonConfig *config, const char *group, const char *name, const char *option,
                           const char *text, GError **error) G_GNUC_WARN_UNUSED_RESULT;
