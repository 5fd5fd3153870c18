/* What a program does to its address space while its memory is out, call by call: a table of
 * cases, each made bare and under the service. What they say must be the same line for line.
 *
 *   prepare: mappings with known bytes -> evict, and have some back (`out`) -> the act: the
 * calls -> read everything, write a third of it anew -> evict again -> read everything
 *
 * A case is an act, made in every way that its flags allow:
 *
 *   NAME/OUT/VIA/WHO    munmap-middle/alternate/raw/fork
 *
 * OUT: which pages are out. VIA: through the C library, or as a raw system call. WHO: the
 * program itself (self), the same with a forked child that reads too (fork), or a child that
 * makes the calls, at once after the fork (child). */
#ifndef CALLS_H
#define CALLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
	PAGE = 4096,
	PAGES = 256, /* of a case's mapping: large enough for parts of it to be managed */
	ARENA_PAGES = 8192, /* 2 MiB aligned, and inaccessible but for what a case maps */
	BASE = 1024 - 128,  /* where its mapping begins: across two 2 MiB blocks */
	HUGE_PAGES = 512,
	WATCH_MAX = 8,
};

enum out { OUT_ALL, OUT_HALF, OUT_ALTERNATE, OUT_COUNT };
enum via { VIA_LIBC, VIA_RAW, VIA_COUNT };
enum who { WHO_SELF, WHO_FORK, WHO_CHILD, WHO_COUNT };

/* Memory that is read back: a case says what it is. */
struct watch {
	char *at;
	size_t pages;
	bool freed[PAGES * 2]; /* MADV_FREE: its old bytes or zeros, as the kernel likes */
};

struct act;
struct test {
	const struct act *act;
	const char *name; /* with all its parts */
	uint32_t number;  /* of the case: in each page, so that one of an earlier case shows */
	enum out out;
	enum via via;
	enum who who;
	char *base; /* arena page BASE */
	struct watch watch[WATCH_MAX];
	unsigned watches;
};

/* What an act is, by flags. */
enum {
	ACT_RAW = 1,  /* also as a raw system call */
	ACT_ONCE = 2, /* only OUT_ALL and WHO_SELF: it is an error, or has nothing to do with
			 them */
	ACT_NO_CHILD = 4, /* not WHO_CHILD */
	ACT_PARTLY = 8,	  /* not all of what is watched can be out */
};

struct act {
	const char *name;
	const char *about;
	void (*prepare)(struct test *t); /* NULL: one mapping of PAGES */
	void (*act)(struct test *t);
	void (*tidy)(struct test *t); /* NULL: nothing beyond what is watched */
	unsigned flags;
	int number; /* an advice */
	int range;
};

struct acts {
	const struct act *act;
	size_t count;
};
struct acts acts_map(void), acts_mremap(void), acts_access(void), acts_advise(void),
	acts_stack(void), acts_huge(void);

/* ---- memory.c ---- */

void memory_start(void);
char *arena_page(size_t page);

/* Maps readable and writable memory there, writes it, and watches it. */
char *map_new(struct test *t, char *at, size_t pages);
void map_default(struct test *t);
struct watch *watch(struct test *t, char *at, size_t pages);
void unwatch_all(struct test *t);
void write_page(const struct test *t, char *at, uint32_t id);
void mark_freed(struct test *t, char *at, size_t pages);

void record(struct test *t, const char *when); /* what all that is watched reads as */
void renew(struct test *t);	     /* writes a third of the pages anew, where it can be */
void bring_back(struct test *t);     /* as t->out says */
size_t wrongly_here(struct test *t); /* pages that should be out and aren't */
void absent(struct test *t, char *at, size_t pages); /* says how many mincore knows not */
void forget(struct test *t); /* unmaps all that is watched, and the arena */

/* ---- main.c ---- */

__attribute__((format(printf, 2, 3))) void say(const struct test *t, const char *format, ...);
long say_call(const struct test *t, const char *what, long r);
void evict_again(struct test *t);
void skip(struct test *t, const char *why);
bool managed(void);

/* ---- calls, by the way that the case says ---- */

int do_munmap(struct test *t, char *at, size_t len);
char *do_mmap(struct test *t, char *at, size_t len, int protection, int flags, int fd);
char *do_mremap(struct test *t, char *old, size_t old_len, size_t new_len, int flags, char *to);
int do_madvise(struct test *t, char *at, size_t len, int advice);
int do_mprotect(struct test *t, char *at, size_t len, int protection);
int do_mlock(struct test *t, char *at, size_t len);
int do_munlock(struct test *t, char *at, size_t len);

#endif
