#include "adopt.h"
#include "cleanup.h"
#include "give_back.h"
#include "journal.h"
#include "log.h"
#include "pagemap.h"
#include "pager.h"
#include "points.h"
#include "pulse.h"
#include "settle.h"
#include "uffd.h"
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
	REGISTER_TRIES = 100,
	/* For memory that turned out unfit; the eviction is off when it doesn't suffice. */
	UNFIT_MS = 1000,
};

struct candidates {
	struct client *client;
	struct pager *pager;
	uint64_t *thread;
	size_t thread_count;
	struct map *map;
	size_t count, room;
	uint64_t given_before; /* of the client, when we began to look */
	struct adopt_result *result;
};

static bool holds_thread(const struct candidates *k, const struct map *m)
{
	return maps_holds_thread(m, k->thread, k->thread_count);
}

/* The program has made such a call since we looked, and the mapping may be another by now:
 * locked, or wiped on fork. */
static bool changed_since(const struct client *c, uint64_t before, uint64_t start, uint64_t end)
{
	if (c->given_count - before > GIVEN_MAX)
		return true;
	for (uint64_t i = before; i < c->given_count; i++) {
		const struct region *g = &c->given[i % GIVEN_MAX];
		if (g->start < end && start < g->end)
			return true;
	}
	return false;
}

/* Gate held. The program is inside a call that must not meet a registration (rules 7, 12). */
static bool kept_out(const struct client *c, uint64_t start, uint64_t end)
{
	for (unsigned i = 0; i < LINK_REQUESTS; i++) {
		const struct link_request *q = &c->link->request[i];
		uint32_t state = atomic_load(&q->state);
		if ((state == LINK_POSTED || state == LINK_DONE) && q->addr < end &&
			start < q->addr + q->len)
			return true;
	}
	return false;
}

/* Why nothing is to be registered at all, or NULL. Nobody's word but the program's own. */
static const char *all_kept_out(const struct client *c)
{
	const char *why = NULL;

	for (unsigned i = 0; i < LINK_REQUESTS; i++) {
		const struct link_request *q = &c->link->request[i];
		uint32_t state = atomic_load(&q->state);
		if ((state != LINK_POSTED && state != LINK_DONE) || q->addr != 0 ||
			q->len < 1ULL << 47)
			continue;
		if (q->reason == LINK_FOR_LIMITS)
			return "lowered its RLIMIT_AS or RLIMIT_DATA below 64 MiB: all was "
			       "given back, "
			       "and it is left alone from now on";
		why = "is inside a call that needs all of its memory back (mlockall, or "
		      "userfaultfd)";
	}
	return why;
}

/* A stack that the C library keeps for its next thread holds none now. But the last one's
 * control block is there still: at the stack's end, beginning with its own address, and with it
 * again 16 bytes on (x86-64's ABI for thread-local storage, "ELF Handling For Thread-Local
 * Storage", and glibc's tcbhead_t). */
static bool was_stack(const struct client *c, const struct map *m)
{
	uint64_t word[PAGE_SIZE / sizeof(uint64_t)], page = m->end - PAGE_SIZE;

	if (m->rss == 0)
		return false;
	pulse_call_begin();
	ssize_t n = pread(c->mem, word, sizeof(word), (off_t)page);
	pulse_call_end();
	for (size_t i = 0; n == sizeof(word) && i + 2 < PAGE_SIZE / sizeof(*word); i += 2) {
		uint64_t at = page + i * sizeof(*word);
		if (word[i] == at && word[i + 2] == at)
			return true;
	}
	return false;
}

static int consider(void *arg, const struct map *m)
{
	struct candidates *k = arg;
	enum map_refusal refusal = m->refusal;

	if (refusal == MAPS_OK && m->uffd) {
		int ours = uffd_registered(k->client->uffd, m->start);
		/* With the fence up it can't be told whose it is: the next look will. */
		if (ours < 0)
			return ours == -ESRCH ? ours : 0;
		if (ours == 0)
			refusal = MAPS_FOREIGN_UFFD;
	}
	if (refusal == MAPS_OK && (holds_thread(k, m) || was_stack(k->client, m)))
		refusal = MAPS_THREAD;
	if (refusal != MAPS_OK) {
		k->result->refused_bytes[refusal] += m->rss;
		/* It was fit once: a heap page can become a stack (rule 11). */
		if (!m->uffd)
			return 0;
		gate_lock(k->client);
		bool managed = space_region_overlaps(&k->client->space, m->start, m->end);
		gate_unlock(k->pager, k->client);
		if (!managed)
			return 0;
	}
	if (k->count == k->room) {
		size_t room = k->room ? k->room * 2 : 64;
		struct map *more = realloc(k->map, room * sizeof(*more));
		if (!more)
			return -ENOMEM;
		k->map = more;
		k->room = room;
	}
	k->map[k->count] = *m;
	k->map[k->count++].refusal = refusal;
	return 0;
}

/* Gate held. Registers, and puts on record what is registered then: not what we saw in /proc
 * before, of which a part may be gone by now. A hole on record would be taken for ours when
 * something is mapped there later, and what is evicted from an unregistered mapping is lost.
 *
 * Only with the fence down on both sides: an UNMAP of what lay here before would strike the new
 * region off (rule 6). Else it is in doubt until the fence is down. Nothing is ever
 * unregistered here: with the fence up, a mapping with evicted pages may have been moved here.
 */
static int register_now(struct client *c, uint64_t start, uint64_t end)
{
	journal_add(c->journal, JOURNAL_ASK, start, end, 0, 0);
	int r = uffd_register(c->uffd, start, end - start, UFFDIO_REGISTER_MODE_MISSING);
	point(POINT_registered);
	/* These are said before anything is done. */
	bool none = r == -EBUSY || r == -EINVAL;
	int asked = none		     ? 0
		    : r < 0		     ? r
		    : uffd_fence_up(c->uffd) ? -EAGAIN
					     : settle_range(c, start, end);
	if (asked < 0)
		settle_later(c, start, end);
	else
		journal_add(c->journal, JOURNAL_ASKED, 0, 0, 0, 0);
	return r < 0 ? r : asked;
}

int adopt_range(struct pager *p, struct client *c, uint64_t start, uint64_t end)
{
	struct timespec pause = {.tv_nsec = 100000};
	bool registered = false;

	for (int i = 0; i < REGISTER_TRIES; i++) {
		if (!uffd_fence_up(c->uffd) && !space_in_doubt(&c->space)) {
			if (registered)
				return 0;
			/* A fork from now on has the new mapping's pages (rule 5). */
			int r = settle_forget(c);
			bool calm = r == 0;
			if (calm)
				r = register_now(c, start, end);
			if (r != -EAGAIN)
				return r;
			registered = calm;
		}
		int r = pager_drain(p, c);
		if (r < 0)
			return r;
		nanosleep(&pause, NULL);
	}
	return -EAGAIN;
}

/* Gate held. 1: all of [start, end) is registered and on record already. */
static int check_known(struct client *c, uint64_t start, uint64_t end)
{
	if (!space_region_overlaps(&c->space, start, end))
		return 0;
	if (uffd_fence_up(c->uffd))
		return -EAGAIN;
	/* Since we looked, other mappings may have come to lie here. */
	int r = settle_range(c, start, end);
	const struct region *known = space_region_at(&c->space, start);
	return r < 0 ? r : known && known->end >= end;
}

static int adopt_one(struct pager *p, struct client *c, const struct map *m, uint64_t before,
	struct adopt_result *res)
{
	int r;

	gate_lock(c);
	r = pager_drain(p, c);
	if (r == 0)
		r = space_in_doubt(&c->space) || kept_out(c, m->start, m->end) ||
				    changed_since(c, before, m->start, m->end)
			    ? 1
			    : check_known(c, m->start, m->end);
	if (r == 0)
		r = adopt_range(p, c, m->start, m->end);
	gate_unlock(p, c);
	if (r == -EBUSY)
		res->refused_bytes[MAPS_FOREIGN_UFFD] += m->rss;
	/* The program changed or removed it since we looked: not this time. */
	return r == -ESRCH || r == -ENOMEM ? r : 0;
}

static int look(struct client *c, pid_t task, struct candidates *k)
{
	char name[32];
	int r = maps_thread_addresses(
		c->procdir, k->thread, MAPS_THREADS_MAX, &k->thread_count);

	snprintf(name, sizeof(name), "task/%d", (int)task);
	_cleanup_fd_ int dir =
		r < 0 ? -1 : openat(c->procdir, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (r == 0 && dir < 0)
		r = -EAGAIN; /* it ended just now: the next order finds another */
	return r < 0 ? r : maps_read(dir, MAPS_MIN_BYTES, consider, k);
}

/* A thread may have got its stack in a region after we looked: look again, now that it is known
 * what is registered. Later ones are found by the next call. */
static int drop_unfit(struct pager *p, struct client *c, struct candidates *k)
{
	int r = 0;

	for (size_t i = 0; i < k->count && r == 0; i++) {
		const struct map *m = &k->map[i];
		if (m->refusal != MAPS_OK || holds_thread(k, m))
			r = give_back(p, c, m->start, m->end, UNFIT_MS);
	}
	return r == -EAGAIN ? -EBUSY : r;
}

/* A process that shared the memory and was killed in a call took the event with it, so what is
 * on record may be unmapped by now. It would be kept for nothing, and be taken for the content
 * of what grows into that place. */
static int ask_known(struct pager *p, struct client *c)
{
	uint64_t from = 0;
	int r = 0;

	while (r == 0) {
		size_t i = 0;
		gate_lock(c);
		r = pager_drain(p, c);
		while (i < c->space.region_count && c->space.region[i].end <= from)
			i++;
		bool any = i < c->space.region_count;
		struct region g = any ? c->space.region[i] : (struct region){from, from};
		/* While something changes there: the next look will. */
		if (r == 0 && any && !space_in_doubt(&c->space) && !uffd_fence_up(c->uffd))
			r = settle_range(c, g.start, g.end);
		gate_unlock(p, c);
		from = g.end;
		if (!any)
			break;
	}
	return r == -EAGAIN ? 0 : r;
}

int adopt_mappings(struct pager *p, struct client *c, struct adopt_result *ret)
{
	struct candidates k = {.client = c, .pager = p, .result = ret};
	pid_t task;
	int r = maps_memory_task(c->procdir, c->agent_pid, &task);

	memset(ret, 0, sizeof(*ret));
	if (r == 0)
		r = maps_process_refusal(c->procdir, task, c->agent_pid, &ret->why);
	if (r == 0 && !ret->why)
		ret->why = all_kept_out(c);
	if (r < 0 || ret->why)
		/* Another image runs by now. That is no word that this memory is gone. */
		return r == -ENOENT ? -EAGAIN : r;
	gate_lock(c);
	k.given_before = c->given_count;
	gate_unlock(p, c);
	r = ask_known(p, c);
	k.thread = malloc(MAPS_THREADS_MAX * sizeof(*k.thread));
	if (r == 0)
		r = k.thread ? look(c, task, &k) : -ENOMEM;
	point(POINT_adopt);
	for (size_t i = 0; i < k.count && r == 0; i++)
		if (k.map[i].refusal == MAPS_OK)
			r = adopt_one(p, c, &k.map[i], k.given_before, ret);
	if (r == 0)
		r = maps_thread_addresses(
			c->procdir, k.thread, MAPS_THREADS_MAX, &k.thread_count);
	if (r == 0)
		r = drop_unfit(p, c, &k);
	free(k.thread);
	free(k.map);
	return r;
}

/* What the page table says of a page, against what we had on record. The fence need not be
 * down: a MOVE that rests on something that was just overtaken will fail. */
static enum page_state seen(uint32_t e, enum page_presence here, bool settled)
{
	switch (entry_state(e)) {
	case PAGE_ABSENT:
		/* Discarded, and the zap not known to be done: seeing it prove nothing (rule
		 * 4). */
		if (here == PAGE_HERE && !(e & ENTRY_SUSPECT))
			return PAGE_RESIDENT;
		return PAGE_ABSENT;
	case PAGE_RESIDENT:
		return here == PAGE_HERE ? PAGE_RESIDENT : PAGE_ABSENT;
	case PAGE_HELD:
	case PAGE_STORED:
		/* It came back when there was another worker. */
		if (here == PAGE_HERE && settled)
			return PAGE_RESIDENT;
		break;
	}
	return entry_state(e);
}

int adopt_block(struct client *c, uint64_t number)
{
	uint64_t base = number << BLOCK_SHIFT;
	uint8_t here[BLOCK_PAGES];
	int r = pagemap_read(c->pagemap, base, BLOCK_PAGES, here);

	if (r < 0)
		return r;
	/* Then nothing has moved that isn't on record, and what is there is the page. */
	bool settled = !space_in_doubt(&c->space) && !uffd_fence_up(c->uffd);
	for (unsigned i = 0; i < BLOCK_PAGES; i++) {
		uint64_t addr = base + i * PAGE_SIZE;
		uint32_t e = space_entry(&c->space, addr);

		if (!space_region_at(&c->space, addr))
			continue;
		/* Absent after the REMOVE was read: nothing of it is left to come back. */
		if ((e & ENTRY_SUSPECT) && here[i] == PAGE_NONE) {
			space_set_state(&c->space, addr, PAGE_ABSENT);
			continue;
		}
		enum page_state now = seen(e, here[i], settled);
		if (now != entry_state(e))
			space_set_state(&c->space, addr, now);
	}
	return 0;
}
