/* The table of clients: all of it under worker.lock, which is held for moments only. */
#include "journal.h"
#include "log.h"
#include "points.h"
#include "state.h"
#include "worker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { PLACE_BITS = 24 /* of a client's token: 16 million at once */ };

struct client *worker_new_client(struct worker *w, int uffd)
{
	pthread_mutex_lock(&w->lock);
	uint64_t id = atomic_fetch_add(&w->state->last_id, 1) + 1;
	pthread_mutex_unlock(&w->lock);
	struct client *c = client_new(w, id, uffd);
	(void)journal_new(
		&c->journal, w->store_dir, id); /* without it, it is only not found again */
	return c;
}

void worker_count_client(struct worker *w, struct client *c)
{
	uint32_t number = c->record ? (uint32_t)(c->record - w->state->record) : 0;
	struct counter_slot *s = c->record ? counters_claim(w->counters, number, c->id) : NULL;

	if (s)
		counters_add(&s->sum, &c->counts); /* until now */
	c->counted = s;
}

void worker_record_client(struct worker *w, struct client *c)
{
	struct state_record r = {.parent = c->parent,
		.family = c->space.family,
		.pid = c->pid,
		.agent_pid = c->agent_pid,
		.uid = c->uid,
		.protocol = c->protocol,
		.journal = c->journal ? journal_fd(c->journal) : -1,
		.staging = c->staging,
		.bell = c->bell,
		.pid_inode = descriptor_inode(c->pidfd),
		.agent_inode = descriptor_inode(c->agent_pidfd),
		.uffd_inode = descriptor_inode(c->uffd),
		.link_inode = descriptor_inode(c->link_fd),
		.doorbell_inode = descriptor_inode(c->doorbell),
		.born_ms = c->born_ms,
		.min_age_ms = c->min_age_ms};

	atomic_init(&r.id, c->id);
	atomic_init(&r.joined, c->link != NULL);
	memcpy(r.exe, c->exe, sizeof(r.exe));
	memcpy(r.policy, c->policy, sizeof(r.policy));
#define X(name) r.name = c->name;
	STATE_FDS(X)
#undef X
	pthread_mutex_lock(&w->lock);
	if (c->record) {
		state_join(c->record, &r);
	} else {
		c->record = state_add(w->state, &r);
		worker_count_client(w, c);
	}
	pthread_mutex_unlock(&w->lock);
	if (!c->record)
		log_warn("client %llu (%s): there are too many; should the service crash, it "
			 "is lost",
			(unsigned long long)c->id, c->exe);
}

/* Under the lock. */
static void take_place(struct worker *w, struct client *c)
{
	size_t i = 0;

	while (i < w->place_count && w->place[i])
		i++;
	while (i == w->place_count) {
		size_t room = w->place_count ? w->place_count * 2 : 64;
		struct client **more = realloc(w->place, room * sizeof(struct client *));
		if (!more)
			continue;
		memset(more + w->place_count, 0,
			(room - w->place_count) * sizeof(struct client *));
		w->place = more;
		w->place_count = room;
	}
	w->place[i] = c;
	c->token = c->id << PLACE_BITS | i;
}

/* Under the lock: room for one more. */
static void make_room(struct client ***list, size_t count, size_t *room)
{
	while (count == *room) {
		size_t wanted = *room ? *room * 2 : 64;
		struct client **more = realloc(*list, wanted * sizeof(struct client *));
		if (!more)
			continue;
		*list = more;
		*room = wanted;
	}
}

void worker_table_add(struct worker *w, struct client *c)
{
	pthread_mutex_lock(&w->lock);
	make_room(&w->client, w->client_count, &w->client_room);
	w->client[w->client_count++] = c;
	take_place(w, c);
	pthread_mutex_unlock(&w->lock);
}

static bool take_out(struct client **list, size_t *count, const struct client *c)
{
	for (size_t i = 0; i < *count; i++)
		if (list[i] == c) {
			list[i] = list[--*count];
			return true;
		}
	return false;
}

void worker_table_end(struct worker *w, struct client *c)
{
	pthread_mutex_lock(&w->lock);
	if (take_out(w->client, &w->client_count, c)) {
		w->place[c->token & ((1U << PLACE_BITS) - 1)] = NULL;
		make_room(&w->ended, w->ended_count, &w->ended_room);
		w->ended[w->ended_count++] = c;
	}
	pthread_mutex_unlock(&w->lock);
}

void worker_table_forget(struct worker *w, struct client *c)
{
	pthread_mutex_lock(&w->lock);
	bool had = take_out(w->ended, &w->ended_count, c);
	pthread_mutex_unlock(&w->lock);
	if (!had)
		return;
	point(POINT_forgotten);
	client_unref(c);
}

struct client *worker_by_token(struct worker *w, uint64_t token)
{
	size_t i = token & ((1U << PLACE_BITS) - 1);

	pthread_mutex_lock(&w->lock);
	struct client *c = i < w->place_count ? w->place[i] : NULL;
	if (c && c->token != token)
		c = NULL;
	if (c)
		client_ref(c);
	pthread_mutex_unlock(&w->lock);
	return c;
}

static int copy_clients(struct worker *w, bool ended, struct client ***ret, size_t *ret_count)
{
	pthread_mutex_lock(&w->lock);
	size_t count = w->client_count + (ended ? w->ended_count : 0);
	struct client **copy = malloc((count ? count : 1) * sizeof(struct client *));
	for (size_t i = 0; copy && i < count; i++) {
		copy[i] = i < w->client_count ? w->client[i] : w->ended[i - w->client_count];
		client_ref(copy[i]);
	}
	pthread_mutex_unlock(&w->lock);
	if (!copy)
		return -ENOMEM;
	*ret = copy;
	*ret_count = count;
	return 0;
}

int worker_clients(struct worker *w, struct client ***ret, size_t *ret_count)
{
	return copy_clients(w, false, ret, ret_count);
}

int worker_clients_and_ended(struct worker *w, struct client ***ret, size_t *ret_count)
{
	return copy_clients(w, true, ret, ret_count);
}

bool worker_needs_rows(const struct client *c, const struct client *parent)
{
	return c->id > parent->id && c->space.family == parent->space.family &&
	       !atomic_load(&c->indexed) && !atomic_load(&c->dropped);
}

int worker_descendants(
	struct worker *w, const struct client *parent, struct client ***ret, size_t *ret_count)
{
	struct client **found = NULL;
	size_t count = 0, room = 0;

	pthread_mutex_lock(&w->lock);
	for (size_t i = 0; i < w->client_count + w->ended_count; i++) {
		struct client *c =
			i < w->client_count ? w->client[i] : w->ended[i - w->client_count];
		if (!worker_needs_rows(c, parent))
			continue;
		make_room(&found, count, &room);
		client_ref(c);
		found[count++] = c;
	}
	pthread_mutex_unlock(&w->lock);
	*ret = found;
	*ret_count = count;
	return 0;
}

size_t worker_count_user(struct worker *w, uid_t uid)
{
	size_t count = 0;

	pthread_mutex_lock(&w->lock);
	for (size_t i = 0; i < w->client_count; i++)
		count += w->client[i]->uid == uid;
	pthread_mutex_unlock(&w->lock);
	return count;
}

struct client *worker_walk(struct worker *w, size_t *at)
{
	struct client *found = NULL;

	pthread_mutex_lock(&w->lock);
	while (*at < w->place_count && !found)
		found = w->place[(*at)++];
	if (found)
		client_ref(found);
	pthread_mutex_unlock(&w->lock);
	return found;
}

struct client *worker_next(struct worker *w, uint64_t id)
{
	struct client *best = NULL;

	pthread_mutex_lock(&w->lock);
	for (size_t i = 0; i < w->client_count; i++)
		if (w->client[i]->id >= id && (!best || w->client[i]->id < best->id))
			best = w->client[i];
	if (best)
		client_ref(best);
	pthread_mutex_unlock(&w->lock);
	return best;
}

struct client *worker_by_id(struct worker *w, uint64_t id)
{
	struct client *found = NULL;

	pthread_mutex_lock(&w->lock);
	for (size_t i = 0; i < w->client_count && !found; i++)
		if (w->client[i]->id == id)
			found = w->client[i];
	if (found)
		client_ref(found);
	pthread_mutex_unlock(&w->lock);
	return found;
}

struct client *worker_find(struct worker *w, pid_t pid)
{
	struct client *found = NULL;

	pthread_mutex_lock(&w->lock);
	for (size_t i = 0; i < w->client_count; i++)
		if (w->client[i]->pid == pid && client_state(w->client[i]) != CLIENT_GONE)
			found = w->client[i]; /* the newest: an exec leaves the old one for a
						 moment */
	if (found)
		client_ref(found);
	pthread_mutex_unlock(&w->lock);
	return found;
}
