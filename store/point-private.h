/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What point.c (objects and files) and point-text.c (their text) share. */
#pragma once

#include <store/keyfile.h>
#include <store/point.h>

extern const StoreKeyfileKind store_point_kind;
