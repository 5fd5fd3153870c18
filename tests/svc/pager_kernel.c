/* Faults and events on memory of this process: each answer that the kernel can give, made to
 * come (DESIGN rules 3, 7, 8, 9, 13). The program is a thread or two of ours, the service is
 * the main thread, which serves only when a test says so; points.h tells where it is in its
 * work. */
#include "batch.h"
#include "birth.h"
#include "journal.h"
#include "pagemap.h"
#include "pager.h"
#include "recover.h"
#include "points.h"
#include "restorer.h"
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { PAGES = 16, STORED = 0x55, HELD = 0x66, ROUNDS = 50, HANGS_S = 20 };

static struct area {
	struct worker worker;
	struct client client;
	struct pager pager, other;
	uint8_t *memory;
} * area;

/* ---- the rest of the service ---- */

static unsigned retries;
static int get_result;
static void (*at_fetch)(void);

bool points_chosen = true;
void points_act(enum point p)
{
	if (p == POINT_fetch && at_fetch)
		at_fetch();
}

int store_get(struct store *s, struct store_scratch *x, blob_t b, void *page)
{
	(void)s, (void)x, (void)b;
	if (get_result == 0)
		memset(page, STORED, PAGE_SIZE);
	return get_result;
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

void store_ref(struct store *s, blob_t b)
{
	(void)s, (void)b;
}

static unsigned follows;
void batch_follow(struct batch *b, struct client *c)
{
	(void)b, (void)c;
	follows++;
}

void restorer_ring(struct restorer *r, struct client *c)
{
	(void)r, (void)c;
}

uint64_t worker_now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

void client_ref(struct client *c)
{
	(void)c;
}

void client_unref(struct client *c)
{
	(void)c;
}

void trouble_set(struct worker *w, enum trouble t, bool on)
{
	(void)w, (void)t, (void)on;
}

void worker_retry_later(struct worker *w, struct client *c, uint64_t delay_ns)
{
	(void)w, (void)c, (void)delay_ns;
	retries++;
}

static void client_begin(struct client *c, int uffd)
{
	memset(c, 0, sizeof(*c));
	c->worker = &area->worker;
	c->uffd = uffd;
	c->pidfd = c->procdir = c->pagemap = -1;
	pthread_mutex_init(&c->gate, NULL);
	space_init(&c->space, &area->worker.graveyard, 1);
}

static struct client forked;
struct client *worker_new_client(struct worker *w, int uffd)
{
	(void)w;
	client_begin(&forked, uffd);
	forked.parent = 1;
	return &forked;
}

void worker_record_client(struct worker *w, struct client *c)
{
	(void)w, (void)c;
}

void recover_fork(struct client *parent, int ufd, struct birth_fork *ret)
{
	(void)parent, (void)ufd, (void)ret;
}

void worker_publish_client(struct worker *w, struct client *c)
{
	(void)w;
	space_done(&c->space);
	close(c->uffd); /* its child is to end at once */
}

void client_mark_gone(struct client *c)
{
	(void)c;
	abort();
}

/* ---- memory ---- */

static uint8_t *page(unsigned i)
{
	return area->memory + i * PAGE_SIZE;
}

static uint64_t addr(unsigned i)
{
	return (uintptr_t)page(i);
}

static void record(unsigned i, uint32_t entry)
{
	uint64_t number = addr(i) >> BLOCK_SHIFT;
	struct space *s = &area->client.space;

	space_set(s, number, space_leaf(s, number),
		(unsigned)(addr(i) / PAGE_SIZE % BLOCK_PAGES), entry);
}

static int setup(void **state)
{
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

	(void)state;
	area = calloc(1, sizeof(*area));
	qsbr_init(&area->worker.qsbr);
	graveyard_init(&area->worker.graveyard, NULL);
	client_begin(&area->client, ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK));
	close(device);
	area->client.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (uffd_api(area->client.uffd) < 0 || pager_init(&area->pager, &area->worker) < 0 ||
		pager_init(&area->other, &area->worker) < 0)
		return -1;
	/* Room on both sides, so that no neighbour is merged with. */
	area->memory = mmap(
		NULL, (PAGES + 2) * PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	area->memory += PAGE_SIZE;
	mprotect(area->memory, PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE);
	madvise(area->memory, PAGES * PAGE_SIZE, MADV_NOHUGEPAGE);
	space_region_add(&area->client.space, addr(0), addr(PAGES));
	retries = 0;
	get_result = 0;
	at_fetch = NULL;
	alarm(HANGS_S);
	return uffd_register(
		area->client.uffd, addr(0), PAGES * PAGE_SIZE, UFFDIO_REGISTER_MODE_MISSING);
}

static int teardown(void **state)
{
	struct client *c = &area->client;

	(void)state;
	uffd_unregister(c->uffd, addr(0), PAGES * PAGE_SIZE);
	munmap(area->memory - PAGE_SIZE, (PAGES + 2) * PAGE_SIZE);
	space_done(&c->space);
	for (struct leaf *l = graveyard_take(&area->worker.graveyard), *next; l; l = next) {
		next = l->next;
		leaf_free(&area->worker.graveyard, l);
	}
	birth_free(&forked);
	pager_done(&area->pager);
	pager_done(&area->other);
	close(c->uffd);
	close(c->pagemap);
	free(area);
	alarm(0);
	return 0;
}

static enum page_presence presence(unsigned i)
{
	uint8_t here;

	assert_int_equal(pagemap_read(area->client.pagemap, addr(i), 1, &here), 0);
	return here;
}

/* ---- the program ---- */

/* Reads or writes the first byte of a page. Reading goes by a system call, which says EFAULT
 * where a load would be a signal. */
struct toucher {
	pthread_t thread;
	unsigned page;
	bool write;
	int value; /* the byte, or -EFAULT */
	_Atomic bool done;
};

static void *touch(void *arg)
{
	struct toucher *t = arg;
	uint8_t byte;
	int ends[2];

	if (t->write) {
		*(volatile uint8_t *)page(t->page) = 1;
		t->value = 1;
	} else if (pipe2(ends, O_CLOEXEC) == 0) {
		t->value = write(ends[1], page(t->page), 1) < 0 ? -errno
			   : read(ends[0], &byte, 1) == 1	? byte
								: -EIO;
		close(ends[0]);
		close(ends[1]);
	}
	atomic_store(&t->done, true);
	return NULL;
}

static void wait_readable(void)
{
	struct pollfd p = {.fd = area->client.uffd, .events = POLLIN};

	assert_int_equal(poll(&p, 1, HANGS_S * 1000), 1);
}

/* It sleeps in its fault, which nobody has read, on return. */
static void touch_begin(struct toucher *t, unsigned at, bool write)
{
	*t = (struct toucher){.page = at, .write = write};
	pthread_create(&t->thread, NULL, touch, t);
	wait_readable();
}

static int touch_end(struct toucher *t)
{
	while (!atomic_load(&t->done))
		pager_service(&area->pager, &area->client);
	pthread_join(t->thread, NULL);
	return t->value;
}

/* One look, as a reader that was woken once. */
static void serve_once(void)
{
	pager_service(&area->pager, &area->client);
}

static void *discard(void *arg)
{
	madvise(arg, PAGE_SIZE, MADV_DONTNEED);
	return NULL;
}

static void *unmap(void *arg)
{
	munmap(arg, PAGE_SIZE);
	return NULL;
}

/* ---- rule 3 ---- */

static pthread_t discarder;
static unsigned discards;
static bool discarded; /* and its thread joined */

/* The page was fetched and isn't copied yet: now it is discarded. If the gate were free,
 * another reader would read that, and the discard would be done. */
static void discard_meanwhile(void)
{
	struct client *c = &area->client;

	if (discards++ > 0)
		return;
	pthread_create(&discarder, NULL, discard, page(3));
	while (!uffd_fence_up(c->uffd))
		;
	if (pthread_mutex_trylock(&c->gate) != 0)
		return;
	pager_drain(&area->other, c);
	pthread_join(discarder, NULL);
	discarded = true;
	pthread_mutex_unlock(&c->gate);
}

static void end_discard(void)
{
	if (!discarded)
		pthread_join(discarder, NULL);
	at_fetch = NULL;
}

static void what_was_discarded_meanwhile_is_not_copied(void **state)
{
	struct toucher t;

	(void)state;
	for (unsigned i = 0; i < ROUNDS; i++) {
		record(3, entry_make(PAGE_STORED, 7));
		at_fetch = discard_meanwhile;
		discards = 0;
		discarded = false;
		touch_begin(&t, 3, false);
		assert_int_equal(touch_end(&t), 0);
		end_discard();
		/* Zeros that came before the discard was done have gone by it. */
		assert_int_equal(presence(3) == PAGE_HERE ? *page(3) : 0, 0);
		uffd_unregister(area->client.uffd, addr(3), PAGE_SIZE);
		madvise(page(3), PAGE_SIZE, MADV_DONTNEED);
		uffd_register(
			area->client.uffd, addr(3), PAGE_SIZE, UFFDIO_REGISTER_MODE_MISSING);
	}
}

/* The same when it is brought back by order, and nobody waits for it. */
static void what_was_discarded_meanwhile_is_not_brought_back(void **state)
{
	struct client *c = &area->client;
	unsigned done;

	(void)state;
	record(3, entry_make(PAGE_STORED, 7));
	at_fetch = discard_meanwhile;
	discards = 0;
	discarded = false;
	gate_lock(c);
	assert_int_equal(pager_restore(&area->pager, c, addr(3), 1, &done), -EAGAIN);
	gate_unlock(&area->pager, c);
	while (uffd_fence_up(c->uffd))
		serve_once();
	end_discard();
	assert_int_equal(presence(3), PAGE_NONE);
}

static void what_must_wait_has_a_timer(void **state)
{
	struct toucher t;

	(void)state;
	record(2, entry_make(PAGE_STORED, 7));
	get_result = -EAGAIN;
	touch_begin(&t, 2, false);
	serve_once();
	assert_int_equal(area->client.deferred_count, 1);
	assert_int_equal(retries, 1);
	get_result = 0;
	assert_int_equal(touch_end(&t), STORED);
	assert_int_equal(area->client.deferred_count, 0);
}

static void an_access_to_what_was_unmapped_goes_on(void **state)
{
	struct toucher t;
	pthread_t thread;

	(void)state;
	record(2, entry_make(PAGE_STORED, 7));
	touch_begin(&t, 2, false);
	pthread_create(&thread, NULL, unmap, page(2));
	while (!uffd_fence_up(area->client.uffd))
		;
	assert_int_equal(touch_end(&t), -EFAULT);
	pthread_join(thread, NULL);
}

/* The page comes without anybody being woken, as when another thread's fault brought it. */
static void bring_silently(unsigned i, int byte)
{
	static uint8_t bytes[PAGE_SIZE] __attribute__((aligned(4096)));
	struct uffdio_copy copy = {.dst = addr(i),
		.src = (uintptr_t)bytes,
		.len = PAGE_SIZE,
		.mode = UFFDIO_COPY_MODE_DONTWAKE};

	memset(bytes, byte, sizeof(bytes));
	assert_int_equal(ioctl(area->client.uffd, UFFDIO_COPY, &copy), 0);
}

static void what_is_there_wins_over_the_record(void **state)
{
	struct toucher t;

	(void)state;
	record(4, entry_make(PAGE_STORED, 7));
	touch_begin(&t, 4, false);
	bring_silently(4, 9);
	assert_int_equal(touch_end(&t), 9);
	assert_int_equal(entry_state(space_entry(&area->client.space, addr(4))), PAGE_RESIDENT);
}

static unsigned wakes;
int __real_uffd_wake(int fd, uint64_t start, uint64_t len);
int __wrap_uffd_wake(int fd, uint64_t start, uint64_t len);
int __wrap_uffd_wake(int fd, uint64_t start, uint64_t len)
{
	const struct journal *j = area->client.journal;

	wakes++;
	if (j)
		assert_int_equal(journal_at(j, journal_end(j) - 1)->event, JOURNAL_RESTORED);
	return __real_uffd_wake(fd, start, len);
}

static void is_written(uint64_t at, enum journal_event event, unsigned first, unsigned end)
{
	const struct uffd_msg *m = journal_at(area->client.journal, at);

	assert_int_equal(m->event, event);
	assert_int_equal(m->arg.reserved.reserved1, addr(first));
	assert_int_equal(m->arg.reserved.reserved2, addr(end));
}

/* Of a child without an agent: before anybody goes on who waited for it. */
static void what_a_child_got_back_is_written_down(void **state)
{
	struct client *c = &area->client;
	struct toucher t;
	int pagemap = c->pagemap;

	(void)state;
	assert_int_equal(journal_new(&c->journal, NULL, 1), 0);
	c->pagemap = -1;
	record(4, entry_make(PAGE_STORED, 7));
	record(5, entry_make(PAGE_STORED, 7));
	wakes = 0;
	touch_begin(&t, 4, false);
	touch_end(&t);
	assert_int_equal(wakes, 1); /* not by the COPY */
	uint64_t end = journal_end(c->journal);
	is_written(end - 2, JOURNAL_RESTORING, 4, 5);
	is_written(end - 1, JOURNAL_RESTORED, 4, 5);
	/* It was there, and nobody knew. */
	touch_begin(&t, 5, false);
	bring_silently(5, 9);
	touch_end(&t);
	end = journal_end(c->journal);
	is_written(end - 1, JOURNAL_RESTORED, 5, 6);
	c->pagemap = pagemap;
	journal_free(c->journal);
	c->journal = NULL;
}

static void a_fault_answered_twice_is_woken(void **state)
{
	struct toucher t;

	(void)state;
	touch_begin(&t, 4, false);
	bring_silently(4, 9);
	assert_int_equal(touch_end(&t), 9);
}

static void what_vanished_without_an_event_is_zeros(void **state)
{
	struct toucher t;

	(void)state;
	record(4, entry_make(PAGE_RESIDENT, 0));
	touch_begin(&t, 4, false);
	assert_int_equal(touch_end(&t), 0);
}

static void what_is_not_on_record_is_zeros(void **state)
{
	struct toucher t;

	(void)state;
	space_region_drop(&area->client.space, addr(8), addr(PAGES));
	touch_begin(&t, 10, false);
	assert_int_equal(touch_end(&t), 0);
}

/* ---- rule 6 ---- */

/* A REMAP was read whose target is taken: whoever made room for it has a moment to say so,
 * before anything else is read (sequence.h). Then all goes on. */
static void while_an_arrival_waits_nothing_is_read(void **state)
{
	struct client *c = &area->client;
	struct uffd_msg m = {.event = UFFD_EVENT_REMAP};
	pthread_t thread;

	(void)state;
	m.arg.remap.from = addr(0) - 64 * BLOCK_SIZE;
	m.arg.remap.to = addr(0);
	m.arg.remap.len = PAGE_SIZE;
	pager_take(c, &m);
	assert_int_equal(c->waiting_count, 1);
	c->pause_until_ns = UINT64_MAX; /* not over in this test */
	pthread_create(&thread, NULL, discard, page(3));
	wait_readable();
	serve_once();
	assert_int_equal(retries, 1);
	assert_int_equal(c->counts.events_remove, 0);
	assert_true(uffd_fence_up(c->uffd));
	c->pause_until_ns = 0;
	while (c->waiting_count > 0)
		serve_once();
	pthread_join(thread, NULL);
	assert_int_equal(c->counts.events_remove, 1);
	assert_int_equal(c->counts.events_remap, 1);
	free(c->waiting);
}

/* ---- rule 7 ---- */

/* A write to page 0, answered as to one that goes on where it was: with 8 pages. */
static void write_with_a_window(void)
{
	struct toucher t;

	area->client.next_fault = addr(0);
	area->client.window = 4;
	touch_begin(&t, 0, true);
	assert_int_equal(touch_end(&t), 1);
}

static void a_window_covers_holes(void **state)
{
	(void)state;
	write_with_a_window();
	assert_int_equal(presence(7), PAGE_HERE);
	assert_int_equal(presence(8), PAGE_NONE);
}

static void a_window_stops_at_a_guard(void **state)
{
	(void)state;
	assert_int_equal(madvise(page(3), PAGE_SIZE, 102 /* MADV_GUARD_INSTALL */), 0);
	write_with_a_window();
	assert_int_equal(presence(2), PAGE_HERE);
	assert_int_equal(presence(3), PAGE_GUARDED);
	assert_int_equal(presence(4), PAGE_NONE);
}

static void a_window_stops_at_what_is_out(void **state)
{
	struct toucher t;

	(void)state;
	record(3, entry_make(PAGE_STORED, 7));
	write_with_a_window();
	assert_int_equal(presence(3), PAGE_NONE);
	touch_begin(&t, 3, false);
	assert_int_equal(touch_end(&t), STORED);
}

static void a_window_stops_at_the_regions_end(void **state)
{
	(void)state;
	space_region_drop(&area->client.space, addr(3), addr(PAGES));
	write_with_a_window();
	assert_int_equal(presence(2), PAGE_HERE);
	assert_int_equal(presence(3), PAGE_NONE);
}

/* ---- rules 8 and 9 ---- */

static void what_is_held_comes_from_the_link(void **state)
{
	struct client owner = {.link = calloc(1, sizeof(struct link))};
	struct batch b = {.owner = &owner};
	struct toucher t;

	(void)state;
	memset(owner.link->data[5], HELD, PAGE_SIZE);
	int tag = space_hold(&area->client.space, &b);
	record(6, entry_make(PAGE_HELD, (uint32_t)tag << HELD_SLOT_BITS | 5));
	touch_begin(&t, 6, false);
	assert_int_equal(touch_end(&t), HELD);
	space_unhold(&area->client.space, &b);
	free(owner.link);
}

static pid_t program; /* made before anything is registered: a fork is an event */

static void damage_stops_the_client_and_is_not_answered(void **state)
{
	struct toucher t;
	uint64_t done;
	int status;

	(void)state;
	area->client.pidfd = (int)syscall(SYS_pidfd_open, program, 0);
	record(2, entry_make(PAGE_STORED, 7));
	get_result = -EBADMSG;
	touch_begin(&t, 2, false);
	serve_once();
	assert_int_equal(waitpid(program, &status, WUNTRACED), program);
	assert_true(WIFSTOPPED(status));
	assert_int_equal(presence(2), PAGE_NONE);
	assert_int_equal(area->worker.counts.corrupt_pages, 1);
	serve_once();
	assert_false(atomic_load(&t.done));
	/* The test's end, not the program's. */
	uffd_zero(area->client.uffd, addr(2), PAGE_SIZE, &done);
	pthread_join(t.thread, NULL);
	close(area->client.pidfd);
}

/* ---- rule 13 ---- */

static void *fork_and_wait(void *arg)
{
	pid_t child = fork();

	if (child == 0)
		_exit(0);
	*(int *)arg = waitpid(child, NULL, 0) == child;
	return NULL;
}

/* No descriptor for the child: the event stays queued, its program waits, and a timer reads
 * again. */
static void a_fork_waits_for_a_descriptor(void **state)
{
	struct rlimit limit, none;
	pthread_t thread;
	int fine = 0;

	(void)state;
	getrlimit(RLIMIT_NOFILE, &limit);
	none = limit;
	none.rlim_cur = 0;
	pthread_create(&thread, NULL, fork_and_wait, &fine);
	wait_readable();
	setrlimit(RLIMIT_NOFILE, &none);
	serve_once();
	unsigned later = retries;
	setrlimit(RLIMIT_NOFILE, &limit);
	serve_once();
	pthread_join(thread, NULL);
	assert_true(fine);
	assert_int_equal(later, 1);
	assert_int_equal(area->client.counts.events_fork, 1);
}

/* ---- forks ---- */

/* Its HELD pages become STORED, or come back, when the parent's do: it must be told. */
static void a_child_follows_what_is_on_its_way(void **state)
{
	struct client owner = {.link = calloc(1, sizeof(struct link))};
	struct batch b = {.owner = &owner};
	pthread_t thread;
	int fine = 0, tag = space_hold(&area->client.space, &b);

	(void)state;
	follows = 0;
	record(6, entry_make(PAGE_HELD, (uint32_t)tag << HELD_SLOT_BITS | 5));
	pthread_create(&thread, NULL, fork_and_wait, &fine);
	wait_readable();
	serve_once();
	pthread_join(thread, NULL);
	assert_true(fine);
	assert_int_equal(follows, 1);
	record(6, entry_make(PAGE_ABSENT, 0));
	space_unhold(&area->client.space, &b);
	free(owner.link);
}

int main(void)
{
	if (access("/dev/userfaultfd", R_OK | W_OK) < 0) {
		puts("skipped: /dev/userfaultfd can't be opened: not root, or no such device");
		return 77;
	}
	program = fork();
	if (program == 0)
		for (;;)
			pause();
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(what_was_discarded_meanwhile_is_not_copied),
		T(what_was_discarded_meanwhile_is_not_brought_back),
		T(what_must_wait_has_a_timer),
		T(an_access_to_what_was_unmapped_goes_on),
		T(what_is_there_wins_over_the_record),
		T(what_a_child_got_back_is_written_down),
		T(a_fault_answered_twice_is_woken),
		T(what_vanished_without_an_event_is_zeros),
		T(what_is_not_on_record_is_zeros),
		T(while_an_arrival_waits_nothing_is_read),
		T(a_window_covers_holes),
		T(a_window_stops_at_a_guard),
		T(a_window_stops_at_what_is_out),
		T(a_window_stops_at_the_regions_end),
		T(what_is_held_comes_from_the_link),
		T(damage_stops_the_client_and_is_not_answered),
		T(a_fork_waits_for_a_descriptor),
		T(a_child_follows_what_is_on_its_way),
	};
	int r = cmocka_run_group_tests(tests, NULL, NULL);
	kill(program, SIGKILL);
	return r;
}
