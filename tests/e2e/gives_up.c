/* A program whose forked child has an agent that gives up, when much of it is out:
 *
 *   gives_up guard-early|guard|wipe|lock
 *
 * Says "ready" and waits for a line. Its child keeps its agent from going on (a call that never
 * ends), and then makes calls of which the kernel tells nobody, when there is no link any more
 * or, early, while there is one that nobody will answer at. Its memory is registered as ever.
 * Prints "good", or what was wrong. */
#include "kernel.h"
#include "shim_page.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MADV_GUARD_REMOVE
#define MADV_GUARD_REMOVE 103
#endif

enum {
	PAGES = 512,
	SIZE = PAGES * LINK_PAGE,
	/* Guarded, after others that are read one by one: what comes next is brought, too. */
	FIRST = 100,
	COUNT = 100,
	HANGS_S = 60,
};

static struct shim_page *page;
static uint8_t *memory;

static void die(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	fflush(stdout);
	_exit(1);
}

static void write_all(void)
{
	for (size_t i = 0; i < PAGES; i++)
		memset(memory + i * LINK_PAGE, (int)(i % 251 + 1), LINK_PAGE);
}

static void check(const uint8_t *at, size_t from, size_t to)
{
	for (size_t i = from; i < to; i++)
		if (at[i * LINK_PAGE] != i % 251 + 1)
			die("a page lost its bytes");
}

static void check_zeros(size_t from, size_t to)
{
	for (size_t i = from; i < to; i++)
		if (memory[i * LINK_PAGE] != 0)
			die("old bytes came back");
}

/* Else nothing is shown. */
static void check_out(void)
{
	unsigned char here[PAGES];

	if (mincore(memory, SIZE, here) < 0)
		die("mincore");
	for (size_t i = 0; i < PAGES; i++)
		if (here[i])
			die("it isn't out");
}

static bool is_guarded(const uint8_t *at)
{
	int ends[2];

	if (pipe(ends) < 0)
		die("pipe");
	bool is = write(ends[1], at, 1) < 0 && errno == EFAULT;
	close(ends[0]);
	close(ends[1]);
	return is;
}

static void guard(void)
{
	if (madvise(memory + FIRST * LINK_PAGE, COUNT * LINK_PAGE, MADV_GUARD_INSTALL) < 0)
		die("guard");
	check(memory, 0, FIRST);
	check(memory, FIRST + COUNT, PAGES);
	for (size_t i = FIRST; i < FIRST + COUNT; i++)
		if (!is_guarded(memory + i * LINK_PAGE))
			die("a guard is gone");
	if (madvise(memory + FIRST * LINK_PAGE, COUNT * LINK_PAGE, MADV_GUARD_REMOVE) < 0)
		die("no guard");
	check_zeros(FIRST, FIRST + COUNT);
}

static void wipe(void)
{
	int status;

	if (madvise(memory, SIZE, MADV_WIPEONFORK) < 0)
		die("wipe");
	pid_t pid = fork();
	if (pid == 0) {
		check_zeros(0, PAGES);
		_exit(0);
	}
	if (waitpid(pid, &status, 0) != pid || status != 0)
		die("a grandchild failed");
	check(memory, 0, PAGES);
}

/* It can't grow where it is: what lies behind it is mapped. */
static void lock(void)
{
	if (mlock(memory, SIZE) < 0)
		die("mlock");
	uint8_t *moved = mremap(memory, SIZE, 2 * SIZE, MREMAP_MAYMOVE);
	if (moved == MAP_FAILED)
		die("mremap");
	check(moved, 0, PAGES);
}

static void wait_link(void)
{
	while (!atomic_load(&page->link))
		sched_yield();
}

static void wait_end(void)
{
	wait_link();
	while (!atomic_load(&page->link->head.closed) || has_agent())
		usleep(1000);
}

static const struct {
	const char *name;
	void (*wait)(void), (*act)(void);
} cases[] = {
	{"guard-early", wait_link, guard},
	{"guard", wait_end, guard},
	{"wipe", wait_end, wipe},
	{"lock", wait_end, lock},
};

static int be_child(const char *name)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	alarm(HANGS_S);
	atomic_fetch_add(&page->calls, 1);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (strcmp(cases[i].name, name) != 0)
			continue;
		cases[i].wait();
		check_out();
		cases[i].act();
		if (!atomic_load(&page->link->head.closed))
			die("its agent didn't give up");
		return 0;
	}
	return 2;
}

int main(int argc, char **argv)
{
	int status;

	if (argc != 2)
		return 2;
	page = find_page();
	if (!page)
		die("not taken over");
	memory = mmap(NULL, 4 * SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		die("mmap");
	memory = (uint8_t *)(((uintptr_t)memory + SIZE - 1) & ~(uintptr_t)(SIZE - 1));
	if (mprotect(memory, SIZE, PROT_READ | PROT_WRITE) < 0)
		die("mprotect");
	write_all();
	puts("ready");
	fflush(stdout);
	if (getchar() == EOF)
		return 2;
	pid_t pid = fork();
	if (pid == 0)
		_exit(be_child(argv[1]));
	if (waitpid(pid, &status, 0) != pid)
		die("wait");
	if (WIFSIGNALED(status))
		printf("the child was killed by signal %d\n", WTERMSIG(status));
	else if (status == 0)
		puts("good");
	fflush(stdout);
	return status != 0;
}
