/* A worker that is killed at any point that has a name (svc/points.h), while programs change
 * their memory, fork and end, and it evicts, answers and writes rows: the next one knows where
 * every page of every program is (DESIGN rules 8 to 10). All of it in one thread, by seed: the
 * kernel, the agents (kernel_model.h) and the store are models, what is between them is the
 * service's. When it is killed, its memory is gone; what stays are the state table, journals,
 * links, the rows that were committed, and the blobs that they name.
 *
 * Whatever is put into a program is compared with what it has to find there, and from time to
 * time all is fetched. A program that is refused (rule 8) has failed the test, unless nobody
 * could have told: what a child of several threads has, of which some moved memory meanwhile.
 */
#include "adopt.h"
#include "attach.h"
#include "batch.h"
#include "birth.h"
#include "closer.h"
#include "codec_pool.h"
#include "evict_block.h"
#include "evictor.h"
#include "give_back.h"
#include "indexer.h"
#include "journal.h"
#include "kernel_model.h"
#include "log.h"
#include "order.h"
#include "pager.h"
#include "points.h"
#include "readers.h"
#include "recover.h"
#include "restorer.h"
#include "sequence.h"
#include "settle.h"
#include "space_internal.h"
#include "state.h"
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

enum {
	SEEDS = 150,
	LIVES = 12, /* of workers, in one run */
	STEPS = 120,
	ROWS = 64,
	LEAF_ROWS = 512,
	STATE_BYTES = 1024,
	BLOBS = 2048,
	FDS = 1024,
	MAPS = 256,
	FETCH_TRIES = 3000,
};

/* What the database has. */
struct row_of_client {
	uint64_t id, parent, clock;
	uint32_t length;
	char state[STATE_BYTES];
	uint64_t leaf[PLACES];
};
struct row_of_leaf {
	uint64_t id;
	blob_t entry[PLACE_PAGES];
};
struct rows {
	struct row_of_client client[ROWS];
	struct row_of_leaf leaf[LEAF_ROWS];
	uint64_t last_client, last_leaf;
};

static struct world {
	uint64_t seed, now_ns;
	struct state *state;
	struct rows committed, now;
	bool in_txn;
	bool reopened; /* the store has references of its own to what rows name */
	int refs[BLOBS];
	bool used[BLOBS], freeable[BLOBS];
	uint32_t content[BLOBS];
	/* The worker's, gone with it. */
	struct worker worker;
	struct pager pager;
	struct batch *unfinished;
	jmp_buf killed;
	bool serves;	/* not only takes over */
	uint64_t where; /* enum point: only these; POINT_COUNT: all */
	uint64_t fuse;	/* points until it is killed */
	bool mortal;
	unsigned steps, refused, deaths;
	struct {
		void *at;
		size_t size;
	} map[MAPS];
	bool memfd[FDS];
} * w;

static uint64_t rnd(uint64_t below)
{
	w->seed ^= w->seed << 13;
	w->seed ^= w->seed >> 7;
	w->seed ^= w->seed << 17;
	return w->seed % below;
}

/* ---- being killed ---- */

bool points_chosen = true;

void points_act(enum point p)
{
	static const char *const name[] = {
#define X(name, help) #name,
		POINTS(X)
#undef X
	};

	if (!w->mortal || (w->where < POINT_COUNT && p != w->where) || w->fuse-- > 0)
		return;
	if (getenv("SEED"))
		print_message("killed at %s\n", name[p]);
	longjmp(w->killed, 1);
}

/* What a worker has in memory goes with it. */
static struct {
	_Alignas(4096) char bytes[64 << 20];
	size_t used;
} heap;

static void *take(size_t size, size_t align)
{
	size_t at = (heap.used + sizeof(size_t) + align - 1) / align * align;

	assert_true(at + size <= sizeof(heap.bytes));
	memcpy(heap.bytes + at - sizeof(size_t), &size, sizeof(size));
	heap.used = at + size;
	return heap.bytes + at;
}

void *__wrap_malloc(size_t size);
void *__wrap_malloc(size_t size)
{
	return take(size, 16);
}

void *__wrap_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size)
{
	return memset(take(count * size, 16), 0, count * size);
}

void *__wrap_aligned_alloc(size_t align, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size)
{
	return take(size, align);
}

void *__wrap_realloc(void *old, size_t size);
void *__wrap_realloc(void *old, size_t size)
{
	size_t had = 0;
	void *new = take(size, 16);

	if (old)
		memcpy(&had, (char *)old - sizeof(had), sizeof(had));
	return old ? memcpy(new, old, had < size ? had : size) : new;
}

void __wrap_free(void *p);
void __wrap_free(void *p)
{
	(void)p;
}

void *__real_mmap(void *at, size_t size, int prot, int flags, int fd, off_t off);
void *__wrap_mmap(void *at, size_t size, int prot, int flags, int fd, off_t off);
void *__wrap_mmap(void *at, size_t size, int prot, int flags, int fd, off_t off)
{
	void *p = __real_mmap(at, size, prot, flags, fd, off);
	int i = 0;

	while (w->map[i].at)
		assert_true(++i < MAPS);
	w->map[i].at = p;
	w->map[i].size = size;
	return p;
}

int __real_munmap(void *at, size_t size);
int __wrap_munmap(void *at, size_t size);
int __wrap_munmap(void *at, size_t size)
{
	for (int i = 0; i < MAPS; i++)
		if (w->map[i].at == at)
			w->map[i].at = NULL;
	return __real_munmap(at, size);
}

int __real_memfd_create(const char *name, unsigned flags);
int __wrap_memfd_create(const char *name, unsigned flags);
int __wrap_memfd_create(const char *name, unsigned flags)
{
	int fd = __real_memfd_create(name, flags);

	assert_true(fd >= 0 && fd < FDS);
	w->memfd[fd] = true;
	return fd;
}

/* Descriptors stay, but for those that nobody has on record. */
static void bury_worker(void)
{
	heap.used = 0;
	for (int i = 0; i < MAPS; i++)
		if (w->map[i].at)
			__wrap_munmap(w->map[i].at, w->map[i].size);
	for (int fd = 0; fd < FDS; fd++)
		if (w->memfd[fd] && !state_has_fd(w->state, fd)) {
			w->memfd[fd] = false;
			close(fd);
		}
	memset(&w->worker, 0, sizeof(w->worker));
	memset(&w->pager, 0, sizeof(w->pager));
	w->unfinished = NULL;
	w->in_txn = w->serves = false;
}

/* ---- the store ---- */

void store_ref(struct store *s, blob_t b)
{
	(void)s;
	assert_true(b != BLOB_NONE && w->used[b] && w->refs[b] > 0);
	w->refs[b]++;
}

void store_unref(struct store *s, blob_t b)
{
	(void)s;
	if (b == BLOB_NONE)
		return;
	assert_true(w->used[b] && w->refs[b] > 0);
	w->refs[b]--;
}

bool store_has_dead(struct store *s)
{
	(void)s;
	for (blob_t b = 1; b < BLOBS; b++)
		if (w->used[b] && w->refs[b] == 0)
			return true;
	return false;
}

int store_scratch_new(struct store_scratch **ret)
{
	*ret = NULL;
	return 0;
}

void store_scratch_free(struct store_scratch *x)
{
	(void)x;
}

int store_pack(struct store_scratch *x, const struct store_method *how, const void *page,
	struct store_packed *ret)
{
	uint32_t number;

	(void)x, (void)how;
	memcpy(&number, page, sizeof(number));
	*ret = (struct store_packed){.checksum = number};
	return 0;
}

uint32_t store_packed_size(const struct store_packed *p)
{
	(void)p;
	return 1;
}

/* A handle that was another's comes again as soon as it may. */
int store_put(struct store *s, const struct store_packed *p, uint32_t stamp, blob_t *ret)
{
	blob_t b = 1;

	(void)s, (void)stamp;
	if (rnd(30) == 0)
		return -ENOSPC;
	while (w->used[b])
		assert_true(++b < BLOBS);
	w->used[b] = true;
	w->refs[b] = 1;
	w->content[b] = (uint32_t)p->checksum;
	*ret = b;
	return 0;
}

int store_get(struct store *s, struct store_scratch *x, blob_t b, void *page)
{
	(void)s, (void)x;
	assert_true(w->used[b] && w->refs[b] > 0);
	memset(page, 0, STORE_PAGE);
	memcpy(page, &w->content[b], sizeof(w->content[b]));
	return 0;
}

int store_txn_begin(struct store *s)
{
	(void)s;
	assert_false(w->in_txn);
	w->in_txn = true;
	w->now = w->committed;
	for (blob_t b = 1; b < BLOBS; b++)
		w->freeable[b] = w->used[b] && w->refs[b] == 0;
	point(POINT_begun);
	return 0;
}

int store_txn_commit(struct store *s)
{
	(void)s;
	assert_true(w->in_txn);
	w->in_txn = false;
	if (w->serves && rnd(20) == 0)
		return -ENOSPC;
	w->committed = w->now;
	point(POINT_committed);
	for (blob_t b = 1; b < BLOBS; b++)
		if (w->freeable[b] && w->refs[b] == 0)
			w->used[b] = false;
	return 0;
}

void store_txn_abort(struct store *s)
{
	(void)s;
	w->in_txn = false;
}

static struct row_of_client *row_of(struct rows *r, uint64_t id)
{
	for (int i = 0; i < ROWS; i++)
		if (r->client[i].id == id)
			return &r->client[i];
	return NULL;
}

static struct row_of_leaf *leaf_row(struct rows *r, uint64_t id)
{
	for (int i = 0; i < LEAF_ROWS; i++)
		if (r->leaf[i].id == id)
			return &r->leaf[i];
	return NULL;
}

/* The client's row comes after those of its blocks. */
static struct row_of_client *some_row_of(uint64_t id)
{
	struct row_of_client *row = row_of(&w->now, id);

	if (!row) {
		row = row_of(&w->now, 0);
		assert_non_null(row);
		memset(row, 0, sizeof(*row));
		row->id = id;
	}
	return row;
}

int store_index_client(struct store *s, const struct store_client *c)
{
	struct row_of_client *row = some_row_of(c->id);

	(void)s;
	assert_true(c->state_length <= STATE_BYTES);
	row->parent = c->parent;
	row->clock = c->clock;
	row->length = c->state_length;
	memcpy(row->state, c->state, c->state_length);
	if (w->now.last_client < c->id)
		w->now.last_client = c->id;
	return 0;
}

int store_index_client_drop(struct store *s, uint64_t client)
{
	struct row_of_client *row = row_of(&w->now, client);

	(void)s;
	if (row)
		memset(row, 0, sizeof(*row));
	return 0;
}

int store_index_leaf(
	struct store *s, uint64_t leaf, uint64_t clock, const blob_t entries[STORE_LEAF_PAGES])
{
	struct row_of_leaf *row = leaf_row(&w->now, leaf);

	(void)s, (void)clock;
	if (!row)
		row = leaf_row(&w->now, 0);
	assert_non_null(row);
	row->id = leaf;
	memcpy(row->entry, entries, sizeof(row->entry));
	if (w->now.last_leaf < leaf)
		w->now.last_leaf = leaf;
	return 0;
}

int store_index_leaf_drop(struct store *s, uint64_t leaf)
{
	struct row_of_leaf *row = leaf_row(&w->now, leaf);

	(void)s;
	if (row)
		memset(row, 0, sizeof(*row));
	return 0;
}

int store_index_block(struct store *s, uint64_t client, uint64_t block, uint64_t leaf)
{
	(void)s;
	some_row_of(client)->leaf[block - (PLACE_FIRST >> BLOCK_SHIFT)] = leaf;
	return 0;
}

/* ---- the store, opened again ---- */

/* Of blobs there is what rows name, each once for the store. */
static void reopen_store(void)
{
	memset(w->refs, 0, sizeof(w->refs));
	for (int i = 0; i < LEAF_ROWS; i++)
		for (int k = 0; w->committed.leaf[i].id && k < PLACE_PAGES; k++) {
			blob_t b = w->committed.leaf[i].entry[k];
			assert_true(b == BLOB_NONE || w->used[b]);
			w->refs[b] = 1;
		}
	for (blob_t b = 1; b < BLOBS; b++)
		w->used[b] = w->refs[b] > 0;
	w->reopened = true;
}

void store_reopen_finish(struct store *s)
{
	for (blob_t b = 1; w->reopened && b < BLOBS; b++)
		if (w->used[b])
			store_unref(s, b);
	w->reopened = false;
}

void store_last_ids(struct store *s, uint64_t *ret_client, uint64_t *ret_leaf)
{
	(void)s;
	*ret_client = w->committed.last_client;
	*ret_leaf = w->committed.last_leaf;
}

int store_each_client(struct store *s, store_client_fn *found, void *arg, char why[STORE_WHY])
{
	int r = 0;

	(void)s, (void)why;
	for (int i = 0; i < ROWS && r == 0; i++) {
		const struct row_of_client *row = &w->committed.client[i];
		const struct store_client c = {.id = row->id,
			.parent = row->parent,
			.clock = row->clock,
			.exe = "",
			.policy = "",
			.state = row->state,
			.state_length = row->length};
		if (row->id)
			r = found(arg, &c);
	}
	return r;
}

int store_each_block(
	struct store *s, uint64_t client, store_block_fn *found, void *arg, char why[STORE_WHY])
{
	const struct row_of_client *row = row_of(&w->committed, client);
	int r = 0;

	(void)s, (void)why;
	for (unsigned i = 0; i < PLACES && r == 0; i++)
		if (row->leaf[i])
			r = found(arg, (PLACE_FIRST >> BLOCK_SHIFT) + i, row->leaf[i]);
	return r;
}

int store_each_leaf(struct store *s, store_leaf_fn *found, void *arg, char why[STORE_WHY])
{
	int r = 0;

	(void)s, (void)why;
	for (int i = 0; i < LEAF_ROWS && r == 0; i++) {
		blob_t entries[STORE_LEAF_PAGES] = {0};
		const struct store_leaf l = {.id = w->committed.leaf[i].id, .entries = entries};
		memcpy(entries, w->committed.leaf[i].entry, sizeof(w->committed.leaf[i].entry));
		if (l.id)
			r = found(arg, &l);
	}
	return r;
}

/* ---- orders ---- */

static struct memory *memory_of(const struct client *c)
{
	return model_by_uffd(c->uffd);
}

int order_open(struct client *c)
{
	model_agent(memory_of(c), false); /* what a worker before had posted */
	memory_of(c)->staging_open = true;
	return 0;
}

void order_close(struct client *c)
{
	model_agent(memory_of(c), false);
	memory_of(c)->staging_open = false;
}

int order_move(struct client *c, uint64_t block, unsigned first, unsigned count,
	struct order_result *ret)
{
	struct memory *m = memory_of(c);
	unsigned place = (unsigned)(block - (PLACE_FIRST >> BLOCK_SHIFT));
	struct order_result res = {.error = 0};
	bool had[LINK_SLOTS];

	memcpy(had, m->staged, sizeof(had));
	journal_add(c->journal, JOURNAL_ORDER, block, first, first + count, 0);
	point(POINT_order_told);
	m->pending = (struct pending){
		.move = true, .place = place, .first = first, .end = first + count};
	c->clock++;
	point(POINT_posted);
	point(POINT_order_posted);
	c->staging_used = true;
	model_agent(m, true);
	for (unsigned i = first; i < first + count; i++)
		if (m->staged[i] && !had[i])
			res.moved[i / 64] |= 1ULL << i % 64;
	res.error = model_fence_up(m) ? -EAGAIN : 0;
	*ret = res;
	return 0;
}

int order_zap(struct client *c)
{
	if (!c->staging_used)
		return 0;
	memory_of(c)->pending = (struct pending){.zap = true};
	point(POINT_zap_posted);
	if (rnd(20) == 0)
		return -ETIME;
	model_agent(memory_of(c), true);
	c->staging_used = false;
	return 0;
}

int order_unshare(struct client *c, uint64_t addr, unsigned pages)
{
	(void)c, (void)addr, (void)pages;
	return 0;
}

void order_remind(struct client *c)
{
	model_agent(memory_of(c), false);
}

/* ---- what surrounds it ---- */

void log_line(enum log_level level, const char *format, ...)
{
	char text[400];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (getenv("SEED"))
		print_message("%s\n", text);
	if (level > LOG_ERROR)
		return;
	w->refused++;
	if (!strstr(text, "was forked while its parent moved evicted memory"))
		fail_msg("%s", text);
}

uint64_t worker_now_ns(void)
{
	return w->now_ns += rnd(200000);
}

uint64_t worker_now_ms(void)
{
	return worker_now_ns() / 1000000;
}

int __wrap_nanosleep(const struct timespec *time, struct timespec *left);
int __wrap_nanosleep(const struct timespec *time, struct timespec *left)
{
	(void)left;
	w->now_ns += (uint64_t)time->tv_nsec;
	model_step(model_memory((unsigned)rnd(MEMORIES)));
	return 0;
}

int __wrap_usleep(useconds_t us);
int __wrap_usleep(useconds_t us)
{
	w->now_ns += us * 1000ULL;
	for (unsigned i = 0; i < MEMORIES; i++)
		model_calm(model_memory(i));
	return 0;
}

void codec_pool_run(struct codec_pool *p, unsigned count, codec_fn *fn, void *arg)
{
	(void)p, (void)count;
	for (unsigned i = 0; i < PLACE_PAGES; i++)
		fn(arg, i, NULL);
}

void worker_publish_client(struct worker *worker, struct client *c)
{
	worker_table_add(worker, c);
}

void worker_kick(struct worker *worker)
{
	(void)worker;
}

void worker_retry_later(struct worker *worker, struct client *c, uint64_t delay_ns)
{
	(void)worker, (void)c, (void)delay_ns;
}

void worker_watch_client(struct worker *worker, struct client *c)
{
	(void)worker, (void)c;
}

int readers_add(struct readers *r, struct client *c)
{
	(void)r, (void)c;
	return 0;
}

void restorer_ring(struct restorer *r, struct client *c)
{
	(void)r, (void)c;
}

int attach_adopted(struct client *c)
{
	(void)c;
	return 0;
}

void trouble_set(struct worker *worker, enum trouble t, bool on)
{
	(void)worker, (void)t, (void)on;
}

void closer_close(int fd)
{
	(void)fd;
}

/* ---- the worker ---- */

static struct client *any_client(void)
{
	size_t n = w->worker.client_count;
	return n > 0 ? w->worker.client[rnd(n)] : NULL;
}

static void take_batches(void)
{
	for (size_t i = 0; i < w->worker.client_count; i++) {
		struct batch *b = w->worker.client[i]->batch;
		if (!b)
			continue;
		b->next = w->unfinished;
		w->unfinished = b;
	}
}

static void begin_worker(bool again)
{
	w->worker.state = w->state;
	w->worker.runtime_dir = "";
	pthread_mutex_init(&w->worker.lock, NULL);
	graveyard_init(&w->worker.graveyard, NULL);
	qsbr_init(&w->worker.qsbr);
	if (again) {
		reopen_store();
		assert_int_equal(recover_clients(&w->worker), 0);
		recover_resume(&w->worker);
	}
	assert_int_equal(pager_init(&w->pager, &w->worker), 0);
	take_batches();
	w->serves = true;
}

/* One that isn't on record yet would run on without the service: that is another test's. */
static struct client *attach_program(unsigned threads)
{
	struct memory *m = model_start(threads);
	bool mortal = w->mortal;
	struct client *c;

	if (!m)
		return NULL;
	w->mortal = false;
	m->link_fd = memfd_create("link", MFD_CLOEXEC);
	assert_int_equal(ftruncate(m->link_fd, sizeof(struct link)), 0);
	m->link = __real_mmap(
		NULL, sizeof(struct link), PROT_READ | PROT_WRITE, MAP_SHARED, m->link_fd, 0);
	c = worker_new_client(&w->worker, m->uffd);
	c->pid = 1000 + m->index;
	c->agent_pid = 2000;
	c->pagemap = MODEL_PAGEMAPS + m->index;
	c->mem = MODEL_MEMS + m->index;
	/* This process has one thread, too. */
	c->procdir = m->threads == 1 ? open("/proc/self", O_PATH | O_DIRECTORY) : -1;
	c->link_fd = m->link_fd;
	c->link = mmap(
		NULL, sizeof(struct link), PROT_READ | PROT_WRITE, MAP_SHARED, m->link_fd, 0);
	c->staging = PLACE_STAGING;
	atomic_store(&c->state, CLIENT_MANAGED);
	for (unsigned i = 0; i < PLACES; i++)
		settle_answer(c, place_addr(i, 0), place_addr(i, PLACE_PAGES), true);
	worker_record_client(&w->worker, c);
	w->mortal = mortal;
	worker_publish_client(&w->worker, c);
	return c;
}

static void adopt_mapping(struct client *c)
{
	const struct memory *m = memory_of(c);
	unsigned place = (unsigned)rnd(PLACES);

	gate_lock(c);
	if (pager_drain(&w->pager, c) == 0 && c->pagemap >= 0 && m->mapped[place])
		(void)adopt_range(
			&w->pager, c, place_addr(place, 0), place_addr(place, PLACE_PAGES));
	gate_unlock(&w->pager, c);
}

/* As the shim asks for it. Afterwards it is the program's, unless that has something else there
 * by now. */
static void give_place_back(struct client *c, unsigned place)
{
	const struct memory *m = memory_of(c);
	unsigned changes = m->changes[place];

	if (c->pagemap < 0 || !m->registered[place] || model_is_busy(m, place))
		return;
	int r = give_back(
		&w->pager, c, place_addr(place, 0), place_addr(place, PLACE_PAGES), 50);
	if (r == 0 && m->changes[place] == changes && m->lives)
		assert_false(m->registered[place]);
}

static void finish_batches(void)
{
	for (struct batch **at = &w->unfinished; *at;) {
		struct batch *b = *at, *next = b->next;
		if (evict_finish(&w->pager, b))
			*at = next;
		else
			at = &b->next;
	}
}

static void evict_place(struct client *c, unsigned place)
{
	struct allowance allowance = {.room = 1 << 30};
	struct evict_result res = {.moved_pages = 0};
	struct memory *m = memory_of(c);
	uint64_t seq = c->space.remove_seq;

	finish_batches();
	if (c->batch || client_state(c) != CLIENT_MANAGED || !m->lives || c->failed)
		return;
	(void)evict_block(&w->pager, NULL, c, (PLACE_FIRST >> BLOCK_SHIFT) + place,
		model_is_discarding(m) ? NULL : &seq, &allowance, &res);
	if (c->batch) {
		c->batch->next = w->unfinished;
		w->unfinished = c->batch;
	}
}

/* As gone.c does it. */
static void drop_if_gone(struct client *c)
{
	if (memory_of(c)->lives)
		return;
	client_mark_gone(c);
	worker_table_end(&w->worker, c);
	pthread_mutex_lock(&c->gate);
	birth_pass_on(c);
	sequence_flush(c);
	space_done(&c->space);
	atomic_store(&c->dropped, true);
	pthread_mutex_unlock(&c->gate);
}

/* Of a client that is refused nobody hears any more. */
static void end_refused(void)
{
	for (size_t i = 0; i < w->worker.client_count; i++) {
		struct client *c = w->worker.client[i];
		struct memory *m = memory_of(c);
		if (!c->failed || !m->lives)
			continue;
		assert_false(m->of_one_thread);
		for (unsigned k = 0; k < m->threads; k++)
			m->thread[k].events = 0;
		m->queued = 0;
		m->lives = false;
	}
}

static void serve(struct client *c)
{
	if (client_state(c) != CLIENT_GONE)
		pager_service(&w->pager, c);
	drop_if_gone(c);
}

static void programs_step(void)
{
	for (uint64_t n = rnd(6); n > 0; n--)
		model_step(model_memory((unsigned)rnd(MEMORIES)));
}

static void step(void)
{
	struct client *c = any_client();

	w->now_ns += rnd(20) * 1000000;
	programs_step();
	if (w->worker.client_count == 0 || (rnd(20) == 0 && w->worker.client_count < 3)) {
		attach_program(rnd(2) ? 1 : THREADS);
		return;
	}
	switch (rnd(12)) {
	case 0:
		indexer_flush_all(&w->pager);
		break;
	case 1:
		adopt_mapping(c);
		break;
	case 2:
		if (rnd(6) == 0)
			model_end(memory_of(c));
		else
			give_place_back(c, (unsigned)rnd(PLACES));
		break;
	case 3:
	case 4:
	case 5:
		evict_place(c, (unsigned)rnd(PLACES));
		break;
	case 6:
		finish_batches();
		break;
	default:
		serve(c);
	}
	end_refused();
}

/* ---- all of it ---- */

static bool all_serve(void)
{
	bool calm = true;

	for (unsigned i = 0; i < MEMORIES; i++)
		calm &= model_calm(model_memory(i));
	for (size_t i = w->worker.client_count; i-- > 0;) {
		struct client *c = w->worker.client[i];
		serve(c);
		calm &= client_state(c) == CLIENT_GONE || client_is_calm(c);
	}
	end_refused();
	w->now_ns += 10000000;
	return calm;
}

static void show(void)
{
	for (unsigned i = 0; i < MEMORIES; i++)
		print_message("memory %u: used %d lives %d uffd %d\n", i, model_memory(i)->used,
			model_memory(i)->lives, model_memory(i)->uffd);
	for (size_t i = 0; i < w->worker.client_count; i++) {
		const struct client *c = w->worker.client[i];
		const struct memory *m = memory_of(c);
		print_message("memory %d, client %llu of %llu: state %d birth %d steps %d "
			      "waiting %zu late %u "
			      "doubt %d unborn %d failed %d batch %d; events",
			m->index, (unsigned long long)c->id, (unsigned long long)c->parent,
			(int)client_state(c), c->birth != NULL, c->space.steps != NULL,
			c->waiting_count, c->space.doubt.late_count, space_in_doubt(&c->space),
			c->space.unborn, c->failed, c->batch != NULL);
		for (unsigned k = 0; k < m->threads; k++)
			print_message(" %u%s f%llx", m->thread[k].events,
				m->thread[k].told_of ? "!" : "",
				(unsigned long long)m->thread[k].fault);
		print_message("\n");
	}
}

static void fetch_page(struct memory *m, unsigned place, unsigned page)
{
	for (unsigned tries = 0; m->lives && m->registered[place] && !m->present[place][page];
		tries++) {
		if (tries == FETCH_TRIES)
			show();
		assert_true(tries < FETCH_TRIES);
		model_touch(m, place, page, false);
		all_serve();
	}
}

/* Every page of every program is as it has to be. */
static void fetch_all(void)
{
	for (unsigned tries = 0; !all_serve(); tries++) {
		if (tries == FETCH_TRIES)
			show();
		assert_true(tries < FETCH_TRIES);
	}
	for (unsigned i = 0; i < MEMORIES; i++)
		for (unsigned k = 0; k < PLACES * PLACE_PAGES; k++)
			if (model_memory(i)->used && model_memory(i)->uffd >= 0)
				fetch_page(model_memory(i), k / PLACE_PAGES, k % PLACE_PAGES);
	for (size_t i = 0; i < w->worker.client_count; i++)
		space_check(&w->worker.client[i]->space);
}

static void give_all_back(void)
{
	for (size_t i = 0; i < w->worker.client_count; i++)
		for (unsigned place = 0; place < PLACES; place++)
			give_place_back(w->worker.client[i], place);
}

static void live(bool again, bool last)
{
	/* Most points are passed seldom; and most lives are long. */
	w->where = rnd(2) ? POINT_COUNT : rnd(POINT_COUNT);
	w->fuse = w->where < POINT_COUNT ? rnd(3) : rnd(4) == 0 ? rnd(60) : rnd(3000);
	w->steps = STEPS;
	w->mortal = !last;
	if (setjmp(w->killed)) {
		w->mortal = false;
		w->deaths++;
		bury_worker();
		return;
	}
	begin_worker(again);
	if (rnd(4) == 0)
		give_all_back();
	if (last || rnd(3) == 0)
		fetch_all();
	while (w->mortal) {
		if (w->steps-- == 0)
			w->where = POINT_COUNT; /* that isn't passed */
		step();
	}
}

static void world_new(uint64_t seed)
{
	static struct world world;

	memset(&world, 0, sizeof(world));
	w = &world;
	w->seed = seed * 0x9e3779b97f4a7c15;
	w->state = __real_mmap(NULL, sizeof(struct state), PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert_ptr_not_equal(w->state, MAP_FAILED);
	model_reset(rnd);
}

static void world_done(void)
{
	for (unsigned i = 0; i < MEMORIES; i++)
		if (model_memory(i)->link)
			__real_munmap(model_memory(i)->link, sizeof(struct link));
	atomic_store(&w->state->top, 0);
	bury_worker(); /* with all descriptors */
	__real_munmap(w->state, sizeof(struct state));
}

static void the_next_worker_knows_where_every_page_is(void **state)
{
	const char *only = getenv("SEED"); /* only that one */
	uint64_t first = only ? strtoull(only, NULL, 0) : 1, last = only ? first : SEEDS;
	unsigned refused = 0, deaths = 0;

	(void)state;
	for (uint64_t seed = first; seed <= last; seed++) {
		world_new(seed);
		print_message("seed %llu\r", (unsigned long long)seed);
		for (unsigned i = 0; i < LIVES; i++)
			live(i > 0, i == LIVES - 1);
		refused += w->refused;
		deaths += w->deaths;
		world_done();
	}
	print_message("%u deaths, %u refused\n", deaths, refused);
}

/* Killed at that point by the next who passes it. */
static bool dies_serving(struct client *c, enum point where)
{
	if (setjmp(w->killed)) {
		w->mortal = false;
		bury_worker();
		return true;
	}
	w->where = where;
	w->fuse = 0;
	w->mortal = true;
	serve(c);
	w->mortal = false;
	return false;
}

static void serve_until_calm(struct memory *m, struct client *c)
{
	for (unsigned tries = 0; !model_calm(m) || m->thread[0].fault || !client_is_calm(c);
		tries++) {
		assert_true(tries < FETCH_TRIES);
		serve(c);
	}
}

/* By what is registered in it the child can have the page at either place, and by what its
 * parent is when the next worker looks, too. */
static void a_fork_is_born_by_what_was_known_when_it_was_read(void **state)
{
	static const enum point points[] = {POINT_read_fork, POINT_fork, POINT_fork_recorded,
		POINT_fork_told, POINT_fork_copied, POINT_forked, POINT_apply};

	(void)state;
	for (unsigned i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
		world_new(i + 1);
		begin_worker(false);
		struct client *c = attach_program(1);
		struct memory *m = memory_of(c);
		for (unsigned k = 0; k < 2 * PLACE_PAGES; k++) {
			model_touch(m, k / PLACE_PAGES, k % PLACE_PAGES, true);
			serve_until_calm(m, c);
			model_touch(m, k / PLACE_PAGES, k % PLACE_PAGES, true);
		}
		for (unsigned tries = 0; c->space.out_pages < 2 * PLACE_PAGES; tries++) {
			assert_true(tries < FETCH_TRIES);
			evict_place(c, tries % 2);
		}
		m->lag = 1000000; /* nobody sees the fence down before it forks */
		model_move(m, 0, 1, true);
		while (!model_calm(m))
			serve(c);
		model_fork(m);
		assert_true(dies_serving(c, points[i]));
		m->lag = 0;
		begin_worker(true);
		fetch_all();
		assert_int_equal(w->refused, 0);
		world_done();
	}
}

static struct client *client_of(const struct memory *m)
{
	struct client *found = NULL;

	for (size_t i = 0; i < w->worker.client_count; i++)
		if (w->worker.client[i]->uffd == m->uffd) {
			assert_null(found);
			found = w->worker.client[i];
		}
	assert_non_null(found);
	return found;
}

/* Has pages out, was forked by several threads that moved memory, has forked itself, which was
 * read, and isn't born. */
static struct client *unborn_that_forked(void)
{
	struct client *c = attach_program(THREADS);
	struct memory *m = memory_of(c);

	for (unsigned k = 0; k < PLACE_PAGES; k++) {
		model_touch(m, 0, k, true);
		serve_until_calm(m, c);
		model_touch(m, 0, k, true);
	}
	for (unsigned tries = 0; c->space.out_pages < PLACE_PAGES; tries++) {
		assert_true(tries < FETCH_TRIES);
		evict_place(c, 0);
	}
	m->lag = 1000000; /* nobody sees the fence down before it forks */
	model_move(m, 0, 1, false);
	while (!model_calm(m))
		serve(c);
	model_fork(m);
	serve(c);
	m->lag = 0;
	struct memory *child = model_memory(1);
	child->lag = 1000000; /* and nobody in the child */
	model_fork(child);
	for (unsigned tries = 0; !model_calm(child); tries++) {
		assert_true(tries < FETCH_TRIES);
		serve(c);
		serve(client_of(child));
	}
	assert_non_null(client_of(child)->birth);
	return client_of(child);
}

/* The child ends, and the worker dies while it makes a client of the child's child. */
static void a_fork_is_passed_on_once(void **state)
{
	static const enum point points[] = {
		POINT_fork, POINT_fork_recorded, POINT_fork_told, POINT_ended};

	(void)state;
	for (unsigned i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
		world_new(i + 1);
		begin_worker(false);
		struct client *child = unborn_that_forked();
		assert_true(model_end(memory_of(child)));
		if (points[i] == POINT_ended)
			bury_worker();
		else
			assert_true(dies_serving(child, points[i]));
		begin_worker(true);
		fetch_all();
		assert_false(client_of(model_memory(2))->failed);
		assert_true(model_memory(2)->present[0][0] || model_memory(2)->present[1][0]);
		assert_int_equal(w->refused, 0);
		world_done();
	}
}

/* A discard of what isn't on record: else rows are never written again. */
static void what_waits_only_for_the_fence_does_not_wait_for_ever(void **state)
{
	(void)state;
	world_new(1);
	begin_worker(false);
	struct client *c = attach_program(1);
	space_remove(&c->space, place_addr(PLACES, 0), place_addr(PLACES, 1));
	assert_false(client_is_calm(c));
	serve(c);
	assert_true(client_is_calm(c));
	world_done();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_next_worker_knows_where_every_page_is),
		cmocka_unit_test(a_fork_is_born_by_what_was_known_when_it_was_read),
		cmocka_unit_test(a_fork_is_passed_on_once),
		cmocka_unit_test(what_waits_only_for_the_fence_does_not_wait_for_ever),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
