/* The config file as the service uses it. */
#ifndef LARDER_SETTINGS_H
#define LARDER_SETTINGS_H

#include <stddef.h>
#include <stdint.h>

struct config;

#define SETTINGS_PATH "/etc/larder/larder.conf" /* where no other is given */

/* path NULL: SETTINGS_PATH, and the built-in settings where there is none. On failure message
 * names file, line and reason. */
int settings_load(const char *path, struct config **ret, char *message, size_t size);
uint64_t settings_store_limit(const struct config *c); /* bytes; the default resolved */
uint64_t settings_owner_limit(const struct config *c); /* bytes */
uint64_t settings_own_rss(void);		       /* bytes, from /proc/self/statm */

#endif
