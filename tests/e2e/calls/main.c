/* calls [--list] [GLOB...]: makes the cases, or those that match: see calls.h. What they say
 * goes to stdout. Where memory is to be out, the process's id goes to descriptor 3, and a byte
 * is read from descriptor 4: 'b', it runs bare; 'm', it was evicted; 'n', it could not be.
 * Without these descriptors it runs bare. */
#include "calls.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ORDERS = 3, ANSWERS = 4, TRIES = 250, LINE = 16384 };

static bool has_orders, under_service, skipped;

/* ---- words ---- */

void say(const struct test *t, const char *format, ...)
{
	static char line[LINE];
	va_list ap;
	int n = snprintf(line, sizeof(line), "%s: ", t->name);

	va_start(ap, format);
	n += vsnprintf(line + n, sizeof(line) - (size_t)n - 1, format, ap);
	va_end(ap);
	if (n > LINE - 2)
		n = LINE - 2;
	line[n++] = '\n';
	if (write(STDOUT_FILENO, line, (size_t)n) != n)
		_exit(1);
}

long say_call(const struct test *t, const char *what, long r)
{
	say(t, "%s: %s", what, r < 0 ? strerrorname_np(errno) : "done");
	return r;
}

void skip(struct test *t, const char *why)
{
	if (!skipped)
		say(t, "skipped: %s", why);
	skipped = true;
}

bool managed(void)
{
	return under_service;
}

/* ---- eviction ---- */

static char order(void)
{
	char text[32], answer = 'b';
	int n = snprintf(text, sizeof(text), "%d\n", (int)getpid());

	if (!has_orders)
		return answer;
	if (write(ORDERS, text, (size_t)n) != n || read(ANSWERS, &answer, 1) != 1)
		_exit(1);
	under_service |= answer != 'b';
	return answer;
}

static void rest(void)
{
	nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
}

/* Until what the case wants out is out. */
static void evict(struct test *t)
{
	for (int i = 0; i < TRIES; i++) {
		if (order() == 'b')
			return;
		size_t wrong = wrongly_here(t);
		/* What is left after one good order is left: of each kind that can't be out
		 * there are few. */
		if (wrong == 0 || (t->act->flags & ACT_PARTLY && i > 2))
			return;
		if (i == TRIES - 1)
			say(t, "WRONG: %zu pages aren't out", wrong);
		rest();
	}
}

/* One order. A child can't be evicted before it has an agent. */
void evict_again(struct test *t)
{
	for (int i = 0; i < TRIES; i++) {
		if (order() != 'n')
			return;
		rest();
	}
	say(t, "WRONG: it can't be evicted");
}

/* ---- one case ---- */

static void in_child(struct test *t, void (*fn)(struct test *t), const char *what)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fn(t);
		_exit(0);
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		say_call(t, what, -1);
	else if (status != 0)
		say(t, "WRONG: %s: status %x", what, (unsigned)status);
}

static void child_reads(struct test *t)
{
	record(t, "child");
}

static void read_all(struct test *t, const char *when)
{
	if (t->who == WHO_FORK)
		in_child(t, child_reads, "reading child");
	record(t, when);
}

static void rounds(struct test *t)
{
	t->act->act(t);
	read_all(t, "after");
	renew(t);
	evict_again(t);
	read_all(t, "again");
}

static void run_case(struct test *t)
{
	t->base = arena_page(BASE);
	t->watches = 0;
	skipped = false;
	if (t->act->prepare)
		t->act->prepare(t);
	else
		map_default(t);
	if (!skipped) {
		evict(t);
		bring_back(t);
		if (under_service && wrongly_here(t) > 0 && !(t->act->flags & ACT_PARTLY))
			say(t, "WRONG: %zu pages are back", wrongly_here(t));
	}
	if (!skipped && t->who == WHO_CHILD) {
		in_child(t, rounds, "acting child");
		record(t, "parent");
	} else if (!skipped) {
		rounds(t);
	}
	if (t->act->tidy)
		t->act->tidy(t);
	forget(t);
}

/* ---- all of them ---- */

static bool applies(const struct act *a, enum out out, enum via via, enum who who)
{
	if (via == VIA_RAW && !(a->flags & ACT_RAW))
		return false;
	if (a->flags & ACT_ONCE)
		return out == OUT_ALL && who == WHO_SELF;
	/* Not everything in every way: the kernel doesn't know who called, and a child has what
	 * its parent had. */
	if (via == VIA_RAW && out == OUT_HALF)
		return false;
	if (who == WHO_CHILD)
		return out == OUT_ALL && via == VIA_LIBC && !(a->flags & ACT_NO_CHILD);
	return who == WHO_FORK || out != OUT_HALF;
}

static bool wanted(const char *name, char **globs)
{
	if (!*globs)
		return true;
	for (; *globs; globs++)
		if (fnmatch(*globs, name, 0) == 0)
			return true;
	return false;
}

static void each_way(const struct act *a, bool list, char **globs, uint32_t *number)
{
	static const char *const outs[] = {"all", "half", "alternate"};
	static const char *const vias[] = {"libc", "raw"};
	static const char *const whos[] = {"self", "fork", "child"};
	static struct test t;
	char name[128];

	for (enum out out = 0; out < OUT_COUNT; out++)
		for (enum via via = 0; via < VIA_COUNT; via++)
			for (enum who who = 0; who < WHO_COUNT; who++) {
				if (!applies(a, out, via, who))
					continue;
				snprintf(name, sizeof(name), "%s/%s/%s/%s", a->name, outs[out],
					vias[via], whos[who]);
				++*number;
				if (!wanted(name, globs))
					continue;
				t = (struct test){.act = a,
					.name = name,
					.number = *number,
					.out = out,
					.via = via,
					.who = who};
				if (list)
					say(&t, "%s", a->about);
				else
					run_case(&t);
			}
}

int main(int argc, char **argv)
{
	const struct acts all[] = {acts_map(), acts_mremap(), acts_access(), acts_advise(),
		acts_stack(), acts_huge()};
	bool list = argc > 1 && strcmp(argv[1], "--list") == 0;
	uint32_t number = 0;

	has_orders = fcntl(ORDERS, F_GETFD) >= 0;
	memory_start();
	for (size_t k = 0; k < sizeof(all) / sizeof(all[0]); k++)
		for (size_t i = 0; i < all[k].count; i++)
			each_way(&all[k].act[i], list, argv + 1 + list, &number);
	return 0;
}
