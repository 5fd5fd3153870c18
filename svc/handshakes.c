#include "handshakes.h"
#include "attach.h"
#include "closer.h"
#include "log.h"
#include "trouble.h"
#include "worker.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	HANDSHAKES_A_USER = 64,
	/* A shim says HELLO as it connects, and its agent READY within a millisecond. */
	HANDSHAKE_MAX_MS = 5000,
};

static void end_slot(struct handshakes *h, size_t i)
{
	h->slot[i] = h->slot[--h->count];
}

/* Connections that say nothing may not keep others out. */
static void end_silent(struct handshakes *h)
{
	uint64_t now = worker_now_ms();

	for (size_t i = h->count; i-- > 0;)
		if (now - h->slot[i].since_ms > HANDSHAKE_MAX_MS) {
			attach_free(h->slot[i].attachment);
			end_slot(h, i);
		}
	if (h->count > 0)
		worker_arm_timer(h->w);
}

/* While no more can be taken in, new ones wait in the queue. */
static void listen_again(struct handshakes *h, bool on)
{
	struct epoll_event e = {
		.events = on ? EPOLLIN : 0, .data.u64 = worker_source(SOURCE_ATTACH, 0)};

	epoll_ctl(h->w->epoll_fd, EPOLL_CTL_MOD, h->w->attach_fd, &e);
	h->deaf = !on;
	if (!on)
		worker_arm_timer(h->w);
}

/* Room for one more: nobody keeps others out by connecting and saying nothing. The oldest of
 * this user's goes when it has too many, else the oldest of all. */
static void make_room(struct handshakes *h, uid_t uid)
{
	size_t own = 0, oldest = 0, oldest_own = 0;

	for (size_t i = h->count; i-- > 0;) {
		if (h->slot[i].id < h->slot[oldest].id)
			oldest = i;
		if (attach_uid(h->slot[i].attachment) != uid)
			continue;
		if (own++ == 0 || h->slot[i].id < h->slot[oldest_own].id)
			oldest_own = i;
	}
	if (own < HANDSHAKES_A_USER && h->count < HANDSHAKES_MAX)
		return;
	size_t which = own >= HANDSHAKES_A_USER ? oldest_own : oldest;
	attach_free(h->slot[which].attachment);
	end_slot(h, which);
}

static const char *accept_error(int r)
{
	switch (r) {
	case -EMFILE:
	case -ENFILE:
		return "too few descriptors are left (raise the service's limit on open files)";
	case -EBUSY:
		return "too many descriptors that clients passed wait to be closed";
	default:
		return strerror(-r);
	}
}

/* One for each event: others get their turn, and a program that waits isn't kept by a look
 * whether there are more. */
void handshakes_accept(struct handshakes *h)
{
	struct attachment *a;
	if (h->closed)
		return; /* the event is older than our end */
	int r = attach_accept(h->w, h->count, &a);

	if (r < 0) {
		if (r == -EAGAIN || r == -EINTR || r == -ECONNABORTED)
			return;
		if (r == -EMFILE || r == -ENFILE)
			trouble_set(h->w, TROUBLE_FILES, true);
		log_warn("attach: %s; no program is taken over for a second", accept_error(r));
		listen_again(h, false);
		return;
	}
	worker_arm_timer(h->w);
	/* HELLO mostly came with the connection. */
	if (!a || attach_advance(h->w, a) != 0)
		return;
	make_room(h, attach_uid(a));
	uint64_t id = ++h->next_id;
	h->slot[h->count++] = (struct handshake){id, worker_now_ms(), a};
	if (worker_watch(h->w, attach_fd(a), SOURCE_HANDSHAKE, id) < 0) {
		attach_free(a);
		end_slot(h, h->count - 1);
	}
}

void handshakes_advance(struct handshakes *h, uint64_t id)
{
	for (size_t i = 0; i < h->count; i++) {
		if (h->slot[i].id != id)
			continue;
		int fd = attach_fd(h->slot[i].attachment);
		epoll_ctl(h->w->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
		if (attach_advance(h->w, h->slot[i].attachment) != 0) {
			end_slot(h, i);
		} else if (worker_watch(h->w, fd, SOURCE_HANDSHAKE, id) < 0) {
			attach_free(h->slot[i].attachment);
			end_slot(h, i);
		}
		return;
	}
}

void handshakes_tick(struct handshakes *h)
{
	end_silent(h);
	if (h->deaf && !h->paused)
		listen_again(h, true);
}

void handshakes_pause(struct handshakes *h)
{
	h->paused = true;
	listen_again(h, false);
}

void handshakes_close(struct handshakes *h)
{
	int fd;

	while (h->count > 0) {
		attach_free(h->slot[0].attachment);
		end_slot(h, 0);
	}
	/* It is the keeper's, so it stays: but nobody can connect to it any more. */
	epoll_ctl(h->w->epoll_fd, EPOLL_CTL_DEL, h->w->attach_fd, NULL);
	shutdown(h->w->attach_fd, SHUT_RDWR);
	while ((fd = accept4(h->w->attach_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0)
		close(fd); /* it had connected, and waits */
	h->deaf = false;
	h->closed = true;
}
