#include "closer.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { THREADS_MAX = 64, STACK_BYTES = 64 << 10 };

struct batch_of_fds {
	struct batch_of_fds *next;
	unsigned count;
	int fd[];
};

/* Of the whole process, as descriptors are. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct batch_of_fds *first, **last = &first; /* under the lock */
static unsigned threads;			    /* under the lock */
static _Atomic unsigned waiting;

static struct batch_of_fds *take(void)
{
	pthread_mutex_lock(&lock);
	struct batch_of_fds *b = first;
	if (b) {
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

/* Lock held. A thread more, as those that run may be stuck. */
static void start_thread(void)
{
	pthread_attr_t attr;
	pthread_t thread;

	if (threads == THREADS_MAX)
		return;
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	if (pthread_create(&thread, &attr, close_main, NULL) == 0)
		threads++;
	pthread_attr_destroy(&attr);
}

void closer_close_all(const int *fds, unsigned count)
{
	struct batch_of_fds *b;

	if (count == 0)
		return;
	while (!(b = malloc(sizeof(*b) + count * sizeof(b->fd[0]))))
		usleep(1000);
	b->next = NULL;
	b->count = count;
	memcpy(b->fd, fds, count * sizeof(fds[0]));
	atomic_fetch_add(&waiting, count);
	pthread_mutex_lock(&lock);
	*last = b;
	last = &b->next;
	start_thread();
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
