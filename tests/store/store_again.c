#include "store_again.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "segments.h"

const char again_state[AGAIN_STATE] = "mappings";

void again_write(struct world *w, blob_t entries[STORE_LEAF_PAGES])
{
	const struct store_client parent = {.id = 1,
		.pid = 100,
		.exe = "/usr/bin/redis",
		.policy = "p",
		.clock = 7,
		.state = again_state,
		.state_length = sizeof(again_state)};
	const struct store_client child = {
		.id = 2, .parent = 1, .exe = "", .policy = "", .clock = 8};

	memset(entries, 0, STORE_LEAF_PAGES * sizeof(*entries));
	for (unsigned i = 0; i < AGAIN_PAGES; i++)
		entries[i * 3] = world_put(w, (enum page_kind)(i % PAGE_KINDS), i);
	assert_int_equal(store_txn_begin(w->s), 0);
	assert_int_equal(store_index_client(w->s, &parent), 0);
	assert_int_equal(store_index_client(w->s, &child), 0);
	assert_int_equal(store_index_leaf(w->s, 5, 6, entries), 0);
	assert_int_equal(store_index_block(w->s, 1, AGAIN_BLOCK, 5), 0);
	assert_int_equal(store_index_block(w->s, 2, AGAIN_BLOCK, 5), 0);
	assert_int_equal(store_txn_commit(w->s), 0);
}

void again_leave(struct world *w)
{
	store_leave(w->s);
	store_scratch_free(w->x);
}

void again_rewrite(struct world *w, const blob_t entries[STORE_LEAF_PAGES])
{
	assert_int_equal(store_txn_begin(w->s), 0);
	assert_int_equal(store_index_leaf(w->s, 5, 9, entries), 0);
	assert_int_equal(store_txn_commit(w->s), 0);
}

void again_expect(struct world *w, const blob_t entries[STORE_LEAF_PAGES])
{
	for (unsigned i = 0; i < AGAIN_PAGES; i++)
		world_expect(w, entries[i * 3], (enum page_kind)(i % PAGE_KINDS), i);
}

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

enum { HANDLES = 1 << 17 };

static uint64_t count_in(const unsigned char segment[SEGMENT_SIZE], uint64_t *checksum)
{
	uint64_t n = 0;

	for (uint32_t o = 0; o + BLOB_HEADER <= SEGMENT_SIZE;) {
		const struct blob_header *h = (const void *)(segment + o);
		if (h->handle == 0)
			break;
		assert_in_range(h->length, 1, STORE_PAGE);
		assert_in_range(h->handle, 1, HANDLES - 1);
		if (h->codec != 0) {
			/* 0 is no page's. */
			assert_true(
				checksum[h->handle] == 0 || checksum[h->handle] == h->checksum);
			checksum[h->handle] = h->checksum;
			n++;
		}
		o += blob_size(h->length);
	}
	return n;
}

uint64_t again_count_headers(const char *dir)
{
	static unsigned char segment[SEGMENT_SIZE];
	uint64_t *checksum = calloc(HANDLES, sizeof(*checksum)), n = 0;
	char path[128];

	assert_non_null(checksum);
	snprintf(path, sizeof(path), "%s/warm.seg", dir);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	/* lseek: segments without memory aren't read, there may be many. */
	for (off_t at = 0; (at = lseek(fd, at, SEEK_DATA)) >= 0; at += SEGMENT_SIZE) {
		at -= at % SEGMENT_SIZE;
		assert_int_equal(pread(fd, segment, SEGMENT_SIZE, at), SEGMENT_SIZE);
		n += count_in(segment, checksum);
	}
	close(fd);
	free(checksum);
	return n;
}

void flip_bit(int fd, uint64_t byte, unsigned bit)
{
	unsigned char c;

	assert_int_equal(pread(fd, &c, 1, (off_t)byte), 1);
	c ^= (unsigned char)(1u << bit);
	assert_int_equal(pwrite(fd, &c, 1, (off_t)byte), 1);
}
