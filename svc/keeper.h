/* The keeper: the worker's parent. It shares its table of descriptors and does nothing else, so
 * that when a worker dies no descriptor is closed: not a client's userfaultfd, nor that of a
 * child whose FORK was read a moment before. It then starts another, which finds them by their
 * numbers (state.h, recover.h). When the keeper itself dies, the worker gives everything back
 * and ends. */
#ifndef LARDER_KEEPER_H
#define LARDER_KEEPER_H

#include "state.h"

struct pulses;
struct upgrade;

/* work(arg, again) is what a worker runs, in a process of its own; it returns the exit code.
 * again: one before it has died, or left (upgrade.h). Returns when a worker ended by itself,
 * with its code; but while the state has clients, a worker that fails is followed by another,
 * and so is one that hangs (watchdog.h). SIGTERM, SIGINT and SIGHUP are passed on; SIGUSR2 is
 * the upgrade's, which may not return. notify_fd: notify_open's. */
int keeper_run(struct state *state, struct pulses *pulses, struct upgrade *upgrade,
	int notify_fd, bool again, int (*work)(void *arg, bool again), void *arg);

/* Before anything else, so that none of these ends a process that is just beginning. */
void keeper_block_signals(void);

#endif
