#include "recover.h"
#include "attach.h"
#include "batch.h"
#include "journal.h"
#include "log.h"
#include "order.h"
#include "pagemap.h"
#include "pager.h"
#include "points.h"
#include "readers.h"
#include "recover_internal.h"
#include "restorer.h"
#include "row.h"
#include "shadow.h"
#include "space_internal.h"
#include "state.h"
#include "uffd.h"
#include "worker.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { RESTORE_TRIES = 1000 /* of a ms, each */ };

/* ---- descriptors ---- */

static bool waits_in(const struct state_record *r, int fd)
{
	struct journal *j;
	bool waits = false;

	/* A descriptor of our own, which goes with it. */
	int own = dup(r->journal);
	if (own < 0 || journal_adopt(&j, own) < 0) {
		if (own >= 0)
			close(own);
		return true; /* it may: better that a child waits than that it reads zeros */
	}
	for (uint64_t at = journal_begin(j); at < journal_end(j) && !waits; at++) {
		const struct uffd_msg *m = journal_at(j, at);
		waits = m->event == UFFD_EVENT_FORK && (int)m->arg.fork.ufd == fd;
	}
	journal_free(j);
	return waits;
}

/* One that was applied has a record, or is gone, and its number another file's: then it is none
 * of ours any more, and at worst kept open. */
static bool is_wanted(const struct state *s, const int *keep, unsigned count, int fd)
{
	if (fd <= STDERR_FILENO || state_has_fd(s, fd))
		return true;
	for (unsigned i = 0; i < count; i++)
		if (keep[i] == fd)
			return true;
	if (!uffd_is_one(fd))
		return false; /* before all journals are looked through */
	for (uint32_t i = 0; i < atomic_load(&s->top); i++)
		if (atomic_load(&s->record[i].id) != 0 && waits_in(&s->record[i], fd))
			return true;
	return false;
}

void recover_close_strangers(const struct state *s, const int *keep, unsigned keep_count)
{
	DIR *dir = opendir("/proc/self/fd");

	if (!dir) {
		log_warn("/proc/self/fd: %s: descriptors stay open", strerror(errno));
		return;
	}
	for (struct dirent *e; (e = readdir(dir));) {
		int fd = atoi(e->d_name);
		if (e->d_name[0] != '.' && fd != dirfd(dir) &&
			!is_wanted(s, keep, keep_count, fd))
			close(fd);
	}
	closedir(dir);
}

/* ---- clients ---- */

static int by_id(const void *a, const void *b)
{
	uint64_t x = (*(struct client *const *)a)->id, y = (*(struct client *const *)b)->id;
	return x < y ? -1 : x > y;
}

struct client *recover_find(const struct recovery *r, uint64_t id)
{
	for (size_t i = 0; i < r->count; i++)
		if (r->client[i]->id == id)
			return r->client[i];
	return NULL;
}

static void map_link(struct client *c)
{
	void *map =
		mmap(NULL, sizeof(*c->link), PROT_READ | PROT_WRITE, MAP_SHARED, c->link_fd, 0);

	if (map == MAP_FAILED) {
		/* Served, and nothing is taken from it. */
		if (c->link_fd >= 0) /* else it was said (comeback.c) */
			log_warn("client %d (%s): its link: %s", (int)c->pid, c->exe,
				strerror(errno));
		c->agent_pid = 0;
		return;
	}
	c->link = map;
	atomic_store(&c->link->head.accepted, LINK_ACCEPTED);
	c->order_seq = atomic_load(&c->link->head.seq);
	/* Whatever is there is given back or stored before the next order. */
	c->staging_used = true;
}

static void take_journal(struct client *c, int fd)
{
	journal_free(c->journal);
	c->journal = NULL;
	int r = fd < 0 ? -EBADMSG : journal_adopt(&c->journal, fd);
	if (r < 0 || journal_lost(c->journal)) {
		c->failed = true;
		log_error(
			"client %d (%s): its journal is lost or damaged; none of its faults is "
			"answered",
			(int)c->pid, c->exe);
	}
}

/* As its record has it. A descriptor that it doesn't have is -1 in a new client. */
static void take_client(struct worker *w, struct state_record *from)
{
	struct client *c = client_new(w, atomic_load(&from->id), from->uffd);
	bool joined = atomic_load(&from->joined) != 0;

	c->record = from;
	c->parent = from->parent;
	if (from->family)
		c->space.family = from->family;
	c->uid = from->uid;
	memcpy(c->exe, from->exe, sizeof(c->exe));
	memcpy(c->policy, from->policy, sizeof(c->policy));
	c->born_ms = from->born_ms;
	c->min_age_ms = from->min_age_ms;
	if (joined) {
#define X(name) c->name = from->name;
		STATE_FDS(X)
#undef X
		c->pid = from->pid;
		c->agent_pid = from->agent_pid;
		c->staging = from->staging;
		c->bell = from->bell;
		c->protocol = from->protocol ? (uint16_t)from->protocol : 1;
		map_link(c);
	}
	/* To be told again, or forgotten. */
	c->may_be_stored = true;
	take_journal(c, from->journal); /* what it says names the client */
	atomic_store(&c->state, !joined			       ? CLIENT_FORKED
				: atomic_load(&from->released) ? CLIENT_RELEASED
							       : CLIENT_MANAGED);
	worker_count_client(w, c);
	worker_table_add(w, c);
}

static void take_clients(struct recovery *r)
{
	struct worker *w = r->worker;

	for (uint32_t i = 0; i < atomic_load(&w->state->top); i++)
		if (atomic_load(&w->state->record[i].id) != 0)
			take_client(w, &w->state->record[i]);
	r->client = space_alloc((w->client_count + 1) * sizeof(struct client *));
	r->has_origin = space_alloc(w->client_count + 1);
	memset(r->has_origin, 0, w->client_count + 1);
	r->count = w->client_count;
	for (size_t i = 0; i < r->count; i++)
		r->client[i] = w->client[i];
	/* Parents before their children: ids grow. */
	if (r->count > 0)
		qsort(r->client, r->count, sizeof(struct client *), by_id);
}

/* ---- rows ---- */

static int on_leaf(void *arg, const struct store_leaf *row)
{
	struct recovery *r = arg;
	struct leaf *leaf = leaf_new(&r->worker->graveyard, 0);

	leaf->id = row->id;
	atomic_store(&leaf->row, LEAF_CLEAN);
	atomic_store(&leaf->refs, 0);
	for (unsigned i = 0; i < BLOCK_PAGES; i++) {
		if (row->entries[i] == BLOB_NONE)
			continue;
		leaf->entry[i] = entry_make(PAGE_STORED, row->entries[i]);
		leaf->out++;
	}
	space_make_room((void **)&r->leaf, r->leaf_count, &r->leaf_room, sizeof(*r->leaf));
	r->leaf[r->leaf_count++] = (struct found_leaf){.id = row->id, .leaf = leaf};
	return 0;
}

static int by_leaf_id(const void *a, const void *b)
{
	uint64_t x = ((const struct found_leaf *)a)->id, y = ((const struct found_leaf *)b)->id;
	return x < y ? -1 : x > y;
}

static void use_leaf(struct recovery *r, struct found_leaf *f)
{
	f->used = true;
	f->leaf->family = r->loading->space.family;
	for (unsigned i = 0; i < BLOCK_PAGES; i++)
		if (entry_state(f->leaf->entry[i]) == PAGE_STORED)
			store_ref(r->worker->store, entry_value(f->leaf->entry[i]));
}

static int on_block(void *arg, uint64_t block, uint64_t leaf)
{
	struct recovery *r = arg;
	const struct found_leaf key = {.id = leaf};
	struct found_leaf *f = r->leaf_count > 0 ? bsearch(&key, r->leaf, r->leaf_count,
							   sizeof(key), by_leaf_id)
						 : NULL;

	if (!f)
		return -EBADMSG; /* the store has checked that */
	if (f->used)
		atomic_store(&f->leaf->shared, true);
	else
		use_leaf(r, f);
	atomic_fetch_add(&f->leaf->refs, 1);
	space_block_insert(&r->loading->space, block, f->leaf);
	return 0;
}

/* What was just read is what the rows say. */
static void all_clean(struct space *s)
{
	for (size_t i = 0; i < s->block_count; i++)
		s->block[i].listed = s->block[i].remapped = false;
	s->dirty_count = 0;
}

struct batch *recover_batch(struct client *owner, uint64_t number)
{
	if (owner->batch || !owner->link)
		return owner->batch;
	while (!(owner->batch = batch_new(owner, number, NULL)))
		usleep(1000);
	return owner->batch;
}

/* Gate not needed: nobody else is here yet. -1: the space has all the batches that it can. */
static int tag_for(struct client *c, struct batch *b)
{
	int tag = b ? space_held_tag(&c->space, b) : -1;

	if (b && tag < 0) {
		tag = space_hold(&c->space, b);
		if (tag >= 0)
			batch_follow(b, c);
	}
	return tag;
}

void recover_hold(struct client *c, struct batch *b, uint64_t addr, unsigned slot)
{
	int tag = tag_for(c, b);

	if (tag < 0) {
		c->failed = true;
		log_error(
			"client %d (%s): page 0x%llx is in staging and can't be told; none of "
			"its faults is answered",
			(int)c->pid, c->exe, (unsigned long long)addr);
		return;
	}
	uint64_t number = addr >> BLOCK_SHIFT;
	unsigned page = (unsigned)(addr / PAGE_SIZE % BLOCK_PAGES);
	struct leaf *leaf = space_leaf(&c->space, number);
	graveyard_add_blob(c->space.graveyard, c->space.family, entry_blob(leaf->entry[page]));
	space_set(&c->space, number, leaf, page,
		entry_make(PAGE_HELD, (unsigned)tag << HELD_SLOT_BITS | slot));
	if (!batch_has(b, slot)) {
		b->moved[slot / 64] |= 1ULL << slot % 64;
		b->count++;
	}
}

int recover_staging(struct client *c, uint8_t *ret)
{
	/* The agent may be at it still: from here on a late MOVE fails (rule 2). */
	order_close(c);
	point(POINT_recover_closed);
	int r = pagemap_read(c->pagemap, c->staging, LINK_SLOTS, ret);
	/* It reads as empty then. */
	return r == 0 && pagemap_alive(c->pagemap) ? 0 : -ESRCH;
}

/* Is it there, or was it there when the owner's memory went? Then the link has it; and where
 * that is gone too, nobody has it (recover_hold fails whose page it is). */
static bool in_staging(struct client *owner, unsigned slot)
{
	uint8_t here[LINK_SLOTS];

	return !owner->link || recover_staging(owner, here) < 0 || here[slot] != PAGE_NONE;
}

static int load_client(struct recovery *r, struct client *c, const struct store_client *row,
	const struct row_page **ret_pages, uint32_t *ret_count)
{
	int e = row_unpack(c, row->state, row->state_length, ret_pages, ret_count);
	if (e < 0) {
		snprintf(r->why, sizeof(r->why), "table client, row %llu: its state",
			(unsigned long long)row->id);
		return e;
	}
	c->row_clock = row->clock;
	atomic_store(&c->indexed, true);
	r->loading = c;
	e = store_each_block(r->worker->store, c->id, on_block, r, r->why);
	all_clean(&c->space);
	return e;
}

/* Once it is known which leaves are shared. */
static void hold_pages(
	const struct recovery *r, struct client *c, const struct row_page *page, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		struct row_page p;
		memcpy(&p, &page[i], sizeof(p));
		struct client *owner = recover_find(r, p.owner);
		if (owner)
			owner->rows_name_staging = true;
		if (p.slot < LINK_SLOTS && owner && p.clock > owner->zapped_clock &&
			in_staging(owner, (unsigned)p.slot))
			recover_hold(c, recover_batch(owner, p.addr >> BLOCK_SHIFT), p.addr,
				(unsigned)p.slot);
	}
}

struct wanted_rows {
	struct recovery *r;
	struct kept_row {
		struct store_client row;
		void *state; /* owned */
		struct client *client;
		const struct row_page *pages; /* in state */
		uint32_t page_count;
	} * kept;
	size_t count, room;
};

/* The blocks can't be asked for from inside of this. */
static int on_client(void *arg, const struct store_client *row)
{
	struct wanted_rows *rows = arg;
	struct recovery *r = rows->r;

	if (!recover_find(r, row->id)) {
		space_make_room((void **)&r->stranger, r->stranger_count, &r->stranger_room,
			sizeof(*r->stranger));
		r->stranger[r->stranger_count++] = row->id;
		return 0;
	}
	struct kept_row k = {.row = *row, .state = space_alloc(row->state_length + 1)};
	memcpy(k.state, row->state, row->state_length);
	k.row.state = k.state;
	space_make_room((void **)&rows->kept, rows->count, &rows->room, sizeof(k));
	rows->kept[rows->count++] = k;
	return 0;
}

static int load_rows(struct recovery *r)
{
	struct wanted_rows rows = {.r = r};
	int e = store_each_leaf(r->worker->store, on_leaf, r, r->why);

	if (r->leaf_count > 0)
		qsort(r->leaf, r->leaf_count, sizeof(*r->leaf), by_leaf_id);
	if (e == 0)
		e = store_each_client(r->worker->store, on_client, &rows, r->why);
	for (size_t i = 0; i < rows.count && e == 0; i++) {
		struct kept_row *k = &rows.kept[i];
		k->client = recover_find(r, k->row.id);
		e = load_client(r, k->client, &k->row, &k->pages, &k->page_count);
		point(POINT_recover_rows);
	}
	for (size_t i = 0; i < rows.count; i++) {
		struct kept_row *k = &rows.kept[i];
		if (e == 0)
			hold_pages(r, k->client, k->pages, k->page_count);
		free(k->state);
	}
	free(rows.kept);
	return e;
}

/* Rows that nobody needs. After store_reopen_finish, as store.h wants it. */
static int drop_strangers(struct recovery *r)
{
	struct store *store = r->worker->store;
	int e = store_txn_begin(store);

	if (e < 0)
		return e;
	for (size_t i = 0; i < r->stranger_count && e == 0; i++)
		e = store_index_client_drop(store, r->stranger[i]);
	for (size_t i = 0; i < r->leaf_count && e == 0; i++)
		if (!r->leaf[i].used)
			e = store_index_leaf_drop(store, r->leaf[i].id);
	if (e == 0)
		return store_txn_commit(store);
	store_txn_abort(store);
	return e;
}

static void forget_rows(struct recovery *r)
{
	for (size_t i = 0; i < r->leaf_count; i++)
		if (!r->leaf[i].used)
			leaf_free(&r->worker->graveyard, r->leaf[i].leaf);
	free(r->leaf);
	free(r->stranger);
}

/* ---- what the kernel says ---- */

/* The bytes of what is in staging, whether the agent came to copy them or not. */
static void refill_link(struct client *c)
{
	for (unsigned i = 0; i < LINK_SLOTS; i++) {
		if (!c->batch || !batch_has(c->batch, i))
			continue;
		ssize_t n = pread(c->mem, c->link->data[i], PAGE_SIZE,
			(off_t)(c->staging + i * PAGE_SIZE));
		if (n == (ssize_t)PAGE_SIZE || !pagemap_alive(c->pagemap))
			continue;
		c->failed = true;
		log_error("client %d (%s): pages in staging can't be read; no fault of this "
			  "client is answered any more",
			(int)c->pid, c->exe);
		return;
	}
}

/* What the client has, wins; but not while there is an event that nobody has read, or that
 * waits: then something else can lie where a page was that has moved. The fence stays up until
 * the event is read, so what it isn't up for after a look was so at the look. (Those that
 * aren't seen here are when their block is next looked at: adopt_block.) */
static void see_presence(struct client *c)
{
	struct space *s = &c->space;
	uint8_t here[BLOCK_PAGES];

	for (size_t i = 0; i < s->block_count; i++) {
		uint64_t base = s->block[i].number << BLOCK_SHIFT;
		if (s->block[i].leaf->out == 0)
			continue;
		if (pagemap_read(c->pagemap, base, BLOCK_PAGES, here) < 0 ||
			uffd_fence_up(c->uffd))
			return;
		for (unsigned page = 0; page < BLOCK_PAGES; page++)
			if (here[page] == PAGE_HERE && entry_out(s->block[i].leaf->entry[page]))
				space_set_state(s, base + page * PAGE_SIZE, PAGE_RESIDENT);
	}
}

static void compare(struct client *c)
{
	if (c->link && c->batch)
		refill_link(c);
	/* No REMOVE that was read before tells of itself any more (rule 4). */
	c->space.wary = true;
	if (c->birth || c->pagemap < 0 || space_in_doubt(&c->space))
		return;
	see_presence(c);
	point(POINT_recover_seen);
}

int recover_clients(struct worker *w)
{
	struct recovery r = {.worker = w};
	uint64_t last_client, last_leaf, began = worker_now_ms(), out = 0;

	store_last_ids(w->store, &last_client, &last_leaf);
	if (atomic_load(&w->state->last_id) < last_client)
		atomic_store(&w->state->last_id, last_client);
	atomic_store(&w->graveyard.next_id, last_leaf + 1);
	take_clients(&r);
	point(POINT_recover_clients);
	for (size_t i = 0; i < r.count; i++)
		replay_find_zap(r.client[i]);
	int e = load_rows(&r);
	point(POINT_recover_all_rows);
	if (e == 0) {
		replay_all(&r);
		for (size_t i = 0; i < r.count; i++)
			compare(r.client[i]);
		for (size_t i = 0; i < r.count; i++)
			shadow_compare(r.client[i]);
		store_reopen_finish(w->store);
		point(POINT_recover_dead);
		e = drop_strangers(&r);
		point(POINT_recover_clean);
	}
	for (size_t i = 0; i < r.count; i++)
		out += r.client[i]->space.out_pages;
	if (e < 0)
		log_error("%s/store/index.db: %s: %s; clients wait, nothing is served",
			w->runtime_dir, r.why, strerror(-e));
	else
		log_info("took over %zu clients with %llu MiB evicted in %llu ms", r.count,
			(unsigned long long)(out * PAGE_SIZE >> 20),
			(unsigned long long)(worker_now_ms() - began));
	forget_rows(&r);
	free(r.client);
	free(r.has_origin);
	return e;
}

/* ---- resuming ---- */

/* All that a program can have, so those too who wait where nothing is on record. */
static void wake_all(const struct client *c)
{
	const uint64_t first = 1 << 16, end = (1ULL << 47) - PAGE_SIZE;

	int r = uffd_wake(c->uffd, first, end - first);
	if (r < 0 && r != -ESRCH)
		log_error("client %d (%s): can't be woken: %s", (int)c->pid, c->exe,
			strerror(-r));
}

/* Was the page put back or not? Now it is: before anybody goes on who waited for it. */
static void restore_again(struct pager *p, struct client *c)
{
	struct region g = c->restoring;
	int r = 0;

	c->restoring = (struct region){0, 0};
	for (int i = 0; i < RESTORE_TRIES && g.start < g.end && r != -ESRCH; i++) {
		unsigned pages = (unsigned)((g.end - g.start) / PAGE_SIZE), done = 0;
		gate_lock(c);
		r = pager_drain(p, c);
		bool out = entry_out(space_entry(&c->space, g.start));
		if (r == 0 && out && !c->birth && !space_in_doubt(&c->space))
			r = pager_restore(p, c, g.start, pages, &done);
		else if (r == 0 && out)
			r = -EAGAIN;
		gate_unlock(p, c);
		g.start += r == -EAGAIN ? 0 : done > 0 ? done * PAGE_SIZE : PAGE_SIZE;
		if (r == -EAGAIN)
			usleep(1000);
	}
	if (g.start >= g.end || r == -ESRCH)
		return;
	c->failed = true;
	log_error("client %llu (%s): page 0x%llx can't be put back; none of its faults is "
		  "answered",
		(unsigned long long)c->id, c->exe, (unsigned long long)g.start);
}

static void restore_all_again(struct worker *w, struct client **client, size_t count)
{
	struct pager p;
	bool any = false;

	for (size_t i = 0; i < count; i++)
		any |= client[i]->restoring.end > 0;
	while (any && pager_init(&p, w) < 0)
		usleep(1000);
	for (size_t i = 0; any && i < count; i++)
		restore_again(&p, client[i]);
	if (any)
		pager_done(&p);
}

void recover_resume(struct worker *w)
{
	struct client **client;
	size_t count;

	point(POINT_recover_threads);
	while (worker_clients(w, &client, &count) < 0)
		usleep(1000);
	restore_all_again(w, client, count);
	for (size_t i = 0; i < count; i++) {
		struct client *c = client[i];
		int r = readers_add(w->readers, c);
		if (r < 0 && r != -EEXIST) /* a child that was just found is there */
			log_error("client %d: can't be served: %s", (int)c->pid, strerror(-r));
		worker_watch_client(w, c);
		point(POINT_recover_wake);
		if (c->link && c->parent != 0 && !atomic_load(&c->record->told))
			(void)attach_adopted(c);
		wake_all(c);
		point(POINT_recover_woken);
		if (c->link) {
			order_remind(c);
			restorer_ring(w->restorer, c);
		}
		worker_retry_later(w, c, 1);
		client_unref(c);
	}
	free(client);
	worker_kick(w);
}
