#include "store_left.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "segments.h"
#include "store_again.h"

enum { PAGES = 24, CLIENTS = 20, STATE = 6000, CLOCK = 8, FILE_MAX = 4 << 20 };
enum { LEAVES = LEFT_LEAVES };

static const char *const left_name[] = {
	"index.db", "index.db-wal", "index.db-shm", "index.run", "warm.seg"};

static uint64_t seed_of(unsigned l, unsigned i)
{
	return 1 + l * 1000 + i;
}

static enum page_kind kind_of(unsigned i)
{
	return (enum page_kind)(i % PAGE_KINDS);
}

static uint64_t block_of(unsigned l)
{
	return 100 + 7 * (uint64_t)l;
}

static int put_leaf(struct world *w, unsigned l, blob_t entries[STORE_LEAF_PAGES])
{
	memset(entries, 0, STORE_LEAF_PAGES * sizeof(*entries));
	for (unsigned i = 0; i < PAGES; i++) {
		store_unref(w->s, entries[i * 5 + l]);
		entries[i * 5 + l] = world_put(w, kind_of(i), seed_of(l, i));
	}
	return 0;
}

static void fill_state(unsigned char state[STATE], uint64_t id)
{
	for (unsigned i = 0; i < STATE; i++)
		state[i] = (unsigned char)(i * 7 + id);
}

static int write_client(struct world *w, uint64_t id, uint64_t clock)
{
	unsigned char state[STATE];
	struct store_client c = {.id = id,
		.pid = 9,
		.exe = "exe",
		.policy = "p",
		.clock = clock,
		.state = state,
		.state_length = sizeof(state)};

	fill_state(state, id);
	return store_index_client(w->s, &c);
}

/* Leaves from..to-1 get clock n. */
static void write_leaves(struct world *w, blob_t entries[LEAVES][STORE_LEAF_PAGES],
	unsigned from, unsigned to, uint64_t n)
{
	int r = store_txn_begin(w->s) < 0 || write_client(w, 1, n) < 0;

	for (unsigned l = from; l < to; l++)
		r |= store_index_leaf(w->s, l + 1, n, entries[l]) < 0 ||
		     store_index_block(w->s, 1, block_of(l), l + 1) < 0;
	if (r || store_txn_commit(w->s) < 0)
		_exit(2);
}

/* All is in the database, and then some of it in the log, which has no older frames; ends
 * without closing. */
static void run_and_die(const char *dir)
{
	static blob_t entries[LEAVES][STORE_LEAF_PAGES];
	struct store_options opt = {.dir = dir};
	char why[STORE_WHY];
	struct world w;

	strcpy(w.dir, dir);
	if (store_open(&w.s, &opt) < 0 || store_scratch_new(&w.x) < 0)
		_exit(1);
	for (unsigned l = 0; l < LEAVES; l++)
		put_leaf(&w, l, entries[l]);
	write_leaves(&w, entries, 0, LEAVES, 1);
	if (store_txn_begin(w.s) < 0)
		_exit(2);
	for (uint64_t id = 2; id <= CLIENTS; id++)
		if (write_client(&w, id, 1) < 0)
			_exit(2);
	if (store_txn_commit(w.s) < 0)
		_exit(2);
	store_leave(w.s);
	if (store_reopen(&w.s, &opt, why) < 0)
		_exit(3);
	for (uint64_t n = 2; n <= CLOCK; n++)
		write_leaves(&w, entries, 0, LEAVES / 2, n);
	_exit(0);
}

static void in_child(void (*what)(const char *dir), const char *dir)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0)
		what(dir);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

int left_open(const struct left *f, enum file i, int flags)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", f->dir, left_name[i]);
	return open(path, flags | O_CLOEXEC, 0600);
}

/* -1: there is none. */
static ssize_t left_read(const struct left *f, enum file i, unsigned char *bytes)
{
	int fd = left_open(f, i, O_RDONLY);

	if (fd < 0)
		return -1;
	ssize_t n = pread(fd, bytes, FILE_MAX, 0);
	assert_true(n >= 0);
	while (i == SEG && n > 0 && bytes[n - 1] == 0)
		n--;
	close(fd);
	return n;
}

void left_make(struct left *f)
{
	world_make_dir(f->dir);
	in_child(run_and_die, f->dir);
	for (unsigned i = 0; i < FILES; i++) {
		f->bytes[i] = malloc(FILE_MAX);
		assert_non_null(f->bytes[i]);
		ssize_t n = left_read(f, (enum file)i, f->bytes[i]);
		assert_true(n > 0);
		f->size[i] = (size_t)n;
	}
}

const char *left_file_name(enum file i)
{
	return left_name[i];
}

/* In place: warm.seg is known by its inode. */
void left_put_back_file(const struct left *f, enum file i)
{
	int fd = left_open(f, i, O_RDWR | O_CREAT);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 0), 0);
	if (i == SEG)
		assert_int_equal(ftruncate(fd, 64 * SEGMENT_SIZE), 0);
	assert_int_equal(pwrite(fd, f->bytes[i], f->size[i], 0), f->size[i]);
	close(fd);
}

void left_put_back(const struct left *f)
{
	char path[128];

	for (unsigned i = 0; i < FILES; i++) {
		snprintf(path, sizeof(path), "%s/%s", f->dir, left_name[i]);
		if (f->size[i] > 0)
			left_put_back_file(f, (enum file)i);
		else
			unlink(path);
	}
}

/* The same, but closed in order: all of the index is in index.db. */
void left_settle(struct left *f)
{
	struct world w;

	strcpy(w.dir, f->dir);
	again_open(&w, 0);
	again_take_all(&w);
	store_reopen_finish(w.s);
	store_leave(w.s);
	store_scratch_free(w.x);
	for (unsigned i = 0; i < FILES; i++) {
		ssize_t n = left_read(f, (enum file)i, f->bytes[i]);
		assert_true(i == WAL || i == SHM ? n < 0 : n > 0);
		f->size[i] = n < 0 ? 0 : (size_t)n;
	}
}

void left_done(struct left *f)
{
	char path[128];

	for (unsigned i = 0; i < FILES; i++) {
		snprintf(path, sizeof(path), "%s/%s", f->dir, left_name[i]);
		unlink(path);
		free(f->bytes[i]);
	}
	assert_int_equal(rmdir(f->dir), 0);
}

/* ---- what may come of it ---- */

static int compare_client(void *arg, const struct store_client *c)
{
	unsigned char state[STATE];
	unsigned *n = arg;

	assert_int_equal(c->id, ++*n);
	assert_int_equal(c->clock, c->id == 1 ? CLOCK : 1);
	assert_int_equal(c->pid, 9);
	assert_int_equal(c->state_length, sizeof(state));
	fill_state(state, c->id);
	assert_memory_equal(c->state, state, sizeof(state));
	return 0;
}

/* How many pages can't be read; all others are right, in the right place. */
static unsigned compare_leaf(struct world *w, unsigned l)
{
	unsigned char want[STORE_PAGE], got[STORE_PAGE];
	blob_t entries[STORE_LEAF_PAGES];
	uint64_t clock = 0;
	unsigned n = 0, lost = 0;

	assert_int_equal(again_block(w, 1, block_of(l)), l + 1);
	assert_true(again_leaf(w, l + 1, &clock, entries));
	assert_int_equal(clock, l < LEAVES / 2 ? CLOCK : 1);
	for (unsigned i = 0; i < STORE_LEAF_PAGES; i++)
		n += entries[i] != BLOB_NONE;
	assert_int_equal(n, PAGES);
	for (unsigned i = 0; i < PAGES; i++) {
		blob_t b = entries[i * 5 + l];
		assert_int_not_equal(b, BLOB_NONE);
		int r = store_get(w->s, w->x, b, got);
		if (r < 0) {
			assert_int_equal(r, -EBADMSG);
			lost++;
			continue;
		}
		assert_false(store_is_lost(w->s, b));
		page_make(want, kind_of(i), seed_of(l, i));
		assert_memory_equal(want, got, STORE_PAGE);
	}
	return lost;
}

static unsigned compare_all(struct world *w)
{
	char why[STORE_WHY];
	unsigned lost = 0, clients = 0;

	assert_int_equal(store_each_client(w->s, compare_client, &clients, why), 0);
	assert_int_equal(clients, CLIENTS);
	for (unsigned l = 0; l < LEAVES; l++)
		lost += compare_leaf(w, l);
	return lost;
}

/* Database and log are, byte for byte, as they were damaged. (No log, or an empty one: it is as
 * good, and SQLite makes one.) */
static void assert_untouched(const struct left *f, unsigned char *before[2], ssize_t size[2])
{
	static unsigned char after[FILE_MAX];

	for (enum file i = DB; i <= WAL; i++) {
		ssize_t n = left_read(f, i, after);
		assert_int_equal(n < 0 ? 0 : n, size[i] < 0 ? 0 : size[i]);
		if (size[i] > 0)
			assert_memory_equal(before[i], after, (size_t)size[i]);
	}
}

void left_reopen(const struct left *f, unsigned may_lose, struct tally *t)
{
	static unsigned char db[FILE_MAX], wal[FILE_MAX];
	unsigned char *before[] = {db, wal};
	ssize_t size[] = {left_read(f, DB, db), left_read(f, WAL, wal)};
	struct store_options opt = {.dir = f->dir};
	char why[STORE_WHY] = "";
	struct world w;

	strcpy(w.dir, f->dir);
	int r = store_reopen(&w.s, &opt, why);
	if (r < 0) {
		if (r != -EEXIST && r != -EPROTONOSUPPORT &&
			(r != -EBADMSG || strlen(why) < 20))
			fail_msg("%d: %s", r, why);
		assert_untouched(f, before, size);
		t->refused++;
		return;
	}
	assert_int_equal(store_scratch_new(&w.x), 0);
	store_check(w.s);
	unsigned lost = compare_all(&w);
	assert_in_range(lost, 0, may_lose);
	*(lost ? &t->lost : &t->right) += 1;
	again_take_all(&w);
	store_reopen_finish(w.s);
	store_check(w.s);
	store_leave(w.s);
	store_scratch_free(w.x);
}

void left_report(enum file i, const struct tally *t)
{
	print_message("%-13s %u refused, %u right, %u with lost pages\n", left_name[i],
		t->refused, t->right, t->lost);
}
void left_flip(const struct left *f, enum file i, uint64_t byte, unsigned bit)
{
	int fd = left_open(f, i, O_RDWR);

	flip_bit(fd, byte, bit);
	close(fd);
}
