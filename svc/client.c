#include "client.h"
#include "birth.h"
#include "closer.h"
#include "journal.h"
#include "points.h"
#include "pulse.h"
#include "space_internal.h"
#include "state.h"
#include "worker.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

const char *client_state_name(enum client_state s)
{
	static const char *const name[] = {[CLIENT_ATTACHING] = "attaching",
		[CLIENT_MANAGED] = "managed",
		[CLIENT_RELEASED] = "released",
		[CLIENT_FORKED] = "forked",
		[CLIENT_GONE] = "gone"};
	return name[s];
}

struct client *client_new(struct worker *w, uint64_t id, int uffd)
{
	struct client *c;

	while (!(c = calloc(1, sizeof(*c))))
		pulse_wait_for_memory();
	c->worker = w;
	c->id = id;
	c->uffd = uffd;
	c->pidfd = c->procdir = c->pagemap = c->mem = c->socket = c->link_fd = c->doorbell = -1;
	c->agent_pidfd = -1;
	c->born_ms = worker_now_ms();
	atomic_init(&c->refs, 1);
	atomic_init(&c->state, CLIENT_ATTACHING);
	pthread_mutex_init(&c->gate, NULL);
	space_init(&c->space, &w->graveyard, id);
	return c;
}

void client_ref(struct client *c)
{
	atomic_fetch_add(&c->refs, 1);
}

void client_unref(struct client *c)
{
	if (!c || atomic_fetch_sub(&c->refs, 1) > 1)
		return;
	/* What is closed from here on is nobody's. */
	state_remove(c->record);
	point(POINT_forget);
	birth_free(c);
	free(c->waiting);
	journal_free(c->journal);
	journal_remove(c->worker->store_dir, c->id);
	space_done(&c->space);
	maps_quiet_done(&c->quiet);
	maps_quiet_done(&c->quiet_since_takeover);
	free(c->unneeded);
	free(c->rows_gone);
	if (c->link)
		munmap(c->link, sizeof(*c->link));
	closer_close(c->socket);
	const int fds[] = {c->uffd, c->pidfd, c->procdir, c->pagemap, c->mem, c->link_fd,
		c->doorbell, c->agent_pidfd};
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	pthread_mutex_destroy(&c->gate);
	free(c);
}

bool client_is_calm(const struct client *c)
{
	return !c->birth && c->waiting_count == 0 && !space_unsettled(&c->space) &&
	       !space_in_doubt(&c->space);
}

uint64_t client_clock(const struct client *c)
{
	return c->journal ? journal_end(c->journal) : c->clock;
}

void client_mark_gone(struct client *c)
{
	if (atomic_exchange(&c->state, CLIENT_GONE) != CLIENT_GONE)
		worker_kick(c->worker);
}
