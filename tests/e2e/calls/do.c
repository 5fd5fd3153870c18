/* Calls made the way that a case says, and what they returned. */
#include "calls.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* As libc's, but not through its functions of that name. */
static long raw(long number, long a, long b, long c, long d, long e, long f)
{
	return syscall(number, a, b, c, d, e, f);
}

/* Where the arena's addresses are said, as pages of it. Others are the kernel's choice. */
static const char *place(const void *at)
{
	static char text[32];
	const char *p = at;

	if (at == MAP_FAILED)
		return strerrorname_np(errno);
	if (p < arena_page(0) || p >= arena_page(ARENA_PAGES))
		return "elsewhere";
	snprintf(text, sizeof(text), "page %zu", (size_t)(p - arena_page(0)) / PAGE);
	return text;
}

int do_munmap(struct test *t, char *at, size_t len)
{
	return (int)say_call(t, "munmap",
		t->via == VIA_RAW ? raw(SYS_munmap, (long)at, (long)len, 0, 0, 0, 0)
				  : munmap(at, len));
}

char *do_mmap(struct test *t, char *at, size_t len, int protection, int flags, int fd)
{
	void *p = t->via == VIA_RAW
			  ? (void *)raw(SYS_mmap, (long)at, (long)len, protection, flags, fd, 0)
			  : mmap(at, len, protection, flags, fd, 0);
	say(t, "mmap: %s", place(p));
	return p;
}

char *do_mremap(struct test *t, char *old, size_t old_len, size_t new_len, int flags, char *to)
{
	void *p = t->via == VIA_RAW ? (void *)raw(SYS_mremap, (long)old, (long)old_len,
					      (long)new_len, flags, (long)to, 0)
				    : mremap(old, old_len, new_len, flags, to);
	say(t, "mremap: %s", place(p));
	return p;
}

int do_madvise(struct test *t, char *at, size_t len, int advice)
{
	return (int)say_call(t, "madvise",
		t->via == VIA_RAW ? raw(SYS_madvise, (long)at, (long)len, advice, 0, 0, 0)
				  : madvise(at, len, advice));
}

int do_mprotect(struct test *t, char *at, size_t len, int protection)
{
	return (int)say_call(t, "mprotect",
		t->via == VIA_RAW ? raw(SYS_mprotect, (long)at, (long)len, protection, 0, 0, 0)
				  : mprotect(at, len, protection));
}

int do_mlock(struct test *t, char *at, size_t len)
{
	return (int)say_call(t, "mlock",
		t->via == VIA_RAW ? raw(SYS_mlock, (long)at, (long)len, 0, 0, 0, 0)
				  : mlock(at, len));
}

int do_munlock(struct test *t, char *at, size_t len)
{
	return (int)say_call(t, "munlock",
		t->via == VIA_RAW ? raw(SYS_munlock, (long)at, (long)len, 0, 0, 0, 0)
				  : munlock(at, len));
}
