#include "client.h"
#include "fdstore.h"
#include "notify.h"
#include "points.h"
#include "worker.h"

/* So many a second are told at once: a shell that forks now and then is below, a build isn't.
 */
enum { AT_ONCE = 20 };

static void store(struct client *c)
{
	char name[FDSTORE_NAME];

	fdstore_name(name, c->id);
	c->stored = notify_store(name, c->uffd);
	point(POINT_kept);
}

static bool is_first(struct worker *w)
{
	uint64_t second = worker_now_ms() / 1000;

	pthread_mutex_lock(&w->lock);
	if (w->kept_second != second)
		w->kept_count = 0;
	w->kept_second = second;
	bool first = w->kept_count++ < AT_ONCE;
	pthread_mutex_unlock(&w->lock);
	return first;
}

static bool would_lose(const struct client *c)
{
	return c->birth || c->space.out_pages > 0;
}

void fdstore_begin(struct worker *w, struct client *c)
{
	if (client_state(c) == CLIENT_FORKED && notify_can() && would_lose(c) && is_first(w))
		store(c);
}

/* What was sent to it may lie in its socket, where no other service finds it. */
static bool agent_has_it(const struct client *c)
{
	return c->link && atomic_load(&c->link->head.asleep);
}

void fdstore_sweep(struct client *c)
{
	bool lose;

	if (client_state(c) == CLIENT_MANAGED && c->parent != 0 && agent_has_it(c))
		fdstore_forget(c);
	if (client_state(c) != CLIENT_FORKED || c->stored || !notify_can())
		return;
	/* The next time, if a reader is at it. */
	if (pthread_mutex_trylock(&c->gate) != 0)
		return;
	lose = would_lose(c);
	pthread_mutex_unlock(&c->gate);
	if (atomic_load(&c->pending))
		worker_retry_later(c->worker, c, 1);
	if (lose)
		store(c);
}

void fdstore_forget(struct client *c)
{
	char name[FDSTORE_NAME];

	if (!c->stored && !c->may_be_stored)
		return;
	fdstore_name(name, c->id);
	notify_store_remove(name);
	c->stored = c->may_be_stored = false;
}
