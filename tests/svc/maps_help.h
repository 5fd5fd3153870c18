/* For the tests of maps.h: a directory that looks like /proc/PID, and a process to look at. */
#ifndef LARDER_TESTS_MAPS_HELP_H
#define LARDER_TESTS_MAPS_HELP_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/types.h>

struct fake_proc {
	char path[64];
	int fd;
};
void fake_proc_init(struct fake_proc *f);
/* Writes a file, and makes the folders that lead to it. */
void fake_proc_write(struct fake_proc *f, const char *name, const char *text);
void fake_proc_done(struct fake_proc *f);

enum { BOARD_SLOTS = 32 };

/* Shared with the specimen: what it has to tell. */
struct board {
	uint64_t at[BOARD_SLOTS]; /* 0: couldn't be made */
	int error[BOARD_SLOTS];	  /* errno then */
	int ready;		  /* a setup that doesn't return writes a byte here */
	_Atomic int note;
};

struct specimen {
	pid_t pid;
	int procdir;
	int hold; /* closed: the specimen ends */
	struct board *board;
};
/* Forks a process that runs `setup` and then waits. `setup` returns false when it failed. */
void specimen_start(struct specimen *s, bool (*setup)(struct board *b));
/* Ends it and its children. */
void specimen_end(struct specimen *s);

/* Calls fn with the text of task/TID/NAME of each thread, until it says true. */
bool specimen_tasks(const struct specimen *s, const char *name, bool (*fn)(const char *text));

/* Calls `done` until it says true; fails the test after very many tries. */
void wait_until(bool (*done)(void *arg), void *arg);

/* Prints the reason and ends the program as skipped, or as failed where MUST_WORK is set. */
_Noreturn void skip_program(const char *reason);

#endif
