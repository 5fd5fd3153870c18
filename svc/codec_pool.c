#include "codec_pool.h"
#include "store.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { POOL_MAX = 8, NICE = 10, CHUNK = 8 };

struct codec_thread {
	struct codec_pool *pool;
	struct store_scratch *scratch; /* owned */
	pthread_t thread;
};

struct codec_pool {
	pthread_mutex_t lock;
	pthread_cond_t work, idle;
	/* Under the lock: */
	uint64_t run;  /* number of the current run */
	unsigned busy; /* threads that haven't finished it */
	bool stop;
	codec_fn *fn;
	void *arg;
	unsigned count;
	_Atomic unsigned next; /* first index that nobody took */
	unsigned threads;
	struct codec_thread thread[POOL_MAX];
};

static void take_chunks(struct codec_pool *p, struct store_scratch *scratch)
{
	unsigned from;

	while ((from = atomic_fetch_add(&p->next, CHUNK)) < p->count)
		for (unsigned i = from; i < p->count && i < from + CHUNK; i++)
			p->fn(p->arg, i, scratch);
}

static void *thread_main(void *arg)
{
	struct codec_thread *t = arg;
	struct codec_pool *p = t->pool;
	uint64_t seen = 0;

	setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICE);
	pthread_mutex_lock(&p->lock);
	for (;;) {
		while (p->run == seen && !p->stop)
			pthread_cond_wait(&p->work, &p->lock);
		if (p->stop)
			break;
		seen = p->run;
		pthread_mutex_unlock(&p->lock);
		take_chunks(p, t->scratch);
		pthread_mutex_lock(&p->lock);
		if (--p->busy == 0)
			pthread_cond_signal(&p->idle);
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

int codec_pool_new(struct codec_pool **ret, unsigned threads)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	struct codec_pool *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->work, NULL);
	pthread_cond_init(&p->idle, NULL);
	if (threads == 0)
		threads = cpus > 0 ? (unsigned)cpus : 1;
	if (threads > POOL_MAX)
		threads = POOL_MAX;
	for (; p->threads < threads; p->threads++) {
		struct codec_thread *t = &p->thread[p->threads];
		t->pool = p;
		int r = store_scratch_new(&t->scratch);
		if (r == 0)
			r = -pthread_create(&t->thread, NULL, thread_main, t);
		if (r < 0) {
			store_scratch_free(t->scratch);
			codec_pool_free(p);
			return r;
		}
		pthread_setname_np(t->thread, "larder-codec");
	}
	*ret = p;
	return 0;
}

void codec_pool_free(struct codec_pool *p)
{
	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_broadcast(&p->work);
	pthread_mutex_unlock(&p->lock);
	for (unsigned i = 0; i < p->threads; i++) {
		pthread_join(p->thread[i].thread, NULL);
		store_scratch_free(p->thread[i].scratch);
	}
	pthread_mutex_destroy(&p->lock);
	pthread_cond_destroy(&p->work);
	pthread_cond_destroy(&p->idle);
	free(p);
}

void codec_pool_run(struct codec_pool *p, unsigned count, codec_fn *fn, void *arg)
{
	pthread_mutex_lock(&p->lock);
	p->fn = fn;
	p->arg = arg;
	p->count = count;
	atomic_store(&p->next, 0);
	p->busy = p->threads;
	p->run++;
	pthread_cond_broadcast(&p->work);
	while (p->busy > 0)
		pthread_cond_wait(&p->idle, &p->lock);
	pthread_mutex_unlock(&p->lock);
}
