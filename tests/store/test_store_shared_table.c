/* Workers that share their descriptor table with a keeper, which outlives them: so the files,
 * and SQLite's locks on them, outlive them too. They are killed in the middle of transactions,
 * checkpoints and of reopening; other processes read the index all the while, as sqlite3 would.
 * No reader ever sees a torn or an older state, and no worker finds its index damaged.
 *
 * CLOSE_LATE=1 shows why store_reopen wants its files' descriptors closed before: then they are
 * closed after it, which takes the new worker's locks away, and it fails. */
#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "store_again.h"
#include "store_sql.h"

enum { LEAVES = 6, PAGES = 300, READERS = 3 };

struct shared {
	_Atomic uint64_t committed; /* that clock's commit has returned */
	_Atomic bool stop;
	_Atomic uint64_t reads, busy, closed, commits;
};

#define CHECK(x)                                                                               \
	do {                                                                                   \
		if (!(x)) {                                                                    \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);                \
			_exit(2);                                                              \
		}                                                                              \
	} while (0)

/* ---- a reader ---- */

/* false: somebody recovers just now. */
static bool read_once(sqlite3 *db, struct shared *sh, uint64_t *last)
{
	sqlite3_stmt *st = NULL;
	uint64_t least = atomic_load(&sh->committed);

	int rc = sqlite3_prepare_v2(db,
		"SELECT min(leaf.clock), max(leaf.clock), count(*), (SELECT clock FROM client),"
		" (SELECT count(*) FROM block) FROM leaf",
		-1, &st, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_step(st);
	if (rc == SQLITE_ROW) {
		uint64_t clock = (uint64_t)sqlite3_column_int64(st, 0);
		CHECK((uint64_t)sqlite3_column_int64(st, 1) == clock);
		CHECK(sqlite3_column_int(st, 2) == LEAVES);
		CHECK((uint64_t)sqlite3_column_int64(st, 3) == clock);
		CHECK(sqlite3_column_int(st, 4) == LEAVES);
		if (clock < least || clock < *last) {
			fprintf(stderr, "%llu after %llu, and %llu is committed\n",
				(unsigned long long)clock, (unsigned long long)*last,
				(unsigned long long)least);
			_exit(3);
		}
		*last = clock;
	} else if ((rc & 0xff) != SQLITE_BUSY && (rc & 0xff) != SQLITE_PROTOCOL) {
		fprintf(stderr, "a reader: %d %s\n", rc, sqlite3_errmsg(db));
		_exit(4);
	}
	sqlite3_finalize(st);
	return rc == SQLITE_ROW;
}

/* Reader 0 opens each time, 1 reads only, 2 stays for long. */
static void read_on(const char *dir, struct shared *sh, unsigned which)
{
	int flags = which == 1 ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE;
	char path[128];
	uint64_t last = 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL); /* when a check fails */
	snprintf(path, sizeof(path), "%s/index.db", dir);
	while (!atomic_load(&sh->stop)) {
		sqlite3 *db;
		CHECK(sqlite3_open_v2(path, &db, flags, NULL) == SQLITE_OK);
		for (unsigned n = which == 2 ? 100 : 1; n > 0; n--) {
			if (read_once(db, sh, &last))
				atomic_fetch_add(&sh->reads, 1);
			else
				atomic_fetch_add(&sh->busy, 1);
			usleep(200);
		}
		sqlite3_close(db);
	}
	_exit(0);
}

/* ---- a worker ---- */

static bool is_of(const struct store_file *file, int n, const struct stat *st)
{
	for (int i = 0; i < n; i++)
		if (file[i].device == st->st_dev && file[i].inode == st->st_ino)
			return true;
	return false;
}

/* What the worker before has left open: all but stdin, stdout and stderr. */
static void close_leaked(const char *dir, struct shared *sh, int keep_from)
{
	struct store_file file[STORE_FILES];
	int leaked[64], n = 0, files = store_files(dir, file);

	CHECK(files > 0);
	DIR *fds = opendir("/proc/self/fd");
	CHECK(fds != NULL);
	for (struct dirent *e; (e = readdir(fds)) != NULL;) {
		int fd = atoi(e->d_name);
		if (fd > 2 && fd != dirfd(fds) && fd < keep_from && n < 64)
			leaked[n++] = fd;
	}
	closedir(fds);
	while (n-- > 0) {
		struct stat st;
		/* It fails for a directory of a dead process in /proc. */
		if (fstat(leaked[n], &st) == 0 && is_of(file, files, &st))
			atomic_fetch_add(&sh->closed, 1);
		close(leaked[n]);
	}
}

static int note_clock(void *arg, const struct store_client *c)
{
	*(uint64_t *)arg = c->clock;
	return 0;
}

static void compare(struct world *w, struct shared *sh, uint64_t *ret_clock)
{
	uint64_t committed = atomic_load(&sh->committed), clock = 0;
	blob_t entries[STORE_LEAF_PAGES];
	char why[STORE_WHY];

	CHECK(store_each_client(w->s, note_clock, ret_clock, why) == 0);
	CHECK(*ret_clock == committed || *ret_clock == committed + 1);
	for (unsigned l = 0; l < LEAVES; l++) {
		CHECK(again_leaf(w, l + 1, &clock, entries) && clock == *ret_clock);
		CHECK(!store_is_lost(w->s, entries[(clock + l) % PAGES]));
	}
	atomic_store(&sh->committed, *ret_clock);
}

static void commit(struct world *w, struct shared *sh, uint64_t n, blob_t b, bool first)
{
	struct store_client c = {.id = 1, .pid = 1, .exe = "", .policy = "", .clock = n};
	blob_t entries[STORE_LEAF_PAGES] = {BLOB_NONE};

	int r;
	/* Busy while a reader who came upon the dead worker's log reads it anew. */
	while ((r = store_txn_begin(w->s)) == -EBUSY && !first)
		usleep(100);
	CHECK(r == 0 && store_index_client(w->s, &c) == 0);
	for (unsigned l = 0; l < LEAVES; l++) {
		for (unsigned i = 0; i < PAGES; i++)
			entries[i] = i % 3 && i != (n + l) % PAGES ? BLOB_NONE : b;
		CHECK(store_index_leaf(w->s, l + 1, n, entries) == 0);
		CHECK(store_index_block(w->s, 1, l, l + 1) == 0);
	}
	CHECK(store_txn_commit(w->s) == 0);
	atomic_store(&sh->committed, n);
	atomic_fetch_add(&sh->commits, 1);
}

static void work(const char *dir, struct shared *sh)
{
	bool late = getenv("CLOSE_LATE") != NULL;
	struct store_options opt = {.dir = dir};
	char why[STORE_WHY];
	uint64_t n = 0;
	struct world w;

	strcpy(w.dir, dir);
	int leaked_below = dup(0); /* what was open before is below this one, or closed */
	if (!late)
		close_leaked(dir, sh, INT32_MAX);
	int r = store_reopen(&w.s, &opt, why);
	if (r < 0)
		fprintf(stderr, "store_reopen: %d: %s\n", r, why);
	CHECK(r == 0);
	CHECK(store_scratch_new(&w.x) == 0);
	if (late)
		close_leaked(dir, sh, leaked_below);
	compare(&w, sh, &n);
	blob_t b = world_put(&w, PAGE_NOISE, n);
	store_reopen_finish(w.s);
	for (bool first = true;; first = false)
		commit(&w, sh, ++n, b, first);
}

/* ---- the keeper ---- */

/* A process with its own memory, and our descriptors. */
static pid_t start_worker(const char *dir, struct shared *sh)
{
	pid_t pid = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, NULL);

	assert_true(pid >= 0);
	if (pid == 0)
		work(dir, sh);
	return pid;
}

static void make_first(const char *dir, struct shared *sh)
{
	struct store_options opt = {.dir = dir};
	struct world w;
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		strcpy(w.dir, dir);
		CHECK(store_open(&w.s, &opt) == 0 && store_scratch_new(&w.x) == 0);
		commit(&w, sh, 1, world_put(&w, PAGE_NOISE, 1), false);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void end_readers(const pid_t reader[READERS], struct shared *sh)
{
	int status;

	atomic_store(&sh->stop, true);
	for (unsigned i = 0; i < READERS; i++) {
		assert_int_equal(waitpid(reader[i], &status, 0), reader[i]);
		assert_int_equal(status, 0);
	}
}

static void locks_of_the_dead_harm_nobody(void **state)
{
	const char *given = getenv("SEED"), *more = getenv("ROUNDS");
	uint64_t seed = given ? strtoull(given, NULL, 10) : (uint64_t)time(NULL);
	unsigned rounds = more ? (unsigned)strtoul(more, NULL, 10) : 800;
	pid_t reader[READERS];
	siginfo_t ended = {0};
	char dir[64];
	int status;

	(void)state;
	print_message("SEED=%llu\n", (unsigned long long)seed);
	struct shared *sh = mmap(
		NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(sh != MAP_FAILED);
	world_make_dir(dir);
	make_first(dir, sh);
	for (unsigned i = 0; i < READERS; i++) {
		reader[i] = fork();
		assert_true(reader[i] >= 0);
		if (reader[i] == 0)
			read_on(dir, sh, i);
	}
	for (unsigned n = 0; n < rounds; n++) {
		uint64_t before = atomic_load(&sh->commits);
		pid_t pid = start_worker(dir, sh);
		/* Anywhere, also in reopening; or at work. */
		while (n % 2 && atomic_load(&sh->commits) == before &&
			waitid(P_PID, (id_t)pid, &ended, WEXITED | WNOHANG | WNOWAIT) == 0 &&
			ended.si_pid == 0)
			usleep(50);
		usleep((useconds_t)(next_random(&seed) % (n % 2 ? 2000 : 8000)));
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	}
	while (atomic_load(&sh->reads) < rounds)
		usleep(1000);
	end_readers(reader, sh);
	print_message("%u killed, %u commits, %u descriptors closed, %u reads, %u busy\n",
		rounds, (unsigned)sh->commits, (unsigned)sh->closed, (unsigned)sh->reads,
		(unsigned)sh->busy);
	assert_true(sh->commits >= rounds / 2 && sh->closed >= rounds);

	close_leaked(dir, sh, INT32_MAX);
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
		cmocka_unit_test(locks_of_the_dead_harm_nobody),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
