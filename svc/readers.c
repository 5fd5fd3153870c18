#include "readers.h"
#include "log.h"
#include "pager.h"
#include "worker.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { READERS_MAX = 32, EVENTS = 16, RETRY_NS = 1000000 };
struct reader {
	struct readers *all; /* borrowed */
	unsigned index;
	pthread_t thread;
	int epoll_fd; /* owned */
	struct pager pager;
};

struct readers {
	struct worker *worker; /* borrowed */
	unsigned count, started;
	int stop_fd;  /* owned; readable for ever once we stop */
	int timer_fd; /* owned; in the first reader's epoll: faults wait to be tried again */
	struct reader reader[READERS_MAX];
};

/* epoll's data: a client's token (never 0 or 1), or one of these. */
enum { STOP_MARK = 0, TIMER_MARK = 1 };

static void retry_all(struct reader *r)
{
	struct client **client;
	size_t count;
	uint64_t expirations;

	if (read(r->all->timer_fd, &expirations, sizeof(expirations)) < 0)
		return;
	if (worker_clients(r->all->worker, &client, &count) < 0)
		return readers_retry(r->all);
	for (size_t i = 0; i < count; i++) {
		pager_service(&r->pager, client[i]);
		client_unref(client[i]);
	}
	free(client);
}

static void *reader_main(void *arg)
{
	struct reader *r = arg;
	struct epoll_event event[EVENTS];

	for (;;) {
		int n = epoll_wait(r->epoll_fd, event, EVENTS, -1);
		bool retry = false;

		for (int i = 0; i < n; i++) {
			uint64_t token = event[i].data.u64;
			if (token == STOP_MARK)
				return NULL;
			if (token == TIMER_MARK) {
				retry = true;
				continue;
			}
			/* An event can be older than the end of its client. */
			struct client *c = worker_by_token(r->all->worker, token);
			if (c)
				pager_service(&r->pager, c);
			client_unref(c);
		}
		if (retry)
			retry_all(r);
	}
}

static int watch(int epoll_fd, int fd, uint32_t events, uint64_t token)
{
	struct epoll_event e = {.events = events, .data.u64 = token};
	return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0 ? -errno : 0;
}

/* Pins to the index-th CPU that we may run on. */
static void pin(pthread_t thread, unsigned index)
{
	cpu_set_t allowed, one;

	if (sched_getaffinity(0, sizeof(allowed), &allowed) < 0)
		return;
	index %= (unsigned)CPU_COUNT(&allowed);
	for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &allowed) && index-- == 0) {
			CPU_ZERO(&one);
			CPU_SET(cpu, &one);
			pthread_setaffinity_np(thread, sizeof(one), &one);
			return;
		}
}

static int reader_start(struct readers *all, unsigned index)
{
	struct reader *r = &all->reader[index];
	int e;

	r->all = all;
	r->index = index;
	r->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (r->epoll_fd < 0)
		return -errno;
	e = pager_init(&r->pager, all->worker);
	if (e == 0)
		e = watch(r->epoll_fd, all->stop_fd, EPOLLIN, STOP_MARK);
	if (e == 0 && index == 0)
		e = watch(r->epoll_fd, all->timer_fd, EPOLLIN, TIMER_MARK);
	if (e == 0)
		e = -pthread_create(&r->thread, NULL, reader_main, r);
	if (e < 0) {
		pager_done(&r->pager);
		close(r->epoll_fd);
		return e;
	}
	pin(r->thread, index);
	pthread_setname_np(r->thread, "larder-reader");
	return 0;
}

int readers_start(struct readers **ret, struct worker *w, unsigned count)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	struct readers *all = calloc(1, sizeof(*all));
	int r = 0;

	if (!all)
		return -ENOMEM;
	all->worker = w;
	all->count = count ? count : cpus > 0 ? (unsigned)cpus : 1;
	if (all->count > READERS_MAX)
		all->count = READERS_MAX;
	all->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	all->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (all->stop_fd < 0 || all->timer_fd < 0)
		r = -errno;
	while (r == 0 && all->started < all->count) {
		r = reader_start(all, all->started);
		all->started += r == 0;
	}
	if (r < 0) {
		readers_stop(all);
		return r;
	}
	*ret = all;
	return 0;
}

void readers_stop(struct readers *all)
{
	uint64_t one = 1;

	if (!all)
		return;
	if (write(all->stop_fd, &one, sizeof(one)) < 0)
		log_error("readers: can't be told to stop");
	for (unsigned i = 0; i < all->started; i++) {
		pthread_join(all->reader[i].thread, NULL);
		pager_done(&all->reader[i].pager);
		close(all->reader[i].epoll_fd);
	}
	close(all->stop_fd);
	close(all->timer_fd);
	free(all);
}

int readers_add(struct readers *all, struct client *c)
{
	for (unsigned i = 0; i < all->started; i++) {
		int r = watch(all->reader[i].epoll_fd, c->uffd, EPOLLIN | EPOLLET, c->token);
		if (r < 0)
			return r;
	}
	return 0;
}

void readers_remove(struct readers *all, struct client *c)
{
	for (unsigned i = 0; i < all->started; i++)
		epoll_ctl(all->reader[i].epoll_fd, EPOLL_CTL_DEL, c->uffd, NULL);
}

void readers_retry(struct readers *all)
{
	struct itimerspec soon = {.it_value.tv_nsec = RETRY_NS};
	timerfd_settime(all->timer_fd, 0, &soon, NULL);
}

void readers_latency(const struct readers *all, struct histogram_sum *sum)
{
	for (unsigned i = 0; i < all->started; i++)
		histogram_sum(&all->reader[i].pager.latency, sum);
}
