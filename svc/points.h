/* Points by name at which a test can make the service wait, so that a race that is narrow on
 * any real machine becomes wide. Chosen by the environment of larderd, for tests only:
 *
 *   LARDER_POINTS=NAME=MICROSECONDS[:ONE_IN][,...]
 *
 * At NAME the thread sleeps so long, each time or one in so many times at random. Or
 *
 *   LARDER_POINTS=NAME=/PATH[,...]
 *
 * While there is a file PATH, the next thread that comes to NAME renames it to PATH.at, and
 * waits there until that file is removed: so a test knows that the service is at this point,
 * and decides for how long. All others pass.
 *
 * Where nothing is chosen a point costs a load and a branch. Set once, before any thread
 * starts. */
#ifndef LARDER_POINTS_H
#define LARDER_POINTS_H

#include <stdbool.h>

#define POINTS(X)                                                                              \
	X(read, "messages were read, none is applied yet")                                     \
	X(apply, "an event was applied")                                                       \
	X(fetch, "a page was looked up and decoded, and isn't copied yet")                     \
	X(move, "a MOVE order is about to be posted")                                          \
	X(moved, "a MOVE order was answered, its pages aren't on record yet")                  \
	X(hold, "pages are HELD, the gate is free, nothing is packed")                         \
	X(commit, "rows are committed, nothing is published")                                  \
	X(zap, "pages are STORED, staging is not zapped yet")                                  \
	X(fork, "a FORK was read, the child has no pages on record yet")                       \
	X(settle, "the kernel is about to be asked what an address is")                        \
	X(birth, "a forked child is about to be asked where it has its pages")                 \
	X(adopt, "a program's mappings were read, none is registered yet")                     \
	X(loop, "the main loop is about to look at an event")

enum point {
#define X(name, help) POINT_##name,
	POINTS(X)
#undef X
		POINT_COUNT
};

/* -EINVAL: names the place in `message`. NULL or "": nothing is chosen. */
int points_choose(const char *text, char *message, unsigned size);

extern bool points_chosen; /* read-only after the start */
void points_act(enum point p);

static inline void point(enum point p)
{
	if (__builtin_expect(points_chosen, false))
		points_act(p);
}

#endif
