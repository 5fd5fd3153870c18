/* What the store's tests share: a store in a private directory on tmpfs, and pages of any kind
 * that can be made again from their seed. */
#ifndef TESTS_STORE_WORLD_H
#define TESTS_STORE_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "store.h"

struct world {
	char dir[64];
	struct store *s;
	struct store_scratch *x;
};

uint64_t next_random(uint64_t *state); /* splitmix64 */

enum page_kind { PAGE_FILL, PAGE_TEXT, PAGE_NOISE, PAGE_KINDS }; /* -> fill, lz4, raw */

void page_make(unsigned char page[STORE_PAGE], enum page_kind kind, uint64_t seed);

void world_make_dir(char dir[64]);
void world_open(struct world *w, uint64_t limit);
void world_close(struct world *w); /* asserts that the store has left no file */

blob_t world_put(struct world *w, enum page_kind kind, uint64_t seed); /* must succeed */
int world_try_put(struct world *w, enum page_kind kind, uint64_t seed, blob_t *ret);
void world_expect(struct world *w, blob_t b, enum page_kind kind, uint64_t seed);
void world_commit_nothing(struct world *w);		      /* recycles what is dead */
uint64_t world_file_bytes(struct world *w, const char *name); /* as allocated */
int world_open_file(const struct world *w, const char *name, int flags);

struct store_stats world_stats(struct world *w);

#endif
