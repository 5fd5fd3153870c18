#include "store_again.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

void again_open(struct world *w, uint64_t limit)
{
	struct store_options opt = {.dir = w->dir, .memory_limit = limit, .stamp = 7};
	char why[STORE_WHY];

	int r = store_reopen(&w->s, &opt, why);
	if (r < 0)
		fail_msg("store_reopen: %d: %s", r, why);
	assert_int_equal(store_scratch_new(&w->x), 0);
	store_check(w->s);
}

void again_refused(const char *dir, int error, const char *want)
{
	struct store_options opt = {.dir = dir};
	struct store *s = NULL;
	char why[STORE_WHY] = "?";

	int r = store_reopen(&s, &opt, why);
	if (r != error || (want ? !strstr(why, want) : why[0] != '\0'))
		fail_msg("store_reopen: %d, %s instead of %d, %s", r, why, error,
			want ? want : "");
	assert_null(s);
}

static int take_leaf(void *arg, const struct store_leaf *l)
{
	struct store *s = ((void **)arg)[0];
	uint64_t *n = ((void **)arg)[1];

	for (unsigned i = 0; i < STORE_LEAF_PAGES; i++) {
		if (l->entries[i] == BLOB_NONE)
			continue;
		store_ref(s, l->entries[i]);
		++*n;
	}
	return 0;
}

uint64_t again_take_all(struct world *w)
{
	char why[STORE_WHY];
	uint64_t n = 0;
	void *arg[] = {w->s, &n};

	assert_int_equal(store_each_leaf(w->s, take_leaf, arg, why), 0);
	return n;
}

struct copy {
	uint64_t clock;
	blob_t *entries;
};

static int copy_leaf(void *arg, const struct store_leaf *l)
{
	struct copy *to = arg;

	to->clock = l->clock;
	memcpy(to->entries, l->entries, STORE_LEAF_PAGES * sizeof(blob_t));
	return 0;
}

bool again_leaf(struct world *w, uint64_t id, uint64_t *ret_clock, blob_t ret[STORE_LEAF_PAGES])
{
	struct copy to = {.entries = ret};
	char why[STORE_WHY];

	int r = store_find_leaf(w->s, id, copy_leaf, &to, why);
	assert_true(r == 0 || r == -ENOENT);
	if (r == 0)
		*ret_clock = to.clock;
	return r == 0;
}

static int match_block(void *arg, uint64_t block, uint64_t leaf)
{
	uint64_t *want = arg;

	if (block != want[0])
		return 0;
	want[1] = leaf;
	return 1;
}

uint64_t again_block(struct world *w, uint64_t client, uint64_t block)
{
	uint64_t want[2] = {block, 0};
	char why[STORE_WHY];

	assert_true(store_each_block(w->s, client, match_block, want, why) >= 0);
	return want[1];
}

void flip_bit(int fd, uint64_t byte, unsigned bit)
{
	unsigned char c;

	assert_int_equal(pread(fd, &c, 1, (off_t)byte), 1);
	c ^= (unsigned char)(1u << bit);
	assert_int_equal(pwrite(fd, &c, 1, (off_t)byte), 1);
}
