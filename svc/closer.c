#include "closer.h"
#include "pulse.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
	THREADS_MAX = 64,
	STACK_BYTES = 64 << 10,
	/* A thread that has nothing to do waits for so long: to make one costs more than most
	 * closes. */
	IDLE_S = 2,
	LATER_MAX = 32,
};

struct batch_of_fds {
	struct batch_of_fds *next;
	unsigned count;
	int fd[];
};

/* Of the whole process, as descriptors are. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct batch_of_fds *first, **last = &first; /* under the lock */
static unsigned queued, threads, idle;		    /* under the lock */
static _Atomic unsigned waiting;
static int later[LATER_MAX]; /* under the lock */
static unsigned later_count; /* under the lock */
static pthread_cond_t more = PTHREAD_COND_INITIALIZER;

/* Lock held. */
static void wait_idle(void)
{
	struct timespec end;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += IDLE_S;
	idle++;
	while (!first && pthread_cond_timedwait(&more, &lock, &end) == 0)
		;
	idle--;
}

static struct batch_of_fds *take(void)
{
	pthread_mutex_lock(&lock);
	if (!first && idle == 0)
		wait_idle(); /* one is enough */
	struct batch_of_fds *b = first;
	if (b) {
		queued--;
		first = b->next;
		if (!first)
			last = &first;
	} else {
		threads--; /* this one ends */
	}
	pthread_mutex_unlock(&lock);
	return b;
}

static void *close_main(void *arg)
{
	struct batch_of_fds *b;

	while ((b = take())) {
		for (unsigned i = 0; i < b->count; i++)
			if (b->fd[i] >= 0)
				close(b->fd[i]);
		atomic_fetch_sub(&waiting, b->count);
		free(b);
	}
	return arg;
}

/* Lock held. A thread more, unless one is idle: those that run may be stuck. */
static void start_thread(void)
{
	pthread_attr_t attr;
	pthread_t thread;

	if (idle >= queued) {
		pthread_cond_signal(&more);
		return;
	}
	if (threads == THREADS_MAX)
		return;
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	if (pthread_create(&thread, &attr, close_main, NULL) == 0)
		threads++;
	pthread_attr_destroy(&attr);
}

/* Lock held. Takes b. */
static void queue(struct batch_of_fds *b)
{
	*last = b;
	last = &b->next;
	queued++;
	start_thread();
}

static struct batch_of_fds *batch_of(const int *fds, unsigned count)
{
	struct batch_of_fds *b;

	while (!(b = malloc(sizeof(*b) + count * sizeof(b->fd[0]))))
		pulse_wait_for_memory();
	b->next = NULL;
	b->count = count;
	memcpy(b->fd, fds, count * sizeof(fds[0]));
	atomic_fetch_add(&waiting, count);
	return b;
}

void closer_close_all(const int *fds, unsigned count)
{
	if (count == 0)
		return;
	struct batch_of_fds *b = batch_of(fds, count);
	pthread_mutex_lock(&lock);
	queue(b);
	pthread_mutex_unlock(&lock);
}

void closer_close(int fd)
{
	if (fd >= 0)
		closer_close_all(&fd, 1);
}

unsigned closer_waiting(void)
{
	return atomic_load(&waiting);
}

/* Lock held. */
static void flush(void)
{
	if (later_count > 0)
		queue(batch_of(later, later_count));
	later_count = 0;
}

void closer_close_later(int fd)
{
	pthread_mutex_lock(&lock);
	later[later_count++] = fd;
	if (later_count == LATER_MAX)
		flush();
	pthread_mutex_unlock(&lock);
}

void closer_flush(void)
{
	pthread_mutex_lock(&lock);
	flush();
	pthread_mutex_unlock(&lock);
}
