/* Cases that lower their limits or lock their memory. */
#include "tidy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int lower(enum __rlimit_resource kind, rlim_t to)
{
	struct rlimit limit = {to, to};
	return (int)call_result("setrlimit", setrlimit(kind, &limit));
}

int tidy_rlimit_nofile(struct tidy *t)
{
	int opened = 0, most = 0;

	if (lower(RLIMIT_NOFILE, 20) < 0)
		return 1;
	for (int fd; (fd = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0; opened++)
		most = fd;
	say("opened %d, the highest %d: %s", opened, most, strerror(errno));
	for (int fd = 3; fd <= most; fd++)
		close(fd);
	if (lower(RLIMIT_NOFILE, 3) < 0)
		return 1;
	call_result("open", open("/dev/null", O_RDONLY | O_CLOEXEC));
	void *p = mremap(t->memory, TIDY_BYTES, 2 * TIDY_BYTES, MREMAP_MAYMOVE);
	if (call_result("mremap", p == MAP_FAILED ? -1 : 0) < 0)
		return 1;
	t->memory = p;
	return child_check(t);
}

int tidy_rlimit_nproc(struct tidy *t)
{
	if (lower(RLIMIT_NPROC, 0) < 0)
		return 1;
	call_result("fork", fork());
	return memory_check("alone", t->memory);
}

/* As much as was there, and enough to stay managed: by the program's own count, which has ours
 * in it. */
static int bounded(struct tidy *t, enum __rlimit_resource kind, const char *key)
{
	long kib = status_number(key);
	rlim_t room = 80 << 20;

	known(key, kib);
	if (kib < 0 || lower(kind, (rlim_t)kib * 1024 + room) < 0)
		return 1;
	void *fits = malloc(60 << 20), *too_much = malloc(100 << 20);
	say("60 MiB: %s, 100 MiB: %s", fits ? "yes" : "no", too_much ? "yes" : "no");
	if (!fits)
		return 1;
	memset(fits, 1, 60 << 20);
	free(fits);
	void *p = mremap(t->memory, TIDY_BYTES, 2 * TIDY_BYTES, MREMAP_MAYMOVE);
	if (call_result("mremap", p == MAP_FAILED ? -1 : 0) < 0)
		return 1;
	t->memory = p;
	return child_check(t);
}

int tidy_rlimit_as(struct tidy *t)
{
	return bounded(t, RLIMIT_AS, "VmSize");
}

int tidy_rlimit_data(struct tidy *t)
{
	return bounded(t, RLIMIT_DATA, "VmData");
}

/* How much there is to have until the limit. */
static int fill(struct tidy *t)
{
	long kib = 0;

	while (mmap(NULL, 16 << 10, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		       0) != MAP_FAILED)
		kib += 16;
	known("room", kib);
	t->next = POINT_LEAVE;
	return memory_check("full", t->memory);
}

/* tidy.sh starts us with so little that we must be left alone. */
int tidy_rlimit_as_start(struct tidy *t)
{
	return fill(t);
}

/* A limit that doesn't know of us. */
int tidy_rlimit_as_fixed(struct tidy *t)
{
	return lower(RLIMIT_AS, 24 << 20) < 0 || child_check(t) || fill(t);
}

int tidy_rlimit_data_fixed(struct tidy *t)
{
	struct rlimit limit = {14 << 20, 14 << 20}, old;

	/* A child's own limits aren't its parent's. */
	pid_t child = vfork();
	if (child == 0)
		_exit(prlimit(0, RLIMIT_DATA, &limit, NULL) < 0);
	waitpid(child, NULL, 0);
	point(POINT_TAKE);
	return call_result("prlimit", prlimit(getpid(), RLIMIT_DATA, &limit, &old)) < 0 ||
	       fill(t);
}

/* tidy.sh leaves us the standard descriptors and two more, too few for the shim. */
int tidy_rlimit_nofile_start(struct tidy *t)
{
	int last = dup(0);

	say("two more: %d %d", last, dup(0));
	call_result("a third", dup(0));
	t->next = POINT_LEAVE;
	return child_check(t);
}

static int deep(int depth)
{
	volatile char frame[1024];

	frame[0] = (char)depth;
	return depth == 0 ? frame[0] : deep(depth - 1) + frame[0] * 0;
}

int tidy_rlimit_stack(struct tidy *t)
{
	if (lower(RLIMIT_STACK, 256 << 10) < 0)
		return 1;
	say("deep: %d", deep(100));
	return child_check(t);
}

/* Nothing new at all: what is out has to come back without. */
int tidy_rlimit_zero(struct tidy *t)
{
	static const enum __rlimit_resource kinds[] = {RLIMIT_STACK, RLIMIT_NOFILE,
		RLIMIT_NPROC, RLIMIT_MEMLOCK, RLIMIT_SIGPENDING, RLIMIT_MSGQUEUE, RLIMIT_CORE};

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (lower(kinds[i], 0) < 0)
			return 1;
	/* Not by libc's functions, after which we would be left alone. */
	struct rlimit none = {0, 0};
	if (call_result("AS", syscall(SYS_prlimit64, 0, RLIMIT_AS, &none, NULL)) < 0 ||
		call_result("DATA", syscall(SYS_prlimit64, 0, RLIMIT_DATA, &none, NULL)) < 0)
		return 1;
	void *p = mmap(NULL, TIDY_PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	call_result("mmap", p == MAP_FAILED ? -1 : 0);
	return memory_check("without anything", t->memory);
}

int tidy_mlock_future(struct tidy *t)
{
	if (call_result("mlockall", mlockall(MCL_FUTURE)) < 0)
		return 1;
	void *p =
		mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (call_result("mmap", p == MAP_FAILED ? -1 : 0) < 0)
		return 1;
	say("locked: %ld kB", status_number("VmLck"));
	return child_check(t);
}

int tidy_mlock_all(struct tidy *t)
{
	if (call_result("mlockall", mlockall(MCL_CURRENT | MCL_FUTURE)) < 0)
		return 1;
	known("locked", status_number("VmLck"));
	known("resident", status_number("VmRSS"));
	t->next = POINT_LEAVE;
	if (child_check(t) || memory_check("locked", t->memory))
		return 1;
	point(POINT_LEAVE); /* locked memory stays where it is */
	if (call_result("munlockall", munlockall()) < 0)
		return 1;
	say("locked: %ld kB", status_number("VmLck"));
	t->next = POINT_TAKE;
	return 0;
}
