#include "closer.h"
#include "log.h"

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <unistd.h>

enum { CLOSES_MAX = 128, STACK_BYTES = 64 << 10 };

static _Atomic unsigned waiting; /* of the whole process, as descriptors are */

static void *close_one(void *arg)
{
	close((int)(intptr_t)arg);
	atomic_fetch_sub(&waiting, 1);
	return NULL;
}

void closer_close(int fd)
{
	pthread_attr_t attr;
	pthread_t thread;

	if (fd < 0)
		return;
	if (atomic_fetch_add(&waiting, 1) >= CLOSES_MAX) {
		atomic_fetch_sub(&waiting, 1);
		log_warn("a descriptor of a client is left open: too many can't be closed");
		return;
	}
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	if (pthread_create(&thread, &attr, close_one, (void *)(intptr_t)fd) != 0) {
		atomic_fetch_sub(&waiting, 1);
		log_warn("a descriptor of a client is left open: no thread to close it");
	}
	pthread_attr_destroy(&attr);
}
