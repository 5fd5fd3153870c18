/* kill -9 at any instruction: a process puts, commits, frees, compacts and packs
 * anew until it is killed;
 * what it leaves behind is whole transactions, and every blob that these name is in the
 * segments. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "segments.h"
#include "store_sql.h"
#include "store_world.h"

enum { ROUNDS = 40, LEAVES = 4, PAGES = 64 };

static int pack_anew(
	struct store *s, struct store_scratch *x, blob_t entries[LEAVES][STORE_LEAF_PAGES])
{
	static const struct store_method zstd = {.codec = CODEC_ZSTD};
	int r = 0;

	for (unsigned l = 0; l < LEAVES; l++)
		for (unsigned i = 0; r >= 0 && i < PAGES; i++)
			if (entries[l][i] != BLOB_NONE && store_repack_due(s, entries[l][i], 0))
				r = store_repack(s, x, entries[l][i], &zstd);
	store_repack_finish(s);
	return r;
}

/* Transaction n: some pages of each leaf are new, client and leaves have clock n. */
static int one_transaction(struct store *s, struct store_scratch *x, uint64_t n, uint64_t *seed,
	blob_t entries[LEAVES][STORE_LEAF_PAGES])
{
	const struct store_client c = {.id = 1, .pid = 1, .exe = "", .policy = "", .clock = n};
	unsigned char page[STORE_PAGE];
	struct store_packed p;
	int r;

	for (unsigned l = 0; l < LEAVES; l++) {
		for (unsigned i = 0; i < PAGES; i++) {
			if (next_random(seed) % 4 != 0)
				continue;
			page_make(page, (enum page_kind)(next_random(seed) % PAGE_KINDS),
				next_random(seed));
			store_unref(s, entries[l][i]);
			if ((r = store_pack(x, NULL, page, &p)) < 0 ||
				(r = store_put(s, &p, 0, &entries[l][i])) < 0)
				return r;
		}
	}
	if ((r = store_txn_begin(s)) < 0 || (r = store_index_client(s, &c)) < 0)
		return r;
	for (unsigned l = 0; l < LEAVES; l++)
		if ((r = store_index_leaf(s, l + 1, n, entries[l])) < 0)
			return r;
	if ((r = store_txn_commit(s)) < 0)
		return r;
	if (n % 8 == 4 && (r = pack_anew(s, x, entries)) < 0)
		return r;
	return n % 8 == 0 ? store_compact(s, 5, UINT64_MAX) : 0;
}

/* Tells each commit by a byte in the pipe. Returns only on failure. */
static int write_until_killed(const char *dir, uint64_t seed, int told)
{
	struct store_options opt = {.dir = dir};
	static blob_t entries[LEAVES][STORE_LEAF_PAGES];
	struct store_scratch *x;
	struct store *s;

	if (store_scratch_new(&x) < 0 || store_open(&s, &opt) < 0)
		return 2;
	for (uint64_t n = 1;; n++)
		if (one_transaction(s, x, n, &seed, entries) < 0 || write(told, "c", 1) != 1)
			return 3;
}

/* The one page that all headers of this handle, of blobs that aren't gone, describe. */
struct found {
	uint32_t check;
	bool present, twice; /* twice: with different pages */
};

static void scan_segments(const char *dir, struct found *found, uint32_t max)
{
	char path[128];
	struct stat st;

	snprintf(path, sizeof(path), "%s/warm.seg", dir);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	static unsigned char segment[SEGMENT_SIZE];
	/* lseek: segments without memory aren't read, there may be many. */
	for (off_t at = 0; (at = lseek(fd, at, SEEK_DATA)) >= 0; at += SEGMENT_SIZE) {
		at -= at % SEGMENT_SIZE;
		assert_int_equal(pread(fd, segment, SEGMENT_SIZE, at), SEGMENT_SIZE);
		for (uint32_t o = 0; o + BLOB_HEADER <= SEGMENT_SIZE;) {
			const struct blob_header *h = (const void *)(segment + o);
			if (h->handle == 0)
				break;
			assert_in_range(h->length, 1, STORE_PAGE);
			assert_in_range(h->handle, 1, max - 1);
			struct found *f = &found[h->handle];
			if (h->codec != 0) {
				f->twice |= f->present && f->check != (uint32_t)h->checksum;
				f->present = true;
				f->check = (uint32_t)h->checksum;
			}
			o += blob_size(h->length);
		}
	}
	close(fd);
}

static void expect_whole_transactions(const char *dir, uint64_t told)
{
	enum { HANDLES = 1 << 20 };
	struct found *found = calloc(HANDLES, sizeof(*found));
	struct index_entry e[STORE_LEAF_PAGES];

	assert_non_null(found);
	sqlite3 *db = sql_open(dir);
	assert_string_equal(sql_text(db, "PRAGMA integrity_check"), "ok");
	if (told > 0) {
		uint64_t clock = (uint64_t)sql_number(db, "SELECT clock FROM client");
		assert_in_range(clock, told, told + 1);
		assert_int_equal(sql_number(db, "SELECT count(*) FROM leaf"), LEAVES);
		assert_int_equal(sql_number(db, "SELECT min(clock) FROM leaf"), clock);
		assert_int_equal(sql_number(db, "SELECT max(clock) FROM leaf"), clock);
	}
	scan_segments(dir, found, HANDLES);
	for (int64_t l = 1; l <= LEAVES; l++) {
		if (!sql_leaf(db, l, e))
			continue;
		for (unsigned i = 0; i < STORE_LEAF_PAGES; i++) {
			if (e[i].blob == BLOB_NONE)
				continue;
			assert_in_range(e[i].blob, 1, HANDLES - 1);
			assert_true(found[e[i].blob].present);
			assert_false(found[e[i].blob].twice);
			assert_int_equal(found[e[i].blob].check, e[i].check);
		}
	}
	sqlite3_close(db);
	free(found);
}

/* Kills the child after `commits` of them and a little more, so that it is anywhere in its
 * work. */
static void kill_after(const char *dir, uint64_t seed, unsigned commits, unsigned more)
{
	int told[2], status;
	char c;

	assert_int_equal(pipe(told), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		close(told[0]);
		_exit(write_until_killed(dir, seed, told[1]));
	}
	close(told[1]);
	uint64_t n = 0;
	while (n < commits && read(told[0], &c, 1) == 1)
		n++;
	for (volatile unsigned i = 0; i < more; i++)
		;
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	while (read(told[0], &c, 1) == 1)
		n++;
	close(told[0]);
	expect_whole_transactions(dir, n);
}

static void killed_writer_leaves_whole_transactions(void **state)
{
	uint64_t seed = (uint64_t)getpid();
	char dir[64];

	(void)state;
	print_message("seed %llu\n", (unsigned long long)seed);
	world_make_dir(dir);
	for (unsigned round = 0; round < ROUNDS; round++) {
		unsigned commits = (unsigned)(1 + next_random(&seed) % 40);
		unsigned more = (unsigned)(next_random(&seed) % 3000000);
		kill_after(dir, seed, commits, more);
	}
	/* And the next run begins afresh in what the killed one has left. */
	struct store_options opt = {.dir = dir};
	struct store *s;
	assert_int_equal(store_open(&s, &opt), 0);
	store_check(s);
	store_close(s);
	assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(killed_writer_leaves_whole_transactions),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
