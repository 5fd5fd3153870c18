#include "waits.h"
#include "log.h"
#include "uffd.h"
#include "worker.h"

enum { LONG_MS = 5000 };

/* Of client.long_waits: the log tells of it. */
enum { LONG_EVENTS = 1, LONG_BIRTH = 2, LONG_REQUEST = 4 };

/* 0: it isn't. */
static uint64_t age_ms(uint64_t now_ns, uint64_t since_ns)
{
	if (since_ns == 0)
		return 0;
	return now_ns - since_ns < 1000000 || now_ns < since_ns ? 1
								: (now_ns - since_ns) / 1000000;
}

static uint64_t oldest_fault_ns(const struct client *c)
{
	uint64_t oldest = c->early_fault_ns;

	for (unsigned i = 0; i < c->deferred_count; i++)
		if (oldest == 0 || c->deferred[i].read_ns < oldest)
			oldest = c->deferred[i].read_ns;
	return oldest;
}

void waits_of(const struct client *c, struct waits *ret)
{
	uint64_t now = worker_now_ns();

	*ret = (struct waits){.faults = c->deferred_count + c->early_faults,
		.oldest_fault_ms = age_ms(now, oldest_fault_ns(c)),
		.events = c->waiting_count,
		.events_ms = c->waiting_count > 0 ? age_ms(now, c->waiting_since_ns) : 0,
		.unborn_ms = c->birth ? age_ms(now, c->unborn_since_ns) : 0,
		.request_ms = age_ms(now, atomic_load(&c->asked_since_ns))};
}

/* ---- the log ---- */

/* Is it to be told of now? */
static bool is_news(struct client *c, unsigned which, uint64_t ms)
{
	if (ms < LONG_MS)
		c->long_waits &= ~which;
	if (ms < LONG_MS || c->long_waits & which)
		return false;
	c->long_waits |= which;
	return true;
}

static void tell_of_event(const struct client *c, const struct uffd_msg *m, uint64_t count)
{
	bool moves = m->event == UFFD_EVENT_REMAP;
	uint64_t start = moves ? m->arg.remap.to : m->arg.remove.start;

	log_warn("client %llu (%s): %llu events wait for another one, which has to come first: "
		 "0x%llx was %s; meanwhile none of its faults is answered",
		(unsigned long long)c->id, c->exe, (unsigned long long)count,
		(unsigned long long)start, moves ? "moved to" : "unmapped or discarded");
}

static void tell(struct client *c, const struct waits *waits, const struct uffd_msg *first)
{
	const unsigned long long id = c->id, parent = c->parent;

	if (is_news(c, LONG_EVENTS, waits->events_ms))
		tell_of_event(c, first, waits->events);
	if (is_news(c, LONG_BIRTH, waits->unborn_ms))
		log_warn("client %llu (%s): was forked by client %llu, and waits for the calls "
			 "of that one's threads, or of its own, to be told of; meanwhile none "
			 "of its faults is answered (%llu so far)",
			id, c->exe, parent, (unsigned long long)waits->faults);
	if (is_news(c, LONG_REQUEST, waits->request_ms))
		log_warn("client %llu (%s): its program waits for memory that it asked to be "
			 "given back, before a call of its own",
			id, c->exe);
}

void waits_look(struct client *c)
{
	struct uffd_msg first = {.event = 0};
	struct waits waits;

	if (pthread_mutex_trylock(&c->gate) != 0)
		return;
	waits_of(c, &waits);
	if (c->waiting_count > 0)
		first = c->waiting[0];
	pthread_mutex_unlock(&c->gate);
	if (atomic_load(&c->pending))
		worker_retry_later(c->worker, c, 1);
	tell(c, &waits, &first);
}
