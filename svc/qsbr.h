/* Quiescent-state reclamation for the fault threads: what they may still be looking at without
 * a lock is freed only after each of them has been seen outside. (McKenney's QSBR, in its
 * plainest form.) */
#ifndef LARDER_QSBR_H
#define LARDER_QSBR_H

#include <stdatomic.h>
#include <stdint.h>

enum { QSBR_MAX = 256 };

struct qsbr {
	_Atomic uint8_t used[QSBR_MAX];
	_Atomic uint64_t epoch;		 /* grows with each qsbr_synchronize; starts at 1 */
	_Atomic uint64_t seen[QSBR_MAX]; /* epoch in which the thread entered; 0 = outside */
};

void qsbr_init(struct qsbr *q);
/* A number for one more thread, or -1 when all are taken. */
int qsbr_join(struct qsbr *q);
void qsbr_quit(struct qsbr *q, int thread); /* -1 is fine */
void qsbr_enter(struct qsbr *q, unsigned thread);
void qsbr_leave(struct qsbr *q, unsigned thread);
/* Returns when every thread that was inside has left since. Not from a thread that is inside.
 */
void qsbr_synchronize(struct qsbr *q);

#endif
