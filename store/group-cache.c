/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Some slots under one lock. A slot without a place is free. One that is being filled has one user, who alone
 * touches it; who wants it meanwhile waits for a change.
 */
#include <store/group-cache.h>

#include <pthread.h>

typedef struct {
  StoreCachedGroup group; /* first */
  guint32 pack;           /* 0: free; protected by lock, like all below */
  guint32 offset;
  gboolean is_ready;
  guint n_users;
  guint64 last_use;
} Slot;

struct StoreGroupCache {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  guint64 clock;
  Slot slots[STORE_GROUP_CACHE_SIZE];
};

StoreGroupCache *
store_group_cache_new(void)
{
  StoreGroupCache *cache = g_new0(StoreGroupCache, 1);
  pthread_mutex_init(&cache->lock, NULL);
  pthread_cond_init(&cache->changed, NULL);
  return cache;
}

void
store_group_cache_free(StoreGroupCache *cache)
{
  if (!cache)
    return;
  store_group_cache_clear(cache);
  pthread_mutex_destroy(&cache->lock);
  pthread_cond_destroy(&cache->changed);
  g_free(cache);
}

/* The slot of LOCATION, which is used by the caller from now on; waits until it is ready. lock is held. */
static Slot *
use_ready(StoreGroupCache *cache, const StoreLocation *location)
{
  for (guint i = 0; i < STORE_GROUP_CACHE_SIZE; i++) {
    Slot *slot = &cache->slots[i];
    if (slot->pack != location->pack || slot->offset != location->offset)
      continue;
    if (!slot->is_ready) {
      pthread_cond_wait(&cache->changed, &cache->lock);
      i = G_MAXUINT; /* all may have changed: from the first on */
      continue;
    }
    slot->n_users++;
    slot->last_use = ++cache->clock;
    return slot;
  }
  return NULL;
}

/* A slot that nobody uses: a free one, or else the one used longest ago. lock is held. */
static Slot *
find_unused(StoreGroupCache *cache)
{
  Slot *oldest = NULL;
  for (guint i = 0; i < STORE_GROUP_CACHE_SIZE; i++) {
    Slot *slot = &cache->slots[i];
    if (slot->n_users == 0 && (!oldest || slot->last_use < oldest->last_use))
      oldest = slot;
  }
  return oldest;
}

static void
take_slot(StoreGroupCache *cache, Slot *slot, const StoreLocation *location)
{
  slot->pack = location->pack;
  slot->offset = location->offset;
  slot->is_ready = FALSE;
  slot->n_users = 1;
  slot->last_use = ++cache->clock;
  if (!slot->group.contents)
    slot->group.contents = g_malloc(STORE_GROUP_SIZE_MAX);
}

StoreCachedGroup *
store_group_cache_get(StoreGroupCache *cache, const StoreLocation *location)
{
  pthread_mutex_lock(&cache->lock);
  Slot *slot = location->pack == 0 ? NULL : use_ready(cache, location);
  pthread_mutex_unlock(&cache->lock);
  return slot ? &slot->group : NULL;
}

StoreCachedGroup *
store_group_cache_begin(StoreGroupCache *cache, const StoreLocation *location, gboolean *is_new)
{
  Slot *slot, *unused = NULL;
  g_assert(location->pack != 0);
  pthread_mutex_lock(&cache->lock);
  while (!(slot = use_ready(cache, location)) && !(unused = find_unused(cache)))
    pthread_cond_wait(&cache->changed, &cache->lock);
  *is_new = slot == NULL;
  if (!slot)
    take_slot(cache, slot = unused, location);
  pthread_mutex_unlock(&cache->lock);
  return &slot->group;
}

/* lock is held. */
static void
drop_user(StoreGroupCache *cache, Slot *slot)
{
  if (--slot->n_users == 0)
    pthread_cond_broadcast(&cache->changed);
}

void
store_group_cache_settle(StoreGroupCache *cache, StoreCachedGroup *group, gboolean is_good)
{
  Slot *slot = (Slot *) group;
  pthread_mutex_lock(&cache->lock);
  slot->is_ready = is_good;
  if (!is_good) {
    slot->pack = 0;
    slot->last_use = 0;
    drop_user(cache, slot);
  }
  pthread_cond_broadcast(&cache->changed);
  pthread_mutex_unlock(&cache->lock);
}

void
store_group_cache_release(StoreGroupCache *cache, StoreCachedGroup *group)
{
  pthread_mutex_lock(&cache->lock);
  drop_user(cache, (Slot *) group);
  pthread_mutex_unlock(&cache->lock);
}

void
store_group_cache_clear(StoreGroupCache *cache)
{
  pthread_mutex_lock(&cache->lock);
  for (guint i = 0; i < STORE_GROUP_CACHE_SIZE; i++) {
    Slot *slot = &cache->slots[i];
    if (slot->n_users > 0)
      continue;
    g_free(slot->group.contents);
    *slot = (Slot){0};
  }
  pthread_mutex_unlock(&cache->lock);
}
