/* The evictor's care with one block (DESIGN rules 2 and 4): an order is given and answered with
 * the gate held, for pages that are still what they were after the last event was read. The
 * agent is a thread that answers at once, and looks where it is; nothing is really moved or
 * stored. */
#include "adopt.h"
#include "batch.h"
#include "codec_pool.h"
#include "evict_block.h"
#include "indexer.h"
#include "link.h"
#include "maps.h"
#include "order.h"
#include "pager.h"
#include "points.h"
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

enum { HANGS_S = 30, COUNT = 32 };

static struct worker worker;
static struct client *client;
static const uint64_t start = 64ULL << BLOCK_SHIFT; /* of the block; nothing is there */
static uint8_t *staging;
static pthread_t agent;
static uint64_t ordered[BLOCK_PAGES / 64]; /* what MOVE orders were given for */
static uint32_t silently;		   /* pages that it moves without saying so */
static unsigned gate_was_free;
static unsigned drains;
static void (*at_drain)(unsigned n);

/* ---- the rest of the service ---- */

static void look_at_gate(void)
{
	if (pthread_mutex_trylock(&client->gate) != 0)
		return;
	gate_was_free++;
	pthread_mutex_unlock(&client->gate);
}

bool points_chosen = true;
void points_act(enum point p)
{
	if (p == POINT_move || p == POINT_moved)
		look_at_gate();
}

/* It stands: no order is late. */
uint64_t worker_now_ns(void)
{
	return 0;
}

uint64_t worker_now_ms(void)
{
	return 0;
}

void gate_lock(struct client *c)
{
	pthread_mutex_lock(&c->gate);
}

void gate_unlock(struct pager *p, struct client *c)
{
	(void)p;
	pthread_mutex_unlock(&c->gate);
}

int pager_drain(struct pager *p, struct client *c)
{
	(void)p, (void)c;
	if (at_drain)
		at_drain(drains);
	drains++;
	return 0;
}

int pager_restore(
	struct pager *p, struct client *c, uint64_t addr, unsigned pages, unsigned *ret_pages)
{
	(void)p, (void)pages;
	space_set_state(&c->space, addr, PAGE_RESIDENT);
	*ret_pages = 1;
	return 0;
}

int adopt_block(struct client *c, uint64_t number)
{
	(void)c, (void)number;
	return 0;
}

uint64_t client_clock(const struct client *c)
{
	return c->clock;
}

int indexer_flush(struct pager *p, struct client *c, struct batch *b)
{
	(void)p, (void)c, (void)b;
	return 0;
}

int indexer_forget_staging(struct pager *p, struct client *owner)
{
	(void)p, (void)owner;
	return 0;
}

void codec_pool_run(struct codec_pool *p, unsigned count, codec_fn *fn, void *arg)
{
	struct batch *b = arg;

	(void)p, (void)count, (void)fn;
	for (unsigned i = 0; i < BLOCK_PAGES; i++)
		if (batch_has(b, i))
			b->blob[i] = i + 1;
}

void client_ref(struct client *c)
{
	(void)c;
}

void client_unref(struct client *c)
{
	(void)c;
}

void store_ref(struct store *s, blob_t b)
{
	(void)s, (void)b;
}

void store_unref(struct store *s, blob_t b)
{
	(void)s, (void)b;
}

int store_put(struct store *s, const struct store_packed *p, uint32_t stamp, blob_t *ret)
{
	(void)s, (void)p, (void)stamp, (void)ret;
	return -ENOSYS;
}

uint32_t store_packed_size(const struct store_packed *p)
{
	(void)p;
	return 1;
}

/* ---- the agent ---- */

static bool with_zeros; /* page 3 */

static int filled(unsigned i)
{
	return i == 3 && with_zeros ? 0 : 'a' + (int)i;
}

static void *be_agent(void *arg)
{
	struct link_head *head = &client->link->head;

	(void)arg;
	/* By it and agent_pidfd the service knows that an agent that is late waits for a CPU.
	 */
	atomic_store(&client->agent_pid, gettid());
	while (!atomic_load(&head->exit)) {
		uint32_t seq = atomic_load(&head->seq);
		if (seq == atomic_load(&head->done_seq)) {
			sched_yield();
			continue;
		}
		memset(head->moved, 0, sizeof(head->moved));
		head->error = 0;
		if (head->op == LINK_MOVE) {
			look_at_gate();
			for (unsigned i = head->slot; i < head->slot + head->pages; i++) {
				if (i < COUNT && silently >> i & 1)
					memset(staging + i * PAGE_SIZE, filled(i), PAGE_SIZE);
				else
					head->moved[i / 64] |= 1ULL << i % 64;
				ordered[i / 64] |= 1ULL << i % 64;
			}
		}
		atomic_store(&head->done_seq, seq);
	}
	return NULL;
}

static bool was_ordered(unsigned i)
{
	return ordered[i / 64] >> i % 64 & 1;
}

static uint32_t entry(unsigned i)
{
	return space_entry(&client->space, start + i * PAGE_SIZE);
}

static int setup(void **state)
{
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

	(void)state;
	alarm(HANGS_S);
	client = calloc(1, sizeof(*client));
	client->worker = &worker;
	graveyard_init(&worker.graveyard, NULL);
	space_init(&client->space, &worker.graveyard, 1);
	pthread_mutex_init(&client->gate, NULL);
	client->link = calloc(1, sizeof(struct link));
	client->uffd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	close(device);
	client->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	client->procdir = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
	client->agent_pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	staging = mmap(
		NULL, BLOCK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	client->staging = (uintptr_t)staging;
	atomic_store(&client->state, CLIENT_MANAGED);
	space_region_add(&client->space, start, start + BLOCK_SIZE);
	for (unsigned i = 0; i < COUNT; i++)
		space_set_state(&client->space, start + i * PAGE_SIZE, PAGE_RESIDENT);
	client->mem = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	memset(ordered, 0, sizeof(ordered));
	silently = 0;
	with_zeros = false;
	gate_was_free = drains = 0;
	at_drain = NULL;
	int r = uffd_api(client->uffd);
	return r < 0 ? r : pthread_create(&agent, NULL, be_agent, NULL);
}

static int teardown(void **state)
{
	(void)state;
	atomic_store(&client->link->head.exit, 1);
	pthread_join(agent, NULL);
	space_done(&client->space);
	for (struct leaf *l = graveyard_take(&worker.graveyard), *next; l; l = next) {
		next = l->next;
		leaf_free(&worker.graveyard, l);
	}
	munmap(staging, BLOCK_SIZE);
	close(client->uffd);
	close(client->pagemap);
	close(client->mem);
	close(client->procdir);
	close(client->agent_pidfd);
	free(client->link);
	free(client);
	alarm(0);
	return 0;
}

static struct maps_threads *threads; /* of the program, or NULL */

static struct evict_result evict(const uint64_t *quiet_seq)
{
	struct allowance a = {.unshare = UNSHARE_NEVER, .threads = threads};
	struct evict_result r = {0};

	atomic_store(&a.room, 1 << 30);
	assert_int_equal(
		evict_block(NULL, NULL, client, start >> BLOCK_SHIFT, quiet_seq, &a, &r), 0);
	assert_false(client->staging_used);
	return r;
}

/* ---- */

static void the_gate_is_held_from_order_to_answer(void **state)
{
	(void)state;
	struct evict_result r = evict(NULL);
	assert_int_equal(r.moved_pages, COUNT);
	for (unsigned i = 0; i < COUNT; i++)
		assert_int_equal(entry_state(entry(i)), PAGE_STORED);
	assert_int_equal(gate_was_free, 0);
}

/* The kernel doesn't tell of all that it has moved. */
static void what_lies_in_staging_was_moved_whatever_was_reported(void **state)
{
	(void)state;
	silently = 1u << 3 | 1u << 17 | 1u << (COUNT - 1);
	struct evict_result r = evict(NULL);
	assert_int_equal(r.moved_pages, COUNT);
	for (unsigned i = 0; i < COUNT; i++)
		assert_int_equal(entry_state(entry(i)), PAGE_STORED);
	for (unsigned i = 3; i < COUNT; i += 14)
		assert_int_equal(client->link->data[i][PAGE_SIZE - 1], 'a' + (int)i);
	assert_int_equal(client_counts(client)->moves_unreported, 3);
}

static unsigned without_memory; /* so many looks at the pages find no memory for it */

int __real_pagemap_read(int fd, uint64_t addr, size_t pages, uint8_t *ret);
int __wrap_pagemap_read(int fd, uint64_t addr, size_t pages, uint8_t *ret);
int __wrap_pagemap_read(int fd, uint64_t addr, size_t pages, uint8_t *ret)
{
	if (without_memory > 0)
		return without_memory--, -ENOMEM;
	return __real_pagemap_read(fd, addr, pages, ret);
}

/* Nor without the kernel's memory for that look. */
static void what_was_moved_is_looked_for_until_it_is_found(void **state)
{
	(void)state;
	silently = 1u << 3;
	without_memory = 5;
	struct evict_result r = evict(NULL);
	assert_int_equal(without_memory, 0);
	assert_int_equal(r.moved_pages, COUNT);
	assert_int_equal(entry_state(entry(3)), PAGE_STORED);
}

static struct evict_result evict_while_there(void)
{
	uint8_t *page = mmap((void *)(uintptr_t)(start + 3 * PAGE_SIZE), PAGE_SIZE,
		PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
		0);
	assert_int_equal((uintptr_t)page, start + 3 * PAGE_SIZE);
	*page = 1;
	silently = 1u << 3 | 1u << 4;
	struct evict_result r = evict(NULL);
	munmap(page, PAGE_SIZE);
	return r;
}

/* Zeros in a slot, and something where the page was: a hole that the kernel has filled. */
static void what_is_still_there_was_not_moved(void **state)
{
	(void)state;
	with_zeros = true;
	assert_int_equal(evict_while_there().moved_pages, COUNT - 1);
	assert_int_equal(entry_state(entry(3)), PAGE_RESIDENT);
	assert_int_equal(entry_state(entry(4)), PAGE_STORED);
}

/* But it may be another's by now, whose event is still to be read. */
static void what_was_moved_may_have_a_successor(void **state)
{
	(void)state;
	assert_int_equal(evict_while_there().moved_pages, COUNT);
	assert_int_equal(entry_state(entry(3)), PAGE_STORED);
}

static struct maps_thread *thread_of(struct maps_threads *t, pid_t tid)
{
	for (size_t i = 0; i < t->count; i++)
		if (t->thread[i].tid == tid)
			return &t->thread[i];
	fail_msg("no such thread");
	return NULL;
}

/* Rule 11. One that is known is where it was when it was met. */
static void a_block_that_holds_a_thread_is_not_ordered(void **state)
{
	struct maps_threads t = {.count = 0};

	(void)state;
	/* All that there are have said where they are. */
	while (atomic_load(&client->agent_pid) == 0)
		sched_yield();
	assert_int_equal(maps_threads_look(client->procdir, &t), 0);
	threads = &t;
	thread_of(&t, gettid())->block = start + BLOCK_SIZE - PAGE_SIZE;
	assert_int_equal(evict(NULL).moved_pages, 0);
	for (unsigned i = 0; i < COUNT; i++)
		assert_false(was_ordered(i));
	assert_false(t.unclear);
	/* Beside what is managed, in the same block. */
	space_drop_range(&client->space, start + BLOCK_SIZE - PAGE_SIZE, start + BLOCK_SIZE);
	assert_int_equal(evict(NULL).moved_pages, COUNT);
	threads = NULL;
	maps_threads_done(&t);
}

static atomic_bool is_silent;

static void *says_nothing(void *pipes)
{
	char byte;

	syscall(SYS_set_robust_list, NULL, (size_t)24);
	atomic_store(&is_silent, true);
	return read(*(int *)pipes, &byte, 1) == 0 ? NULL : pipes;
}

/* Rule 11. Nor where one began that hasn't said yet where it is. */
static void a_block_is_not_ordered_while_a_thread_begins(void **state)
{
	struct maps_threads t = {.count = 0};
	pthread_t thread;
	int pipes[2];

	(void)state;
	while (atomic_load(&client->agent_pid) == 0)
		sched_yield();
	assert_int_equal(maps_threads_look(client->procdir, &t), 0);
	assert_int_equal(pipe(pipes), 0);
	assert_int_equal(pthread_create(&thread, NULL, says_nothing, pipes), 0);
	while (!atomic_load(&is_silent))
		sched_yield();
	threads = &t;
	assert_int_equal(evict(NULL).moved_pages, 0);
	close(pipes[1]);
	pthread_join(thread, NULL);
	assert_int_equal(evict(NULL).moved_pages, COUNT);
	threads = NULL;
	close(pipes[0]);
	maps_threads_done(&t);
}

/* The first drain is the look at the block, the second comes before the order. */
static void unmap_some(unsigned n)
{
	if (n == 1)
		space_drop_range(&client->space, start + 8 * PAGE_SIZE, start + 12 * PAGE_SIZE);
}

static void what_was_unmapped_just_before_is_not_ordered(void **state)
{
	(void)state;
	at_drain = unmap_some;
	evict(NULL);
	for (unsigned i = 0; i < COUNT; i++)
		assert_int_equal(was_ordered(i), i < 8 || i >= 12);
}

static void suspect_three(void)
{
	space_remove(&client->space, start + 4 * PAGE_SIZE, start + 7 * PAGE_SIZE);
}

/* All threads were seen outside of madvise; since then one has discarded. */
static void an_older_look_at_the_threads_clears_nothing(void **state)
{
	uint64_t before = client->space.remove_seq;

	(void)state;
	suspect_three();
	struct evict_result r = evict(&before);
	assert_int_equal(r.suspect_pages, 3);
	assert_true(entry(5) & ENTRY_SUSPECT);
	assert_false(was_ordered(5));
}

static void a_look_after_the_discard_clears_it(void **state)
{
	(void)state;
	suspect_three();
	uint64_t after = client->space.remove_seq;
	struct evict_result r = evict(&after);
	assert_int_equal(r.suspect_pages, 0);
	assert_false(entry(5) & ENTRY_SUSPECT);
}

int main(void)
{
	if (access("/dev/userfaultfd", R_OK | W_OK) < 0) {
		puts("skipped: /dev/userfaultfd can't be opened: not root, or no such device");
		return 77;
	}
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(the_gate_is_held_from_order_to_answer),
		T(what_lies_in_staging_was_moved_whatever_was_reported),
		T(what_was_moved_is_looked_for_until_it_is_found),
		T(what_is_still_there_was_not_moved),
		T(what_was_moved_may_have_a_successor),
		T(a_block_that_holds_a_thread_is_not_ordered),
		T(a_block_is_not_ordered_while_a_thread_begins),
		T(what_was_unmapped_just_before_is_not_ordered),
		T(an_older_look_at_the_threads_clears_nothing),
		T(a_look_after_the_discard_clears_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
