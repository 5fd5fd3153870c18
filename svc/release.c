#include "release.h"
#include "cleanup.h"
#include "give_back.h"
#include "log.h"
#include "order.h"
#include "owner.h"
#include "pager.h"
#include "uffd.h"
#include "worker.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SLICE_MS = 100, BELL_TRIES = 1000, OWNER_TRIES = 1000 };

/* Of a forked child that has no agent. */
static int find_owner(struct pager *p, struct client *c, pid_t *ret_pid)
{
	int r = -EAGAIN;

	for (int i = 0; i < OWNER_TRIES && r == -EAGAIN; i++) {
		pager_service(p, c);
		r = owner_find(c->uffd, ret_pid);
	}
	return r;
}

/* Whose page can't be given back must not go on: it would read zeros once we are gone (rule 8).
 */
static void give_up(struct pager *p, struct client *c, int r)
{
	pid_t pid = c->pid;
	_cleanup_fd_ int found = c->pidfd < 0 ? find_owner(p, c, &pid) : -1;
	int pidfd = found >= 0 ? found : c->pidfd;

	log_error("client %d (%s): not all of its pages could be given back: %s; %s", (int)pid,
		c->exe, strerror(-r), pidfd >= 0 ? "it is killed" : "it can't be found");
	if (pidfd >= 0)
		syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
	client_mark_gone(c);
}

/* One pass over all. Returns how many had something with us: a program may fork meanwhile. */
static size_t release_pass(struct worker *w, struct pager *p)
{
	struct client **client;
	size_t count, had = 0;

	while (worker_clients(w, &client, &count) < 0)
		usleep(1000);
	for (size_t i = 0; i < count; i++) {
		struct client *c = client[i];

		gate_lock(c);
		bool any = c->space.region_count > 0 || c->space.out_pages > 0 ||
			   c->space.aside_count > 0;
		gate_unlock(p, c);
		if (any && client_state(c) != CLIENT_GONE) {
			had++;
			int r = give_back(p, c, 0, 1ULL << 47, SLICE_MS);
			if (r < 0 && r != -ESRCH && r != -EAGAIN)
				give_up(p, c, r);
		}
		client_unref(c);
	}
	free(client);
	return had;
}

/* Whoever waits at the bell goes on. If events keep us from opening it, closing the uffd will.
 */
static void say_goodbye(struct pager *p, struct client *c)
{
	atomic_store(&c->link->head.closed, 1);
	for (int i = 0; i < BELL_TRIES; i++) {
		if (uffd_protect(c->uffd, c->bell, PAGE_SIZE, false) != -EAGAIN)
			break;
		pager_service(p, c);
	}
	order_exit(c->link, c->doorbell);
}

void release_all(struct worker *w)
{
	struct pager pager;

	while (pager_init(&pager, w) < 0)
		usleep(1000);
	/* An address space with nothing registered reports no fork, so this comes to an end. */
	while (release_pass(w, &pager) > 0)
		;
	for (size_t i = 0; i < w->client_count; i++)
		if (w->client[i]->link)
			say_goodbye(&pager, w->client[i]);
	pager_done(&pager);
}
