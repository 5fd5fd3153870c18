#include "release.h"
#include "cleanup.h"
#include "control.h"
#include "evictor.h"
#include "give_back.h"
#include "log.h"
#include "notify.h"
#include "order.h"
#include "owner.h"
#include "pace.h"
#include "pager.h"
#include "points.h"
#include "state.h"
#include "uffd.h"
#include "worker.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	/* One client's turn. */
	SLICE_MS = 20,
	SLICE_BYTES = 16 << 20,
	/* As the pages go back, the store can shrink by what held them: each time that so much
	 * was restored, and whenever there is no room. */
	HOUSE_BYTES = 64 << 20,
	WAIT_MS = 50,
	/* By order: so long without a page, and it ends. */
	IDLE_MS = 10000,
	SAY_MS = 5000,
	BELL_TRIES = 1000,
	OWNER_TRIES = 1000,
};

/* ---- what is left ---- */

/* Gate held. */
static bool has_any(const struct client *c)
{
	return c->space.region_count > 0 || c->space.out_pages > 0 || c->space.aside_count > 0;
}

static void add_left(struct client *c, struct release_left *left)
{
	pthread_mutex_lock(&c->gate);
	left->clients += has_any(c);
	left->bytes += c->space.out_pages * PAGE_SIZE;
	pthread_mutex_unlock(&c->gate);
	if (atomic_load(&c->pending))
		worker_retry_later(c->worker, c, 1);
}

void release_left(struct worker *w, struct release_left *ret)
{
	struct release_left left = {0};
	struct client *c;

	for (size_t at = 0; (c = worker_walk(w, &at));) {
		if (client_state(c) != CLIENT_GONE)
			add_left(c, &left);
		client_unref(c);
	}
	*ret = left;
}

/* ---- one slice of one client ---- */

/* Without /proc/meminfo there is nothing to go by, and going on is better than keeping the
 * pages; the log says so at the start. */
static uint64_t room_for_slice(const struct worker *w)
{
	struct pace_memory m;
	uint64_t room;

	if (w->meminfo_fd < 0 || pace_read(w->meminfo_fd, &m) < 0)
		return SLICE_BYTES;
	room = pace_room(&m);
	return room < SLICE_BYTES ? room : SLICE_BYTES;
}

struct turn {
	uint64_t bytes; /* that went back, by us or by faults */
	bool no_room;	/* it would have been more */
};

/* 0: it has nothing with us any more. -EAGAIN: it has. Others as give_back has them. */
static int release_slice(struct pager *p, struct client *c, struct turn *ret)
{
	int managed = CLIENT_MANAGED;
	uint64_t before = atomic_load(&client_counts(c)->pages_restored),
		 room = room_for_slice(p->worker);

	/* An eviction that is under way stops at the next block. */
	if (atomic_compare_exchange_strong(&c->state, &managed, CLIENT_RELEASED) && c->record) {
		point(POINT_release);
		atomic_store(&c->record->released, 1);
		point(POINT_released);
	}
	int r = give_back_some(p, c, room, SLICE_MS);
	ret->bytes = (atomic_load(&client_counts(c)->pages_restored) - before) * PAGE_SIZE;
	ret->no_room = r == -EDQUOT && room < SLICE_BYTES;
	return r == -EDQUOT ? -EAGAIN : r;
}

/* Lets the store shrink when that may be of use. */
static void let_shrink(struct worker *w, uint64_t *since, const struct turn *t)
{
	*since += t->bytes;
	if (!t->no_room && *since < HOUSE_BYTES)
		return;
	*since = 0;
	evictor_keep_house(w->evictor);
}

/* ---- by order ---- */

int release_client(struct pager *p, struct client *c)
{
	uint64_t since = 0, got_on_ms = worker_now_ms();
	struct turn t;
	int r;

	while ((r = release_slice(p, c, &t)) == -EAGAIN) {
		let_shrink(p->worker, &since, &t);
		if (t.bytes > 0)
			got_on_ms = worker_now_ms();
		else if (worker_now_ms() - got_on_ms >= IDLE_MS)
			return t.no_room ? -ENOSPC : -ETIMEDOUT;
		if (t.no_room)
			usleep(WAIT_MS * 1000);
	}
	return r;
}

struct tally {
	struct release_all_result *result;
	uint64_t since_house;
	bool some, got_on, no_room; /* as in struct release */
	bool failed;		    /* not in this round alone */
};

/* What was taken over again meanwhile isn't ours to undo: so this ends. first: the round in
 * which nobody was told yet. */
static void release_one(struct pager *p, struct client *c, bool first, struct tally *t)
{
	struct turn turn;

	if (client_state(c) == CLIENT_GONE || (!first && client_state(c) == CLIENT_MANAGED))
		return;
	gate_lock(c);
	bool any = has_any(c);
	gate_unlock(p, c);
	if (!any && !first)
		return;
	int r = release_slice(p, c, &turn);
	t->result->restored_pages += turn.bytes / PAGE_SIZE;
	t->result->clients += r == 0 && any;
	t->some |= r == -EAGAIN;
	t->failed |= r < 0 && r != -EAGAIN && r != -ESRCH;
	t->got_on |= turn.bytes > 0 || (r == 0 && any);
	t->no_room |= turn.no_room;
	let_shrink(p->worker, &t->since_house, &turn);
}

static void why_left(const struct worker *w, const struct tally *t, char *why, size_t size)
{
	char bytes[PACE_TEXT];
	struct pace_memory m;

	if (!t->no_room || pace_read(w->meminfo_fd, &m) < 0)
		snprintf(why, size,
			"their memory limits leave no room, their events don't end, or a page "
			"is damaged (see the log)");
	else
		snprintf(why, size,
			"the machine has no more room: %s available, all but what is kept "
			"free; add swap, or end programs, and give the order again",
			pace_text(m.available, bytes));
}

void release_all(struct pager *p, struct release_all_result *ret)
{
	struct tally t = {.result = ret};
	uint64_t got_on_ms = worker_now_ms();
	struct release_left left;
	bool first = true;

	memset(ret, 0, sizeof(*ret));
	do {
		struct client *c;
		t.some = t.got_on = t.no_room = false;
		for (size_t at = 0; (c = worker_walk(p->worker, &at));) {
			release_one(p, c, first, &t);
			client_unref(c);
		}
		first = false;
		if (t.got_on)
			got_on_ms = worker_now_ms();
		else if (t.some)
			usleep(WAIT_MS * 1000);
	} while (t.some && worker_now_ms() - got_on_ms < IDLE_MS);
	release_left(p->worker, &left);
	ret->left_clients = left.clients;
	ret->left_pages = left.bytes / PAGE_SIZE;
	if (t.some || t.failed)
		why_left(p->worker, &t, ret->why, sizeof(ret->why));
}

/* ---- the end of the service ---- */

/* Of a forked child that has no agent. */
static int find_owner(struct pager *p, struct client *c, pid_t *ret_pid)
{
	int r = -EAGAIN;

	for (int i = 0; i < OWNER_TRIES && r == -EAGAIN; i++) {
		pager_service(p, c);
		r = owner_find(c->uffd, NULL, ret_pid);
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

static void say_what(struct worker *w, const struct release_left *left)
{
	char need[PACE_TEXT], have[PACE_TEXT], store[PACE_TEXT], lack[PACE_TEXT];
	struct pace_memory m;
	struct store_stats st;

	store_stats(w->store, &st);
	pace_text(left->bytes, need);
	if (w->meminfo_fd < 0 || pace_read(w->meminfo_fd, &m) < 0) {
		log_warn("ending: restoring %s of %llu programs; how much memory there is "
			 "isn't known",
			need, (unsigned long long)left->clients);
		return;
	}
	/* What the store has goes back as its pages do. */
	uint64_t room = pace_room(&m) + st.segment_bytes;
	pace_text(m.available, have);
	if (left->bytes <= room) {
		log_info("ending: restoring %s of %llu programs with %s available", need,
			(unsigned long long)left->clients, have);
		return;
	}
	log_warn("ending: restoring %s with %s available: %s don't fit, though the store gives "
		 "back %s meanwhile. What doesn't fit waits until there is room, and is served "
		 "as ever; nothing is lost. Add swap, or end programs (larder status); don't "
		 "kill larderd with SIGKILL",
		need, have, pace_text(left->bytes - room, lack),
		pace_text(st.segment_bytes, store));
}

static void how_far(const struct release *r, char *text, size_t size)
{
	struct release_left left;
	char bytes[PACE_TEXT];

	release_left(r->worker, &left);
	snprintf(text, size, "ending: %llu programs and %s left%s",
		(unsigned long long)left.clients, pace_text(left.bytes, bytes),
		r->waits ? "; waiting for room: add swap, or end programs" : "");
}

void release_begin(struct release *r, struct worker *w, bool children)
{
	struct release_left left;
	char text[200];

	*r = (struct release){.worker = w, .children = children, .said_ms = worker_now_ms()};
	if (children) {
		log_info("ending: programs keep what is out for the next larderd; their "
			 "children without an agent get theirs back");
		notify_stopping("ending: programs wait for the next larderd");
		return;
	}
	release_left(w, &left);
	say_what(w, &left);
	how_far(r, text, sizeof(text));
	notify_stopping(text);
}

static void say_how_far(struct release *r)
{
	char text[200];

	if (r->children || worker_now_ms() - r->said_ms < SAY_MS)
		return;
	r->said_ms = worker_now_ms();
	how_far(r, text, sizeof(text));
	log_info("%s", text);
	notify_status(text);
}

/* One client's turn. */
static void step_client(struct release *r, struct pager *p, struct client *c)
{
	struct turn t;

	gate_lock(c);
	bool any = has_any(c);
	gate_unlock(p, c);
	if (!any || client_state(c) == CLIENT_GONE || (r->children && c->link))
		return;
	r->some = true;
	int e = release_slice(p, c, &t);
	r->got_on |= t.bytes > 0 || e == 0;
	r->no_room |= t.no_room;
	let_shrink(r->worker, &r->since_house, &t);
	if (e < 0 && e != -ESRCH && e != -EAGAIN)
		give_up(p, c, e);
}

/* The round is over. An address space with nothing registered reports no fork, so there is a
 * last one; but an eviction that was under way as it began may have registered something. */
static bool end_round(struct release *r, unsigned *ret_wait_ms)
{
	bool busy = evictor_is_evicting(r->worker->evictor);
	bool done = !r->some && !busy && r->alone;

	r->alone = !busy;
	r->waits = r->no_room && !r->got_on;
	trouble_set(r->worker, TROUBLE_ROOM, r->waits);
	*ret_wait_ms = r->some && !r->got_on ? WAIT_MS : 0;
	if (busy && !r->some)
		*ret_wait_ms = 1;
	r->at = 0;
	r->some = r->got_on = r->no_room = false;
	return done;
}

bool release_step(struct release *r, struct pager *p, unsigned *ret_wait_ms)
{
	struct client *c = worker_walk(r->worker, &r->at);

	*ret_wait_ms = 0;
	say_how_far(r);
	if (!c)
		return end_round(r, ret_wait_ms);
	step_client(r, p, c);
	client_unref(c);
	return false;
}

/* Whoever waits at the bell goes on. If events, or no memory, keep us from opening it, closing
 * the uffd will. */
static void say_goodbye(struct pager *p, struct client *c)
{
	atomic_store(&c->link->head.closed, LINK_ALL_BACK);
	for (int i = 0; i < BELL_TRIES; i++) {
		int r = uffd_protect(c->uffd, c->bell, PAGE_SIZE, false);
		if (r != -EAGAIN && r != -ENOMEM)
			break;
		pager_service(p, c);
	}
	order_exit(c->link, c->doorbell);
	point(POINT_goodbye);
}

void release_goodbye(struct worker *w)
{
	struct pager pager;

	while (pager_init(&pager, w) < 0)
		usleep(1000);
	for (size_t i = 0; i < w->client_count; i++)
		if (w->client[i]->link)
			say_goodbye(&pager, w->client[i]);
	pager_done(&pager);
}
