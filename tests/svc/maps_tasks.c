/* Where threads have their stacks, and whether one may be inside a call that changes the
 * memory: on texts, and on real threads. */
#include "kernel.h"
#include "maps.h"
#include "maps_help.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define STRING(x) #x
#define NUMBER(x) STRING(x)
#define CALL_REST " 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffd1000 0x7f0000001234\n"
#define GONE_TID  "2147483646" /* above any pid_max, so that the kernel knows no such thread */
#define OTHER_TID "2147483647"
#define POLL	  NUMBER(SYS_ppoll) CALL_REST

static const struct text_case {
	const char *text;
	bool quiet;
	uint64_t sp; /* 0: none is known */
} text_cases[] = {
	{POLL, true, 0x7ffd1000},
	{"-1 0x7ffd2000 0x7f0000001234\n", true, 0x7ffd2000},
	{"-1 0x0 0x0\n", true, 0}, /* exiting */
	{"0" CALL_REST, true, 0x7ffd1000},
	{"running\n", false, 0},
	{NUMBER(SYS_madvise) CALL_REST, false, 0x7ffd1000},
	{NUMBER(SYS_munmap) CALL_REST, false, 0x7ffd1000},
	{NUMBER(SYS_mmap) CALL_REST, false, 0x7ffd1000},
	{NUMBER(SYS_mremap) CALL_REST, false, 0x7ffd1000},
	{NUMBER(SYS_brk) CALL_REST, false, 0x7ffd1000},
	{"440" CALL_REST, false, 0x7ffd1000},
	/* a worker of io_uring */
	{NUMBER(SYS_io_uring_enter) " 0x1 0x2 0x3 0x4 0x5 0x6 0x0 0x0\n", false, 0},
};

/* The first look. */
static int look_once(int procdir, bool *ret)
{
	struct maps_quiet q = {.count = 0};
	int r = maps_quiet_look(procdir, &q, ret);

	maps_quiet_done(&q);
	return r;
}

static void quiet_by_text(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(text_cases) / sizeof(text_cases[0]); i++) {
		struct fake_proc f;
		bool quiet = !text_cases[i].quiet;

		fake_proc_init(&f);
		fake_proc_write(&f, "task/" GONE_TID "/syscall", POLL);
		fake_proc_write(&f, "task/" OTHER_TID "/syscall", text_cases[i].text);
		assert_int_equal(look_once(f.fd, &quiet), 0);
		fake_proc_done(&f);
		if (quiet != text_cases[i].quiet)
			fail_msg("%s: quiet is %d", text_cases[i].text, quiet);
	}
}

static void addresses_by_text(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(text_cases) / sizeof(text_cases[0]); i++) {
		struct fake_proc f;
		uint64_t at[4];
		size_t count = 99;

		fake_proc_init(&f);
		fake_proc_write(&f, "task/" GONE_TID "/syscall", text_cases[i].text);
		assert_int_equal(maps_thread_addresses(f.fd, at, 4, &count), 0);
		fake_proc_done(&f);
		assert_int_equal(count, text_cases[i].sp != 0);
		if (count)
			assert_int_equal(at[0], text_cases[i].sp);
	}
}

static const char *const odd_texts[] = {"", "\n", "runnin", "x\n", "28", "28\n", "28 0x1 0x2\n",
	"-1\n", "-1 0x1\n", "-1 0x1 0x2 0x3\n", POLL "x",
	"7 0x1 0x2 0x3 0x4 0x5 0x6 0x7 0x8 0x9\n", "7 0x1 0x2 0x3 0x4 0x5 0x6 0x7 zz\n",
	"7  0x1\n"};

static void odd_text_is_not_quiet(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(odd_texts) / sizeof(odd_texts[0]); i++) {
		struct fake_proc f;
		uint64_t at[4];
		size_t count = 99;
		bool quiet = true;

		fake_proc_init(&f);
		fake_proc_write(&f, "task/" GONE_TID "/syscall", odd_texts[i]);
		assert_int_equal(look_once(f.fd, &quiet), 0);
		if (quiet)
			fail_msg("\"%s\" is quiet", odd_texts[i]);
		assert_int_equal(maps_thread_addresses(f.fd, at, 4, &count), -EBADMSG);
		assert_int_equal(count, 99);
		fake_proc_done(&f);
	}
}

/* A thread that ends between the listing and the look may have hidden others. */
static void vanished_thread_is_not_quiet(void **state)
{
	(void)state;
	struct fake_proc f;
	uint64_t at[4];
	size_t count = 99;
	bool quiet = true;

	fake_proc_init(&f);
	fake_proc_write(&f, "task/" OTHER_TID "/syscall", POLL);
	fake_proc_write(&f, "task/" GONE_TID "/other", "");
	assert_int_equal(look_once(f.fd, &quiet), 0);
	assert_false(quiet);
	assert_int_equal(maps_thread_addresses(f.fd, at, 4, &count), -EAGAIN);
	assert_int_equal(count, 99);
	fake_proc_done(&f);
}

/* Fewer threads listed than the kernel counts: the listing ended early. (Folders are counted as
 * threads are, where the file system has link counts.) */
static void short_list_is_not_quiet(void **state)
{
	(void)state;
	struct fake_proc f;
	struct stat st;
	bool quiet = true;

	fake_proc_init(&f);
	fake_proc_write(&f, "task/" GONE_TID "/syscall", POLL);
	fake_proc_write(&f, "task/uncounted/file", "");
	assert_int_equal(fstatat(f.fd, "task", &st, 0), 0);
	assert_int_equal(look_once(f.fd, &quiet), 0);
	assert_int_equal(quiet, st.st_nlink < 4);
	fake_proc_done(&f);
}

static bool look_again(const struct fake_proc *f, struct maps_quiet *q)
{
	bool quiet;

	assert_int_equal(maps_quiet_look(f->fd, q, &quiet), 0);
	return quiet;
}

#define IN_MADVISE NUMBER(SYS_madvise) CALL_REST

/* On a busy machine hardly ever all at the same moment. */
static void threads_are_seen_outside_one_by_one(void **state)
{
	(void)state;
	struct fake_proc f;
	struct maps_quiet q = {.count = 0};

	fake_proc_init(&f);
	fake_proc_write(&f, "task/" GONE_TID "/syscall", POLL);
	fake_proc_write(&f, "task/" OTHER_TID "/syscall", "running\n");
	assert_false(look_again(&f, &q));
	fake_proc_write(&f, "task/" GONE_TID "/syscall", "running\n");
	fake_proc_write(&f, "task/" OTHER_TID "/syscall", IN_MADVISE);
	assert_false(look_again(&f, &q));
	fake_proc_write(&f, "task/" OTHER_TID "/syscall", POLL);
	assert_true(look_again(&f, &q));
	assert_true(look_again(&f, &q));
	maps_quiet_again(&q);
	assert_false(look_again(&f, &q));
	fake_proc_write(&f, "task/" GONE_TID "/syscall", POLL);
	assert_true(look_again(&f, &q));
	maps_quiet_done(&q);
	fake_proc_done(&f);
}

static void threads_that_began_later_do_not_count(void **state)
{
	(void)state;
	struct fake_proc f;
	struct maps_quiet q = {.count = 0};

	fake_proc_init(&f);
	fake_proc_write(&f, "task/" GONE_TID "/syscall", IN_MADVISE);
	assert_false(look_again(&f, &q));
	fake_proc_write(&f, "task/" OTHER_TID "/syscall", IN_MADVISE);
	fake_proc_write(&f, "task/" GONE_TID "/syscall", POLL);
	assert_true(look_again(&f, &q));
	maps_quiet_done(&q);
	fake_proc_done(&f);
}

/* Nor those that have ended. But until all were met, nobody is known to be outside. */
static void the_first_look_meets_all(void **state)
{
	(void)state;
	struct fake_proc f;
	struct maps_quiet q = {.count = 0};
	char gone[128];

	fake_proc_init(&f);
	fake_proc_write(&f, "task/" GONE_TID "/other", "");
	assert_false(look_again(&f, &q));
	fake_proc_write(&f, "task/" GONE_TID "/syscall", "running\n");
	assert_false(look_again(&f, &q));
	snprintf(gone, sizeof(gone), "%s/task/" GONE_TID "/syscall", f.path);
	assert_int_equal(unlink(gone), 0);
	assert_true(look_again(&f, &q));
	maps_quiet_done(&q);
	fake_proc_done(&f);
}

static void no_threads_left(void **state)
{
	(void)state;
	struct fake_proc f;
	uint64_t at[4];
	size_t count = 99;
	bool quiet = true;

	fake_proc_init(&f);
	assert_int_equal(look_once(f.fd, &quiet), -ESRCH);
	assert_true(quiet); /* untouched */
	assert_int_equal(maps_thread_addresses(f.fd, at, 4, &count), -ESRCH);
	assert_int_equal(count, 99);
	fake_proc_done(&f);
}

/* ---- real threads ---- */

enum { THREADS = 3 };

static struct board *threads_board; /* in the specimen only */

static void *blocked_thread(void *arg)
{
	char here;
	int nothing[2];
	volatile char *volatile p = &here;

	threads_board->at[(size_t)(uintptr_t)arg] = (uintptr_t)p;
	if (pipe(nothing) < 0)
		_exit(1);
	threads_board->note++;
	return read(nothing[0], &here, 1) ? NULL : arg;
}

static bool start_thread(struct board *b, size_t slot, void *(*main_of_it)(void *))
{
	pthread_t t;

	threads_board = b;
	return pthread_create(&t, NULL, main_of_it, (void *)(uintptr_t)slot) == 0;
}

static bool with_threads(struct board *b)
{
	char here;
	volatile char *volatile p = &here;

	for (size_t i = 0; i < THREADS; i++)
		if (!start_thread(b, i, blocked_thread))
			return false;
	while (b->note < THREADS)
		;
	b->at[THREADS] = (uintptr_t)p;
	b->at[THREADS + 1] = (uintptr_t)pthread_self();
	return true;
}

static bool is_quiet(void *arg)
{
	const struct specimen *s = arg;
	bool quiet = false;

	assert_int_equal(look_once(s->procdir, &quiet), 0);
	return quiet;
}

struct look_up {
	uint64_t address;
	struct map found;
};

static int look_up(void *arg, const struct map *m)
{
	struct look_up *l = arg;

	if (m->start <= l->address && l->address < m->end)
		l->found = *m;
	return 0;
}

/* Is one of the addresses in the same mapping as `wanted`? */
static bool is_covered(
	const struct specimen *s, uint64_t wanted, const uint64_t *at, size_t count)
{
	struct look_up l = {.address = wanted};

	assert_int_equal(maps_read(s->procdir, 0, look_up, &l), 0);
	assert_true(l.found.start != 0);
	for (size_t i = 0; i < count; i++)
		if (l.found.start <= at[i] && at[i] < l.found.end)
			return true;
	return false;
}

static void stacks_of_threads(void **state)
{
	(void)state;
	struct specimen s;
	uint64_t at[64];
	size_t count = 0;

	specimen_start(&s, with_threads);
	wait_until(is_quiet, &s);
	assert_int_equal(maps_thread_addresses(s.procdir, at, 64, &count), 0);
	assert_int_equal(count, 2 * (THREADS + 1)); /* list head and stack pointer of each */
	for (size_t i = 0; i < THREADS + 2; i++)
		assert_true(is_covered(&s, s.board->at[i], at, count));

	size_t untouched = 99;
	assert_int_equal(maps_thread_addresses(s.procdir, at, count - 1, &untouched), -E2BIG);
	assert_int_equal(untouched, 99);
	assert_int_equal(maps_thread_addresses(s.procdir, at, count, &untouched), 0);
	assert_int_equal(untouched, count);
	specimen_end(&s);
}

static void *spinning_thread(void *arg)
{
	char here;
	volatile char *volatile p = &here;

	threads_board->at[(size_t)(uintptr_t)arg] = (uintptr_t)p;
	for (threads_board->note = 1; threads_board->note;)
		;
	return NULL;
}

static bool with_spinner(struct board *b)
{
	if (!start_thread(b, 0, spinning_thread))
		return false;
	while (b->note == 0)
		;
	return true;
}

/* The stack pointer of a running thread isn't to be had; its control block tells. */
static void running_thread(void **state)
{
	(void)state;
	struct specimen s;
	uint64_t at[64];
	size_t count = 0;

	specimen_start(&s, with_spinner);
	for (unsigned i = 0; i < 1000; i++)
		assert_false(is_quiet(&s));
	assert_int_equal(maps_thread_addresses(s.procdir, at, 64, &count), 0);
	assert_true(is_covered(&s, s.board->at[0], at, count));
	specimen_end(&s);
}

/* Blocks for good: nobody reads the event of it. */
static void *discarding_thread(void *arg)
{
	threads_board->note = 1;
	madvise(arg, 4096, MADV_DONTNEED);
	return NULL;
}

static bool with_discard(struct board *b)
{
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE};
	char *p = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_register reg = {
		.range = {(uintptr_t)p, 65536}, .mode = UFFDIO_REGISTER_MODE_MISSING};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	pthread_t t;

	threads_board = b;
	if (p == MAP_FAILED)
		return false;
	memset(p, 1, 65536);
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0 || ioctl(fd, UFFDIO_REGISTER, &reg) < 0) {
		b->error[0] = errno;
		return true;
	}
	return pthread_create(&t, NULL, discarding_thread, p) == 0;
}

static bool is_madvise(const char *call)
{
	return strncmp(call, NUMBER(SYS_madvise) " ", strlen(NUMBER(SYS_madvise) " ")) == 0;
}

static bool stands_in_madvise(void *arg)
{
	return specimen_tasks(arg, "syscall", is_madvise);
}

static void thread_within_madvise(void **state)
{
	(void)state;
	struct specimen s;

	specimen_start(&s, with_discard);
	if (s.board->error[0] != 0)
		skip_program("userfaultfd(2) isn't allowed here");
	wait_until(stands_in_madvise, &s);
	for (unsigned i = 0; i < 1000; i++)
		assert_false(is_quiet(&s));
	specimen_end(&s);
}

static void *lasting_thread(void *arg)
{
	threads_board->note = 1;
	for (;;)
		pause();
	return arg;
}

/* The first thread ends; the other goes on. */
static bool with_dead_leader(struct board *b)
{
	char byte = 0;

	if (!start_thread(b, 0, lasting_thread) || write(b->ready, &byte, 1) != 1)
		return false;
	syscall(SYS_exit, 0);
	return false;
}

static bool has_note(void *arg)
{
	const struct specimen *s = arg;
	return s->board->note != 0 && is_quiet(arg);
}

static void dead_leader(void **state)
{
	(void)state;
	struct specimen s;
	uint64_t at[64];
	size_t count = 0;

	specimen_start(&s, with_dead_leader);
	wait_until(has_note, &s);
	assert_int_equal(maps_thread_addresses(s.procdir, at, 64, &count), 0);
	assert_true(count >= 2);
	specimen_end(&s);
}

/* Threads come and go: an answer is given, and never another error. */
static void *says_where_it_is(void *arg)
{
	int *pipes = arg;
	uintptr_t self = (uintptr_t)pthread_self();
	char byte;

	if (write(pipes[1], &self, sizeof(self)) != sizeof(self) ||
		read(pipes[2], &byte, 1) != 1)
		return arg;
	return NULL;
}

static bool has_block(const struct maps_threads *t, uintptr_t self)
{
	for (size_t i = 0; i < t->count; i++)
		if (t->thread[i].block >= self && t->thread[i].block < self + 4096)
			return true;
	return false;
}

/* Ours, so nobody else begins one. */
static void a_thread_begins_between_two_looks(void **state)
{
	struct maps_threads t = {.count = 0};
	int procdir = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC), pipes[4];
	pthread_t thread;
	uintptr_t self;
	void *bad;

	(void)state;
	assert_int_equal(pipe(pipes) | pipe(pipes + 2), 0);
	assert_int_equal(maps_threads_look(procdir, &t), 0);
	assert_int_equal(t.count, 1);
	assert_int_equal(maps_threads_look(procdir, &t), 0);
	assert_false(t.unclear); /* what has no control block is unclear when it is new */
	assert_int_equal(pthread_create(&thread, NULL, says_where_it_is, pipes), 0);
	assert_int_equal(read(pipes[0], &self, sizeof(self)), sizeof(self));
	assert_false(has_block(&t, self));
	assert_int_equal(maps_threads_look(procdir, &t), 0);
	assert_int_equal(t.count, 2);
	assert_true(has_block(&t, self));
	assert_int_equal(write(pipes[3], "x", 1), 1);
	assert_int_equal(pthread_join(thread, &bad), 0);
	assert_null(bad);
	assert_int_equal(maps_threads_look(procdir, &t), 0);
	assert_int_equal(t.count, 1);
	maps_threads_done(&t);
	for (unsigned i = 0; i < 4; i++)
		close(pipes[i]);
	close(procdir);
}

static void *short_thread(void *arg)
{
	return arg;
}

static void *churning_thread(void *arg)
{
	threads_board->note = 1;
	for (;;) {
		pthread_t t;
		if (pthread_create(&t, NULL, short_thread, arg) == 0)
			pthread_join(t, NULL);
	}
	return NULL;
}

static bool with_churn(struct board *b)
{
	return start_thread(b, 0, churning_thread);
}

static void threads_come_and_go(void **state)
{
	(void)state;
	struct specimen s;
	uint64_t at[64];
	size_t count, complete = 0;

	specimen_start(&s, with_churn);
	for (unsigned i = 0; i < 3000; i++) {
		is_quiet(&s);
		int r = maps_thread_addresses(s.procdir, at, 64, &count);
		assert_true(r == 0 || r == -EAGAIN);
		complete += r == 0;
	}
	assert_true(complete > 0);
	specimen_end(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(quiet_by_text),
		cmocka_unit_test(addresses_by_text),
		cmocka_unit_test(odd_text_is_not_quiet),
		cmocka_unit_test(vanished_thread_is_not_quiet),
		cmocka_unit_test(short_list_is_not_quiet),
		cmocka_unit_test(threads_are_seen_outside_one_by_one),
		cmocka_unit_test(threads_that_began_later_do_not_count),
		cmocka_unit_test(the_first_look_meets_all),
		cmocka_unit_test(no_threads_left),
		cmocka_unit_test(stacks_of_threads),
		cmocka_unit_test(running_thread),
		cmocka_unit_test(a_thread_begins_between_two_looks),
		cmocka_unit_test(dead_leader),
		cmocka_unit_test(threads_come_and_go),
		cmocka_unit_test(thread_within_madvise),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
