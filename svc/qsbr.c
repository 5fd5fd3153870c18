#include "qsbr.h"

#include <time.h>

void qsbr_init(struct qsbr *q)
{
	atomic_init(&q->epoch, 1);
	for (unsigned i = 0; i < QSBR_MAX; i++) {
		atomic_init(&q->seen[i], 0);
		atomic_init(&q->used[i], 0);
	}
}

int qsbr_join(struct qsbr *q)
{
	for (int i = 0; i < QSBR_MAX; i++)
		if (atomic_exchange(&q->used[i], 1) == 0)
			return i;
	return -1;
}

void qsbr_quit(struct qsbr *q, int thread)
{
	if (thread >= 0)
		atomic_store(&q->used[thread], 0);
}

void qsbr_enter(struct qsbr *q, unsigned thread)
{
	/* Sequentially consistent: what we look at next was not freed before this store is
	 * seen. */
	atomic_store(&q->seen[thread], atomic_load(&q->epoch));
}

void qsbr_leave(struct qsbr *q, unsigned thread)
{
	atomic_store_explicit(&q->seen[thread], 0, memory_order_release);
}

void qsbr_synchronize(struct qsbr *q)
{
	uint64_t now = atomic_fetch_add(&q->epoch, 1) + 1;
	struct timespec pause = {.tv_nsec = 50000};

	for (unsigned i = 0; i < QSBR_MAX; i++)
		for (;;) {
			uint64_t seen = atomic_load(&q->seen[i]);
			if (seen == 0 || seen >= now)
				break;
			nanosleep(&pause, NULL);
		}
}
