/* kill -9 at any instruction, and then the next process goes on with what is there: it knows,
 * from memory that outlives both, what was committed, compares all of it, and works on until it
 * is killed in its turn. A third of them is killed after so many single steps. SEED=n repeats
 * what they do, not when they are killed; ROUNDS=n for more. */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "segments.h"
#include "store_again.h"

enum { LEAVES = 5, PAGES = 280, LIMIT = 3 * SEGMENT_SIZE, STATE = 20000 };

/* What the index says at one moment. */
struct truth {
	uint64_t n;		      /* number of the transaction, the client's clock */
	bool leaf[LEAVES];	      /* leaf l + 1, of block l */
	uint64_t seed[LEAVES][PAGES]; /* 0 = not stored */
	uint32_t state_length;
};

/* Shared by all of them. Until a commit has returned, the next truth may be the one. */
struct shared {
	struct truth truth[2];
	_Atomic unsigned current;
	_Atomic bool verified; /* this worker is through with comparing */
	_Atomic uint64_t commits, in_doubt, compactions, repacked, full, checked;
};

enum how_killed { ANYWHERE, AT_WORK, BY_STEPS, NOT_AT_ALL };

struct worker {
	struct world w;
	struct shared *sh;
	struct truth now;
	blob_t blob[LEAVES][STORE_LEAF_PAGES]; /* with a reference each */
	uint64_t seed;
	enum how_killed how;
	unsigned ops_to_stop; /* BY_STEPS: after so many it stops and is stepped */
};

#define CHECK(x)                                                                               \
	do {                                                                                   \
		if (!(x)) {                                                                    \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);                \
			_exit(2);                                                              \
		}                                                                              \
	} while (0)

static uint64_t below(struct worker *k, uint64_t n)
{
	return next_random(&k->seed) % n;
}

static enum page_kind kind_of(uint64_t seed)
{
	return (enum page_kind)(seed % PAGE_KINDS);
}

/* ---- comparing ---- */

static int compare_client(void *arg, const struct store_client *c)
{
	struct worker *k = arg;

	CHECK(c->id == 1 && c->pid == 77 && strcmp(c->exe, "exe") == 0);
	k->now.n = c->clock;
	k->now.state_length = c->state_length;
	for (uint32_t i = 0; i < c->state_length; i++)
		CHECK(((const unsigned char *)c->state)[i] == (unsigned char)(c->clock + i));
	return 0;
}

static int take_leaf(void *arg, const struct store_leaf *l)
{
	struct worker *k = arg;

	CHECK(l->id >= 1 && l->id <= LEAVES);
	memcpy(k->blob[l->id - 1], l->entries, sizeof(k->blob[0]));
	k->now.leaf[l->id - 1] = true;
	for (unsigned i = 0; i < STORE_LEAF_PAGES; i++)
		if (l->entries[i] != BLOB_NONE)
			store_ref(k->w.s, l->entries[i]);
	return 0;
}

static int compare_block(void *arg, uint64_t block, uint64_t leaf)
{
	CHECK(leaf == block + 1);
	++*(unsigned *)arg;
	return 0;
}

static void compare_page(struct worker *k, blob_t b, uint64_t seed)
{
	unsigned char want[STORE_PAGE], got[STORE_PAGE];

	CHECK((b == BLOB_NONE) == (seed == 0));
	if (seed == 0)
		return;
	page_make(want, kind_of(seed), seed);
	CHECK(!store_is_lost(k->w.s, b));
	CHECK(store_get(k->w.s, k->w.x, b, got) == 0);
	CHECK(memcmp(want, got, STORE_PAGE) == 0);
}

/* Which of the two truths it is; then it must be that one in everything. */
static void compare_all(struct worker *k)
{
	struct shared *sh = k->sh;
	char why[STORE_WHY];
	unsigned blocks = 0, leaves = 0;

	CHECK(store_each_client(k->w.s, compare_client, k, why) == 0);
	unsigned at = atomic_load(&sh->current);
	if (sh->truth[at].n != k->now.n) {
		at = 1 - at;
		CHECK(sh->truth[at].n == k->now.n);
		atomic_fetch_add(&sh->in_doubt, 1);
		atomic_store(&sh->current, at);
	}
	const struct truth *t = &sh->truth[at];
	CHECK(store_each_leaf(k->w.s, take_leaf, k, why) == 0);
	CHECK(store_each_block(k->w.s, 1, compare_block, &blocks, why) == 0);
	for (unsigned l = 0; l < LEAVES; l++) {
		leaves += t->leaf[l];
		CHECK(t->leaf[l] == k->now.leaf[l]);
		for (unsigned i = 0; i < PAGES; i++)
			compare_page(k, k->blob[l][i], t->leaf[l] ? t->seed[l][i] : 0);
	}
	CHECK(blocks == leaves && t->state_length == k->now.state_length);
	k->now = *t;
}

static void compare_numbers(struct worker *k)
{
	static bool seen[1 << 16];
	struct store_stats st;
	uint64_t distinct = 0;
	struct stat file;
	char path[128];

	for (unsigned l = 0; l < LEAVES; l++)
		for (unsigned i = 0; i < PAGES; i++) {
			blob_t b = k->blob[l][i];
			CHECK(b < sizeof(seen));
			distinct += b != BLOB_NONE && !seen[b];
			seen[b] = true;
		}
	store_stats(k->w.s, &st);
	CHECK(st.blobs == distinct && st.lost_blobs == 0);
	snprintf(path, sizeof(path), "%s/warm.seg", k->w.dir);
	CHECK(stat(path, &file) == 0);
	CHECK(st.segment_bytes == (uint64_t)file.st_blocks * 512);
	store_check(k->w.s);
}

/* ---- working ---- */

static void stop_to_be_stepped(void)
{
	if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
		_exit(3);
	raise(SIGSTOP);
}

static void replace(struct worker *k, unsigned l, unsigned i, blob_t b, uint64_t seed)
{
	store_unref(k->w.s, k->blob[l][i]);
	k->blob[l][i] = b;
	k->now.seed[l][i] = seed;
}

static void put_one(struct worker *k)
{
	unsigned l = (unsigned)below(k, LEAVES), i = (unsigned)below(k, PAGES);
	uint64_t seed = next_random(&k->seed) | 1;
	unsigned char page[STORE_PAGE];
	struct store_packed p;
	blob_t b;

	page_make(page, kind_of(seed), seed);
	CHECK(store_pack(k->w.x, NULL, page, &p) == 0);
	int r = store_put(k->w.s, &p, 0, &b);
	if (r == -ENOSPC) {
		atomic_fetch_add(&k->sh->full, 1);
		for (i = 0; i < PAGES / 2; i++)
			replace(k, l, i, BLOB_NONE, 0);
		return;
	}
	CHECK(r == 0);
	replace(k, l, i, b, seed);
}

static void op_put(struct worker *k)
{
	for (uint64_t n = below(k, 5); n > 0; n--)
		put_one(k);
}

static void op_share(struct worker *k)
{
	unsigned l = (unsigned)below(k, LEAVES), i = (unsigned)below(k, PAGES);
	unsigned from = (unsigned)below(k, LEAVES), j = (unsigned)below(k, PAGES);

	if (k->blob[from][j] == BLOB_NONE || (l == from && i == j))
		return;
	store_ref(k->w.s, k->blob[from][j]);
	replace(k, l, i, k->blob[from][j], k->now.seed[from][j]);
}

static void op_drop(struct worker *k)
{
	unsigned l = (unsigned)below(k, LEAVES), share = 1 + (unsigned)below(k, 10);

	for (unsigned i = 0; i < PAGES; i++)
		if (below(k, share) == 0)
			replace(k, l, i, BLOB_NONE, 0);
}

static void op_repack(struct worker *k)
{
	static const struct store_method zstd = {.codec = CODEC_ZSTD, .level = 1};
	unsigned l = (unsigned)below(k, LEAVES);

	for (unsigned i = 0; i < PAGES; i++) {
		blob_t b = k->blob[l][i];
		if (b == BLOB_NONE || below(k, 4) != 0 || !store_repack_due(k->w.s, b, 0))
			continue;
		int r = store_repack(k->w.s, k->w.x, b, &zstd);
		CHECK(r == 0 || r == 1 || r == -EAGAIN || r == -ENOSPC);
		if (r == 1)
			atomic_fetch_add(&k->sh->repacked, 1);
	}
	if (below(k, 2))
		store_repack_finish(k->w.s);
}

static void op_compact(struct worker *k)
{
	uint64_t budget = below(k, 2) ? UINT64_MAX : below(k, SEGMENT_SIZE);

	CHECK(store_compact(k->w.s, (unsigned)below(k, 20), budget) == 0);
	atomic_fetch_add(&k->sh->compactions, 1);
}

/* All leaves that there are, so that no row names what was dead at its begin. */
static int write_rows(struct worker *k)
{
	static unsigned char state[STATE];
	struct store_client c = {.id = 1,
		.pid = 77,
		.exe = "exe",
		.policy = "",
		.clock = k->now.n,
		.state = state,
		.state_length = k->now.state_length};
	int r = 0;

	for (uint32_t i = 0; i < c.state_length; i++)
		state[i] = (unsigned char)(c.clock + i);
	r = store_index_client(k->w.s, &c);
	for (unsigned l = 0; r == 0 && l < LEAVES; l++) {
		uint64_t leaf = k->now.leaf[l] ? l + 1 : 0;
		r = leaf ? store_index_leaf(k->w.s, leaf, k->now.n, k->blob[l])
			 : store_index_leaf_drop(k->w.s, l + 1);
		if (r == 0)
			r = store_index_block(k->w.s, 1, l, leaf);
	}
	return r;
}

static void op_commit(struct worker *k)
{
	struct shared *sh = k->sh;
	unsigned next = 1 - atomic_load(&sh->current);

	k->now.n++;
	k->now.state_length = (uint32_t)below(k, STATE);
	for (unsigned l = 0; l < LEAVES; l++) {
		k->now.leaf[l] = below(k, 60) != 0;
		for (unsigned i = 0; !k->now.leaf[l] && i < PAGES; i++)
			replace(k, l, i, BLOB_NONE, 0);
	}
	CHECK(store_txn_begin(k->w.s) == 0);
	CHECK(write_rows(k) == 0);
	if (below(k, 10) == 0) {
		store_txn_abort(k->w.s);
		return; /* the next one has it */
	}
	sh->truth[next] = k->now;
	CHECK(store_txn_commit(k->w.s) == 0);
	atomic_store(&sh->current, next);
	atomic_fetch_add(&sh->commits, 1);
}

static void one_op(struct worker *k)
{
	static void (*const ops[])(struct worker *) = {op_share, op_drop, op_repack, op_compact,
		op_commit, op_commit, op_commit, op_commit};
	uint64_t pick = below(k, 50);

	if (pick < sizeof(ops) / sizeof(ops[0]))
		ops[pick](k);
	else
		op_put(k);
}

static void work(const char *dir, struct shared *sh, uint64_t seed, enum how_killed how)
{
	static struct worker k;
	struct store_options opt = {.dir = dir, .memory_limit = LIMIT};
	char why[STORE_WHY];

	k.sh = sh;
	k.seed = seed;
	k.how = how;
	strcpy(k.w.dir, dir);
	CHECK(store_scratch_new(&k.w.x) == 0);
	int r = store_reopen(&k.w.s, &opt, why);
	if (r < 0)
		fprintf(stderr, "store_reopen: %d: %s\n", r, why);
	CHECK(r == 0);
	compare_all(&k);
	store_reopen_finish(k.w.s);
	compare_numbers(&k);
	atomic_fetch_add(&sh->checked, 1);
	atomic_store(&sh->verified, true);
	if (how == NOT_AT_ALL)
		_exit(0);
	for (unsigned n = 0, stop = (unsigned)below(&k, 60);; n++) {
		if (how == BY_STEPS && n == stop)
			stop_to_be_stepped();
		one_op(&k);
	}
}

/* ---- killing ---- */

static void pass_us(uint64_t us)
{
	struct timespec t = {.tv_nsec = (long)us * 1000};

	nanosleep(&t, NULL);
}

static void end(pid_t pid)
{
	int status;

	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* It stops by itself; then so many instructions. */
static void kill_after_steps(pid_t pid, uint64_t steps)
{
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
	for (uint64_t n = 0; n < steps; n++) {
		assert_int_equal(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);
	}
	end(pid);
}

static void one_round(const char *dir, struct shared *sh, uint64_t *seed, enum how_killed how)
{
	uint64_t its_seed = next_random(seed), when = next_random(seed);

	atomic_store(&sh->verified, false);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		work(dir, sh, its_seed, how);
	if (how == BY_STEPS) {
		/* Few or many, so that each scale gets its share. */
		kill_after_steps(pid, when % (UINT64_C(1) << (when >> 32) % 13));
		return;
	}
	if (how == NOT_AT_ALL) {
		int status;
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
		return;
	}
	while (how == AT_WORK && !atomic_load(&sh->verified)) {
		pass_us(50);
		int status;
		if (waitpid(pid, &status, WNOHANG) == pid)
			fail_msg("the worker ended: %x", (unsigned)status);
	}
	pass_us(when % 4000);
	end(pid);
}

static void who_comes_next_finds_all_that_was_committed(void **state)
{
	const char *given = getenv("SEED"), *more = getenv("ROUNDS");
	uint64_t seed = given ? strtoull(given, NULL, 10) : (uint64_t)time(NULL);
	unsigned rounds = more ? (unsigned)strtoul(more, NULL, 10) : 1500;
	char dir[64];

	(void)state;
	print_message("SEED=%llu\n", (unsigned long long)seed);
	struct shared *sh = mmap(
		NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(sh != MAP_FAILED);
	world_make_dir(dir);
	for (unsigned n = 0; n < rounds; n++)
		one_round(dir, sh, &seed, (enum how_killed)(n % 3));
	one_round(dir, sh, &seed, NOT_AT_ALL);
	print_message("%u killed, %u compared in all, %u commits, %u of them in doubt, "
		      "%u compactions, %u packed anew, %u refused\n",
		rounds, (unsigned)sh->checked, (unsigned)sh->commits, (unsigned)sh->in_doubt,
		(unsigned)sh->compactions, (unsigned)sh->repacked, (unsigned)sh->full);
	assert_true(sh->checked > rounds / 2 && sh->commits > rounds);
	assert_true(sh->compactions > rounds / 4 && sh->repacked > rounds && sh->full > 0);

	struct store_options opt = {.dir = dir};
	struct store *s;
	assert_int_equal(store_open(&s, &opt), 0);
	store_close(s);
	assert_int_equal(rmdir(dir), 0);
	munmap(sh, sizeof(*sh));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_comes_next_finds_all_that_was_committed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
