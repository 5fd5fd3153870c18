/* maps_process_refusal on real processes. */
#include "kernel.h"
#include "maps.h"
#include "maps_help.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SLOT_CHILD, SLOT_TRIED };

static const char *refusal_of(const struct specimen *s, pid_t agent)
{
	const char *text = "untouched";

	assert_int_equal(maps_process_refusal(s->procdir, s->pid, agent, &text), 0);
	return text;
}

static void *sleeper(void *arg)
{
	for (;;)
		pause();
	return arg;
}

static bool as_ordinary(struct board *b)
{
	pthread_t t;

	(void)b;
	return pthread_create(&t, NULL, sleeper, NULL) == 0;
}

static void ordinary(void **state)
{
	(void)state;
	struct specimen s;

	specimen_start(&s, as_ordinary);
	assert_null(refusal_of(&s, 0));
	specimen_end(&s);
}

static bool as_forked(struct board *b)
{
	(void)b;
	pid_t child = fork();
	if (child == 0)
		sleeper(NULL);
	return child > 0;
}

/* A child with a copy of the memory is no reason. */
static void has_forked_child(void **state)
{
	(void)state;
	struct specimen s;

	specimen_start(&s, as_forked);
	assert_null(refusal_of(&s, 0));
	specimen_end(&s);
}

/* Not the first thread but another is real-time. */
static void *real_time_thread(void *arg)
{
	struct board *b = arg;
	struct sched_param param = {.sched_priority = 1};

	if (sched_setscheduler(0, (int)b->at[SLOT_TRIED], &param) < 0)
		b->error[SLOT_TRIED] = errno;
	b->note = 1;
	return sleeper(NULL);
}

static bool as_real_time(struct board *b, int policy)
{
	pthread_t t;

	b->at[SLOT_TRIED] = (uint64_t)policy;
	if (pthread_create(&t, NULL, real_time_thread, b) != 0)
		return false;
	while (b->note == 0)
		sched_yield();
	return true;
}

static bool as_fifo(struct board *b)
{
	return as_real_time(b, SCHED_FIFO);
}

static bool as_rr_reset(struct board *b)
{
	return as_real_time(b, SCHED_RR | SCHED_RESET_ON_FORK);
}

static bool as_batch(struct board *b)
{
	pthread_t t;
	struct sched_param param = {0};

	return sched_setscheduler(0, SCHED_BATCH, &param) == 0 &&
	       pthread_create(&t, NULL, sleeper, b) == 0;
}

static void real_time(void **state)
{
	bool (*const setups[])(struct board *) = {as_fifo, as_rr_reset};

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		struct specimen s;
		specimen_start(&s, setups[i]);
		if (s.board->error[SLOT_TRIED] != 0)
			skip_program("real-time scheduling isn't allowed here");
		assert_non_null(refusal_of(&s, 0));
		assert_non_null(strstr(refusal_of(&s, 0), "real-time"));
		specimen_end(&s);
	}
}

static void batch_is_fine(void **state)
{
	(void)state;
	struct specimen s;

	specimen_start(&s, as_batch);
	assert_null(refusal_of(&s, 0));
	specimen_end(&s);
}

static bool with_userfaultfd(struct board *b)
{
	if (syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY) < 0)
		b->error[SLOT_TRIED] = errno;
	return true;
}

static void userfaultfd_of_its_own(void **state)
{
	(void)state;
	struct specimen s;

	specimen_start(&s, with_userfaultfd);
	if (s.board->error[SLOT_TRIED] != 0)
		skip_program("userfaultfd(2) isn't allowed here");
	assert_non_null(refusal_of(&s, 0));
	assert_non_null(strstr(refusal_of(&s, 0), "userfaultfd"));
	specimen_end(&s);
}

/* Descriptors whose names are nearly that. */
static bool with_other_descriptors(struct board *b)
{
	(void)b;
	return memfd_create("anon_inode:[userfaultfd]", MFD_CLOEXEC) >= 0;
}

static void other_descriptors(void **state)
{
	(void)state;
	struct specimen s;

	specimen_start(&s, with_other_descriptors);
	assert_null(refusal_of(&s, 0));
	specimen_end(&s);
}

static int sharing_child(void *arg)
{
	sleeper(arg);
	return 0;
}

static bool clone_sharer(struct board *b, size_t slot)
{
	size_t size = 65536;
	char *stack =
		mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (stack == MAP_FAILED)
		return false;
	int pid = clone(sharing_child, stack + size, CLONE_VM, NULL);
	b->at[slot] = (uint64_t)pid;
	return pid > 0;
}

static bool with_sharer(struct board *b)
{
	return clone_sharer(b, SLOT_CHILD);
}

/* As an agent: the one that is known doesn't count, any other does. */
static void shares_with_child(void **state)
{
	(void)state;
	struct specimen s;

	specimen_start(&s, with_sharer);
	pid_t child = (pid_t)s.board->at[SLOT_CHILD];
	assert_non_null(refusal_of(&s, 0));
	assert_non_null(strstr(refusal_of(&s, 0), "shares"));
	assert_non_null(refusal_of(&s, child + 1));
	assert_null(refusal_of(&s, child));
	specimen_end(&s);
}

/* In vfork for good: the child waits, sharing the memory. */
static void *vforking_thread(void *arg)
{
	struct board *b = arg;

	pid_t child = vfork();
	if (child == 0) {
		b->note = 1;
		for (;;)
			pause();
	}
	return NULL;
}

static bool with_vfork(struct board *b)
{
	pthread_t t;

	return pthread_create(&t, NULL, vforking_thread, b) == 0;
}

static bool is_in_vfork(void *arg)
{
	struct specimen *s = arg;
	return s->board->note != 0;
}

static bool is_unrefused(void *arg)
{
	return refusal_of(arg, 0) == NULL;
}

static bool with_sharer_and_vfork(struct board *b)
{
	return with_sharer(b) && with_vfork(b);
}

static void vfork_until_exec(void **state)
{
	(void)state;
	struct specimen s;

	specimen_start(&s, with_vfork);
	wait_until(is_in_vfork, &s);
	wait_until(is_unrefused, &s); /* the parent may still be on its way to its wait */
	specimen_end(&s);
}

/* A sharer beside a vfork child is still one. */
static void vfork_hides_nobody(void **state)
{
	(void)state;
	struct specimen s;

	specimen_start(&s, with_sharer_and_vfork);
	wait_until(is_in_vfork, &s);
	for (unsigned i = 0; i < 100; i++)
		assert_non_null(refusal_of(&s, 0));
	specimen_end(&s);
}

/* By text: we are the thread, and "our child" is ourselves where it is to share the memory. */
static const struct children_case {
	const char *children; /* S: one that shares; O: another process */
	long call;	      /* that the thread is in */
	uint64_t first;
	int result;
	bool refused;
} children_cases[] = {
	{"", SYS_read, 0, 0, false},
	{"O ", SYS_read, 0, 0, false},
	{"S ", SYS_read, 0, 0, true},
	{"O S ", SYS_read, 0, 0, true},
	{"S O ", SYS_read, 0, 0, true},
	{"S ", SYS_clone, CLONE_VM | CLONE_VFORK, 0, false},
	{"S ", SYS_clone, CLONE_VM, 0, true},
	{"S ", SYS_clone3, 0, 0, false},
	{"O S ", SYS_clone3, 0, 0, false},
	{"S S ", SYS_clone3, 0, 0, true},
	{"S O ", SYS_clone3, 0, 0, true}, /* the newest is no vfork child, so S isn't either */
	{"x", SYS_read, 0, -EBADMSG, false},
	{"S  S ", SYS_read, 0, -EBADMSG, false},
	{"99999999999999999999 ", SYS_read, 0, -EBADMSG, false},
	{"0 ", SYS_read, 0, -EBADMSG, false},
};

static void write_children(struct fake_proc *f, const struct children_case *c)
{
	char name[64], text[256] = "";

	for (const char *at = c->children; *at; at++) {
		char piece[16] = {*at};
		if (*at == 'S')
			snprintf(piece, sizeof(piece), "%d", (int)getpid());
		else if (*at == 'O')
			snprintf(piece, sizeof(piece), "%d", (int)getppid());
		strcat(text, piece);
	}
	snprintf(name, sizeof(name), "task/%d/children", (int)getpid());
	fake_proc_write(f, name, text);
	snprintf(text, sizeof(text), "%ld 0x%llx 0x0 0x0 0x0 0x0 0x0 0x7ffd1000 0x7f1000\n",
		c->call, (unsigned long long)c->first);
	snprintf(name, sizeof(name), "task/%d/syscall", (int)getpid());
	fake_proc_write(f, name, text);
	snprintf(name, sizeof(name), "task/%d/fd/none", (int)getpid());
	fake_proc_write(f, name, "");
}

static void children_by_text(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(children_cases) / sizeof(children_cases[0]); i++) {
		const struct children_case *c = &children_cases[i];
		const char *untouched = "untouched", *text = untouched;
		struct fake_proc f;

		fake_proc_init(&f);
		write_children(&f, c);
		int r = maps_process_refusal(f.fd, getpid(), 0, &text);
		fake_proc_done(&f);
		if (r != c->result ||
			(r < 0 ? text != untouched : (text != NULL) != c->refused))
			fail_msg("case %zu, \"%s\": %d, %s", i, c->children, r,
				text ? text : "no refusal");
	}
}

static void is_gone(void **state)
{
	(void)state;
	const char *text = "untouched";
	struct fake_proc f;

	fake_proc_init(&f);
	assert_int_equal(maps_process_refusal(f.fd, getpid(), 0, &text), -ESRCH);
	assert_string_equal(text, "untouched");
	fake_proc_done(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ordinary),
		cmocka_unit_test(has_forked_child),
		cmocka_unit_test(batch_is_fine),
		cmocka_unit_test(other_descriptors),
		cmocka_unit_test(children_by_text),
		cmocka_unit_test(is_gone),
		cmocka_unit_test(shares_with_child),
		cmocka_unit_test(vfork_until_exec),
		cmocka_unit_test(vfork_hides_nobody),
		cmocka_unit_test(userfaultfd_of_its_own),
		cmocka_unit_test(real_time),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
