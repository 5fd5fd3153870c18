/* Cases about what the service must leave alone or bring back first (DESIGN rules 2, 4, 7, 11).
 * All of the memory is out when each begins. */
#include "tidy.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE  103
#endif

enum { FIRST = 100, COUNT = 16, STACK = 64 };

static uint8_t *page_at(const struct tidy *t, size_t i)
{
	return t->memory + i * TIDY_PAGE;
}

static int pages_of_zeros(const uint8_t *at, size_t count)
{
	int zeros = 0;

	for (size_t i = 0; i < count; i++) {
		const uint8_t *p = at + i * TIDY_PAGE;
		zeros += p[0] == 0 && memcmp(p, p + 1, TIDY_PAGE - 1) == 0;
	}
	return zeros;
}

/* As the kernel says, without touching them. */
static int pages_present(uint8_t *at, size_t count)
{
	unsigned char here[TIDY_PAGES];
	int present = 0;

	if (mincore(at, count * TIDY_PAGE, here) < 0)
		return -1;
	for (size_t i = 0; i < count; i++)
		present += here[i] & 1;
	return present;
}

/* Calls fn for each mapping of /proc/self/smaps with its flags ("" as long as there are none).
 */
struct mapping {
	unsigned long start, end;
	char name[128], flags[256];
};
static void each_mapping(void (*fn)(void *arg, const struct mapping *m), void *arg)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	struct mapping m = {0};
	char line[512];

	while (f && fgets(line, sizeof(line), f)) {
		char name[128] = "";
		unsigned long start, end;
		/* Other lines may begin with a letter that is a digit, too. */
		if (sscanf(line, "%lx-%lx %*s %*s %*s %*s %127s", &start, &end, name) >= 2) {
			m.start = start;
			m.end = end;
			memcpy(m.name, name, sizeof(m.name));
		}
		if (sscanf(line, "VmFlags: %255[^\n]", m.flags) == 1)
			fn(arg, &m);
	}
	if (f)
		fclose(f);
}

struct asked {
	uintptr_t at;
	bool registered;
};

static void look_if_registered(void *arg, const struct mapping *m)
{
	struct asked *a = arg;

	if (m->start <= a->at && a->at < m->end)
		a->registered = strstr(m->flags, "um") != NULL;
}

static void say_registered(const char *when, const uint8_t *at)
{
	struct asked a = {.at = (uintptr_t)at};

	each_mapping(look_if_registered, &a);
	say("%s: %s", when, a.registered ? "registered" : "not registered");
}

/* Rule 7: a guard throws away what was there, and there is no event. */
int tidy_guard(struct tidy *t)
{
	if (madvise(page_at(t, FIRST), COUNT * TIDY_PAGE, MADV_GUARD_INSTALL) < 0)
		return skip("no MADV_GUARD_INSTALL");
	say_registered("guarded", page_at(t, FIRST));
	call_result("remove", madvise(page_at(t, FIRST), COUNT * TIDY_PAGE, MADV_GUARD_REMOVE));
	say("pages of zeros: %d", pages_of_zeros(page_at(t, FIRST), COUNT));
	memory_fill(t->memory);
	t->next = POINT_LEAVE; /* for the kernel it is a mapping with guards for good */
	return 0;
}

/* Rule 7: the child reads zeros there. */
int tidy_wipeonfork(struct tidy *t)
{
	int status;

	call_result("wipe", madvise(page_at(t, FIRST), COUNT * TIDY_PAGE, MADV_WIPEONFORK));
	pid_t child = fork();
	if (child == 0) {
		say("child: %d pages of zeros", pages_of_zeros(page_at(t, FIRST), COUNT));
		_exit(0);
	}
	waitpid(child, &status, 0);
	call_result("keep", madvise(page_at(t, FIRST), COUNT * TIDY_PAGE, MADV_KEEPONFORK));
	/* The child ended, but what it shared can't be taken before it is written to. */
	return status;
}

/* Rule 7: locked memory is there and stays there. */
int tidy_lock(struct tidy *t)
{
	uint8_t *one = page_at(t, FIRST), *two = page_at(t, FIRST + COUNT);

	call_result("mlock2", mlock2(two, COUNT * TIDY_PAGE, MLOCK_ONFAULT));
	say_registered("mlock2", two);
	say("present: %d", pages_present(two, COUNT));
	munlock(two, COUNT * TIDY_PAGE);
	point(POINT_TAKE);
	call_result("mlock", mlock(one, 2 * COUNT * TIDY_PAGE));
	say_registered("mlock", one);
	point(POINT_LEAVE);
	say("still: %d and %d", pages_present(one, COUNT), pages_present(two, COUNT));
	return munlock(one, 2 * COUNT * TIDY_PAGE);
}

/* The same for all that it has. */
int tidy_lock_all(struct tidy *t)
{
	call_result("mlockall", mlockall(MCL_CURRENT));
	say_registered("mlockall", t->memory);
	return munlockall();
}

/* ---- stacks ---- */

static void *wait_for_byte(void *arg)
{
	char byte;

	return read(*(int *)arg, &byte, 1) == 1 ? NULL : arg;
}

/* A thread whose stack is the end of this memory is there while an eviction is ordered. */
static int stack_in(uint8_t *memory)
{
	uint8_t *stack = memory + (TIDY_PAGES - STACK) * TIDY_PAGE;
	pthread_attr_t attr;
	pthread_t thread;
	void *bad;
	int pipes[2];

	memset(stack, 1, STACK * TIDY_PAGE);
	if (pipe(pipes) < 0 || pthread_attr_init(&attr) != 0 ||
		pthread_attr_setstack(&attr, stack, STACK * TIDY_PAGE) != 0 ||
		pthread_create(&thread, &attr, wait_for_byte, &pipes[0]) != 0)
		return 1;
	point(POINT_LEAVE);
	say("stack pages present: %d of %d", pages_present(stack, STACK), STACK);
	if (write(pipes[1], "x", 1) != 1 || pthread_join(thread, &bad) != 0)
		return 1;
	close(pipes[0]);
	close(pipes[1]);
	pthread_attr_destroy(&attr);
	return bad != NULL;
}

/* Rule 11: memory with a thread in it isn't taken. */
int tidy_stack(struct tidy *t)
{
	uint8_t *fresh = memory_new();
	int bad = stack_in(fresh);

	munmap(fresh, TIDY_BYTES);
	return bad || memory_check("beside it", t->memory);
}

static void *just_end(void *arg)
{
	return arg;
}

/* Rule 11: nor a stack that the C library keeps: its next thread may be there and gone before
 * anybody looks again. */
int tidy_stack_kept(struct tidy *t)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, just_end, NULL) != 0 ||
		pthread_join(thread, NULL) != 0)
		return 1;
	/* By glibc it is the control block's address. */
	uint8_t *block = (uint8_t *)((uintptr_t)thread & -(uintptr_t)TIDY_PAGE);
	point(POINT_LEAVE);
	say("control block present: %d", pages_present(block, 1));
	return memory_check("beside it", t->memory);
}

/* Rule 11: nor what was managed before and then became a stack. */
int tidy_stack_later(struct tidy *t)
{
	int bad = memory_check("before", t->memory) || stack_in(t->memory);

	memory_fill(t->memory);
	return bad;
}

/* ---- forks ---- */

struct sizes {
	int link, staging;
};

static void look_for_ours(void *arg, const struct mapping *m)
{
	struct sizes *s = arg;

	s->link += strstr(m->name, "larder-link") != NULL;
	s->staging += m->end - m->start == 2 << 20 && m->name[0] == '\0' &&
		      strstr(m->flags, "rd wr") != NULL;
}

/* Rule 2: neither staging nor the link goes to a child. Without libc, so that the child has no
 * agent of its own. */
int tidy_inherited(struct tidy *t)
{
	struct sizes s = {0};
	int status = 1;
	long child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);

	if (child == 0) {
		each_mapping(look_for_ours, &s);
		say("in the child: %d links, %d areas like staging", s.link, s.staging);
		_exit(0);
	}
	waitpid((pid_t)child, &status, 0);
	return status || memory_check("parent", t->memory);
}

/* ---- discards ---- */

static void *spin(void *arg)
{
	const atomic_bool *stop = arg;

	while (!atomic_load_explicit(stop, memory_order_relaxed))
		;
	return NULL;
}

/* Rule 4: what was discarded and is still there isn't taken while a thread runs that may be in
 * the call. MADV_FREE leaves its pages there. */
int tidy_freed(struct tidy *t)
{
	atomic_bool stop = false;
	pthread_t thread;
	int bad = memory_check("before", t->memory);

	if (pthread_create(&thread, NULL, spin, &stop) != 0)
		return 1;
	call_result("free", madvise(page_at(t, FIRST), COUNT * TIDY_PAGE, MADV_FREE));
	point(POINT_LEAVE);
	say("present: %d", pages_present(page_at(t, FIRST), COUNT));
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
	memory_fill(t->memory);
	return bad;
}
