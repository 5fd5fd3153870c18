#include "store_world.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

void page_make(unsigned char page[STORE_PAGE], enum page_kind kind, uint64_t seed)
{
	uint64_t state = seed, word = next_random(&state);

	for (size_t i = 0; i < STORE_PAGE; i += sizeof(word)) {
		/* Text: every fourth word is new, as in records with pointers. */
		if (kind == PAGE_NOISE || (kind == PAGE_TEXT && i % 32 == 0))
			word = next_random(&state);
		memcpy(page + i, &word, sizeof(word));
	}
}

void world_make_dir(char dir[64])
{
	strcpy(dir, "/dev/shm/larder-test-XXXXXX");
	assert_non_null(mkdtemp(dir));
}

void world_open(struct world *w, uint64_t limit)
{
	world_make_dir(w->dir);
	struct store_options opt = {.dir = w->dir, .memory_limit = limit};
	assert_int_equal(store_open(&w->s, &opt), 0);
	assert_int_equal(store_scratch_new(&w->x), 0);
}

void world_close(struct world *w)
{
	store_check(w->s);
	store_close(w->s);
	store_scratch_free(w->x);
	assert_int_equal(rmdir(w->dir), 0);
}

int world_try_put(struct world *w, enum page_kind kind, uint64_t seed, blob_t *ret)
{
	unsigned char page[STORE_PAGE];
	struct store_packed p;

	page_make(page, kind, seed);
	assert_int_equal(store_pack(w->x, NULL, page, &p), 0);
	return store_put(w->s, &p, 0, ret);
}

blob_t world_put(struct world *w, enum page_kind kind, uint64_t seed)
{
	blob_t b = BLOB_NONE;

	assert_int_equal(world_try_put(w, kind, seed, &b), 0);
	assert_in_range(b, 1, BLOB_MAX);
	return b;
}

void world_expect(struct world *w, blob_t b, enum page_kind kind, uint64_t seed)
{
	unsigned char want[STORE_PAGE], got[STORE_PAGE];

	page_make(want, kind, seed);
	memset(got, 0xee, sizeof(got));
	assert_int_equal(store_get(w->s, w->x, b, got), 0);
	assert_memory_equal(got, want, STORE_PAGE);
}

void world_commit_nothing(struct world *w)
{
	assert_int_equal(store_txn_begin(w->s), 0);
	assert_int_equal(store_txn_commit(w->s), 0);
}

int world_open_file(const struct world *w, const char *name, int flags)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", w->dir, name);
	int fd = open(path, flags | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

uint64_t world_file_bytes(struct world *w, const char *name)
{
	struct stat st;
	int fd = world_open_file(w, name, O_RDONLY);

	assert_int_equal(fstat(fd, &st), 0);
	close(fd);
	return (uint64_t)st.st_blocks * 512;
}

struct store_stats world_stats(struct world *w)
{
	struct store_stats st;

	store_stats(w->s, &st);
	return st;
}
