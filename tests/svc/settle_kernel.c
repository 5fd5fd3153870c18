/* What goes on record is what the kernel says is registered, on real mappings of this process.
 */
#include "settle.h"

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
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

enum {
	PAGES = 8,
	MANY = 10000,
	/* With the gate held: nobody waits for more answers than these. */
	FEW = 100,
};

struct area {
	struct graveyard graveyard;
	struct client client;
	uint8_t *memory;
	uint64_t start;
};

/* The store counts nothing here. */
void store_ref(struct store *s, blob_t b)
{
	(void)s;
	(void)b;
}

static unsigned asked;

int __wrap_uffd_registered(int fd, uint64_t addr);
int __real_uffd_registered(int fd, uint64_t addr);

int __wrap_uffd_registered(int fd, uint64_t addr)
{
	asked++;
	return __real_uffd_registered(fd, addr);
}

static int setup(void **state)
{
	struct area *a = calloc(1, sizeof(*a));
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

	a->client.uffd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	close(device);
	a->client.procdir = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
	/* Room on both sides, so that no neighbour is merged with. */
	a->memory = mmap(
		NULL, (PAGES + 2) * PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	a->memory += PAGE_SIZE;
	mprotect(a->memory, PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE);
	a->start = (uintptr_t)a->memory;
	graveyard_init(&a->graveyard, NULL);
	space_init(&a->client.space, &a->graveyard, 1);
	*state = a;
	return uffd_api(a->client.uffd);
}

static int teardown(void **state)
{
	struct area *a = *state;

	uffd_unregister(a->client.uffd, a->start, PAGES * PAGE_SIZE);
	munmap(a->memory - PAGE_SIZE, (PAGES + 2) * PAGE_SIZE);
	space_done(&a->client.space);
	for (struct leaf *l = graveyard_take(&a->graveyard), *next; l; l = next) {
		next = l->next;
		leaf_free(&a->graveyard, l);
	}
	close(a->client.uffd);
	if (a->client.procdir >= 0)
		close(a->client.procdir);
	free(a);
	return 0;
}

static uint64_t page(const struct area *a, unsigned i)
{
	return a->start + i * PAGE_SIZE;
}

static int register_all(struct area *a)
{
	return uffd_register(
		a->client.uffd, a->start, PAGES * PAGE_SIZE, UFFDIO_REGISTER_MODE_MISSING);
}

/* /proc showed one mapping; by the time it is registered, its middle is gone. */
static void a_hole_is_never_on_record(void **state)
{
	struct area *a = *state;
	struct space *s = &a->client.space;

	munmap(a->memory + 3 * PAGE_SIZE, 2 * PAGE_SIZE);
	assert_int_equal(register_all(a), 0);
	assert_int_equal(settle_range(&a->client, a->start, page(a, PAGES)), 0);
	assert_non_null(space_region_at(s, page(a, 2)));
	assert_null(space_region_at(s, page(a, 3)));
	assert_null(space_region_at(s, page(a, 4)));
	assert_non_null(space_region_at(s, page(a, 5)));
	space_check(s);
}

/* What was on record here is of a mapping that is no more: this one isn't registered. */
static void what_is_not_registered_goes_off_record(void **state)
{
	struct area *a = *state;
	struct space *s = &a->client.space;

	assert_int_equal(uffd_register(a->client.uffd, a->start, 2 * PAGE_SIZE,
				 UFFDIO_REGISTER_MODE_MISSING),
		0);
	space_region_add(s, a->start, page(a, PAGES));
	space_set_state(s, page(a, 5), PAGE_RESIDENT);
	assert_int_equal(settle_range(&a->client, a->start, page(a, PAGES)), 0);
	assert_non_null(space_region_at(s, page(a, 1)));
	assert_null(space_region_at(s, page(a, 2)));
	assert_int_equal(entry_state(space_entry(s, page(a, 5))), PAGE_ABSENT);
}

/* Rule 6, with the kernel's word: the UNMAP was of an older mapping, for this one is
 * registered. */
static void a_doubtful_unmap_of_what_is_registered_drops_nothing(void **state)
{
	struct area *a = *state;
	struct space *s = &a->client.space;
	uint64_t from = a->start - 64 * BLOCK_SIZE; /* where it was moved from */
	struct leaf *leaf;

	assert_int_equal(register_all(a), 0);
	space_region_add(s, from, from + PAGES * PAGE_SIZE);
	leaf = space_leaf(s, (from + PAGE_SIZE) >> BLOCK_SHIFT);
	space_set(s, (from + PAGE_SIZE) >> BLOCK_SHIFT, leaf,
		(unsigned)((from + PAGE_SIZE) / PAGE_SIZE % BLOCK_PAGES),
		entry_make(PAGE_STORED, 77));
	space_remap(s, from, a->start, PAGES * PAGE_SIZE);
	space_unmap(s, a->start, page(a, PAGES)); /* older than the move, but read after it */
	assert_true(space_in_doubt(s));
	assert_int_equal(settle_doubt(&a->client), 0);
	assert_int_equal(entry_value(space_entry(s, page(a, 1))), 77);
	assert_int_equal(entry_state(space_entry(s, page(a, 1))), PAGE_STORED);
	assert_non_null(space_region_at(s, page(a, 1)));
	assert_false(space_in_doubt(s));
}

/* The same events, the other way round in truth: nothing is registered there any more. */
static void a_doubtful_unmap_of_what_is_gone_stands(void **state)
{
	struct area *a = *state;
	struct space *s = &a->client.space;
	uint64_t from = a->start - 64 * BLOCK_SIZE;

	space_region_add(s, from, from + PAGES * PAGE_SIZE);
	space_remap(s, from, a->start, PAGES * PAGE_SIZE);
	space_unmap(s, a->start, page(a, PAGES));
	assert_int_equal(settle_doubt(&a->client), 0);
	assert_null(space_region_at(s, page(a, 1)));
	assert_false(space_in_doubt(s));
}

/* Rule 4: a discard of what is registered and not on record yet. */
static void what_was_discarded_off_the_record_is_suspect(void **state)
{
	struct area *a = *state;
	struct space *s = &a->client.space;

	assert_int_equal(register_all(a), 0);
	space_remove(s, a->start, page(a, 1));
	assert_int_equal(settle_range(&a->client, a->start, page(a, PAGES)), 0);
	assert_true(space_entry(s, page(a, 2)) & ENTRY_SUSPECT);
	assert_non_null(space_region_at(s, page(a, 2)));
	space_clear_suspects(s, page(a, 2) >> BLOCK_SHIFT); /* the area may lie in two */
	s->strays = false;
	assert_int_equal(settle_range(&a->client, a->start, page(a, PAGES)), 0);
	assert_false(space_entry(s, page(a, 2)) & ENTRY_SUSPECT);
	space_check(s);
}

/* ---- one whose /proc isn't at hand, a forked child without an agent: page by page ---- */

static void hide_proc(struct area *a)
{
	close(a->client.procdir);
	a->client.procdir = -1;
	asked = 0;
}

static void doubt(struct space *s, uint64_t start, uint64_t end)
{
	s->doubt.open[s->doubt.open_count++] = (struct region){start, end};
}

static void put_out(struct space *s, uint64_t addr)
{
	uint64_t number = addr >> BLOCK_SHIFT;

	space_set(s, number, space_leaf(s, number), (unsigned)(addr / PAGE_SIZE % BLOCK_PAGES),
		entry_make(PAGE_STORED, 77));
}

/* It gave terabytes back, and had next to nothing there. */
static void nothing_is_asked_where_nothing_is_on_record(void **state)
{
	struct area *a = *state;
	struct space *s = &a->client.space;
	uint64_t lonely = a->start - 1000 * BLOCK_SIZE; /* a page out, and no mapping */

	hide_proc(a);
	assert_int_equal(uffd_register(a->client.uffd, a->start, 2 * PAGE_SIZE,
				 UFFDIO_REGISTER_MODE_MISSING),
		0);
	space_region_add(s, a->start, page(a, 4));
	put_out(s, page(a, 1));
	put_out(s, page(a, 3));
	put_out(s, lonely);
	doubt(s, 0, 1ULL << 46);
	doubt(s, 1ULL << 46, 1ULL << 47);
	assert_int_equal(settle_doubt(&a->client), 0);
	assert_false(space_in_doubt(s));
	assert_int_equal(asked, 5);
	assert_int_equal(s->out_pages, 1);
	assert_int_equal(entry_state(space_entry(s, page(a, 1))), PAGE_STORED);
	assert_non_null(space_region_at(s, page(a, 1)));
	assert_null(space_region_at(s, page(a, 2)));
	space_check(s);
}

/* More than can be asked in one go: the rest stays in doubt, and comes next. */
static void the_rest_is_asked_later(void **state)
{
	struct area *a = *state;
	struct space *s = &a->client.space;
	uint64_t from = a->start - 64 * BLOCK_SIZE;
	unsigned rounds = 1;

	hide_proc(a);
	assert_int_equal(register_all(a), 0);
	space_region_add(s, from, from + MANY * PAGE_SIZE);
	space_region_add(s, a->start, page(a, PAGES));
	put_out(s, from + (MANY - 1) * PAGE_SIZE);
	doubt(s, from, page(a, PAGES));
	while (settle_doubt(&a->client) == -EAGAIN) {
		assert_true(space_in_doubt(s));
		assert_int_equal(s->out_pages, 1);
		assert_true(asked <= FEW * rounds);
		assert_true(++rounds < MANY);
	}
	assert_false(space_in_doubt(s));
	assert_true(rounds > MANY / FEW);
	assert_int_equal(asked, MANY + PAGES);
	assert_int_equal(s->out_pages, 0);
	assert_int_equal(s->region_count, 1);
	assert_non_null(space_region_at(s, page(a, PAGES - 1)));
	space_check(s);
}

/* The same when more was lost than noted, and what is asked stays: it comes to an end. */
static void all_that_is_registered_is_asked_once(void **state)
{
	struct area *a = *state;
	struct space *s = &a->client.space;
	unsigned rounds = 0;
	void *many = mmap(NULL, MANY * PAGE_SIZE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t start = (uintptr_t)many;

	hide_proc(a);
	assert_int_equal(uffd_register(a->client.uffd, start, MANY * PAGE_SIZE,
				 UFFDIO_REGISTER_MODE_MISSING),
		0);
	space_region_add(s, start, start + MANY * PAGE_SIZE);
	s->doubt.lost = true;
	while (settle_doubt(&a->client) == -EAGAIN)
		assert_true(++rounds < MANY);
	assert_int_equal(asked, MANY);
	assert_false(space_in_doubt(s));
	assert_non_null(space_region_at(s, start + (MANY - 1) * PAGE_SIZE));
	uffd_unregister(a->client.uffd, start, MANY * PAGE_SIZE);
	munmap(many, MANY * PAGE_SIZE);
}

/* More events than could be noted, and a further one, which wasn't either: what was asked
 * before is asked once more. */
static void an_event_that_was_not_noted_begins_anew(void **state)
{
	struct area *a = *state;
	struct space *s = &a->client.space;
	uint64_t from = a->start + BLOCK_SIZE;
	unsigned rounds = 0;

	hide_proc(a);
	assert_int_equal(register_all(a), 0);
	space_region_add(s, a->start, page(a, PAGES));
	space_region_add(s, from, from + MANY * PAGE_SIZE);
	s->doubt.lost = true;
	for (int i = 0; i < 10; i++)
		assert_int_equal(settle_doubt(&a->client), -EAGAIN);
	assert_non_null(space_region_at(s, a->start));
	assert_int_equal(uffd_unregister(a->client.uffd, a->start, PAGES * PAGE_SIZE), 0);
	a->client.clock++;
	while (settle_doubt(&a->client) == -EAGAIN)
		assert_true(++rounds < MANY);
	assert_false(space_in_doubt(s));
	assert_int_equal(s->region_count, 0);
}

/* ---- an UNMAP that did not take place ---- */

enum { OUT = 4 }; /* it and the next are out; from it on all is unmapped */

static void *map_over_in_vain(void *arg)
{
	struct area *a = arg;
	struct rlimit old, none;

	getrlimit(RLIMIT_AS, &old);
	none = (struct rlimit){0, old.rlim_max};
	setrlimit(RLIMIT_AS, &none);
	void *p = mmap(a->memory + OUT * PAGE_SIZE, (PAGES - OUT) * PAGE_SIZE,
		PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	setrlimit(RLIMIT_AS, &old);
	return p == MAP_FAILED ? NULL : p;
}

static void *unmap_and_grow(void *arg)
{
	struct area *a = arg;
	uint8_t *there = a->memory + OUT * PAGE_SIZE;

	munmap(there, (PAGES - OUT) * PAGE_SIZE);
	void *p = mremap(a->memory, OUT * PAGE_SIZE, PAGES * PAGE_SIZE, 0);
	return p == a->memory ? NULL : there;
}

/* It grows on its way, which its REMAP doesn't tell. */
static void *unmap_and_move_there(void *arg)
{
	struct area *a = arg;
	uint8_t *there = a->memory + OUT * PAGE_SIZE;

	munmap(there, (PAGES - OUT) * PAGE_SIZE);
	void *p = mremap(
		a->memory, PAGE_SIZE, 2 * PAGE_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, there);
	return p == there ? NULL : there;
}

static void apply(struct space *s, const struct uffd_msg *m)
{
	if (m->event == UFFD_EVENT_UNMAP)
		space_unmap(s, m->arg.remove.start, m->arg.remove.end);
	else if (m->event == UFFD_EVENT_REMOVE)
		space_remove(s, m->arg.remove.start, m->arg.remove.end);
	else if (m->event == UFFD_EVENT_REMAP)
		space_remap(s, m->arg.remap.from, m->arg.remap.to, m->arg.remap.len);
}

/* A page is out, another thread does this, and its events are applied. */
static void meanwhile(struct area *a, void *(*act)(void *), unsigned events)
{
	struct space *s = &a->client.space;
	pthread_t thread;
	struct uffd_msg m;
	void *failed;

	assert_int_equal(register_all(a), 0);
	assert_int_equal(settle_range(&a->client, a->start, page(a, PAGES)), 0);
	for (unsigned i = OUT; i < OUT + 2; i++) {
		uint64_t number = page(a, i) >> BLOCK_SHIFT;
		space_set(s, number, space_leaf(s, number),
			(unsigned)(page(a, i) / PAGE_SIZE % BLOCK_PAGES),
			entry_make(PAGE_STORED, i));
	}
	assert_int_equal(pthread_create(&thread, NULL, act, a), 0);
	for (unsigned i = 0; i < events; i++) {
		while (read(a->client.uffd, &m, sizeof(m)) != sizeof(m))
			sched_yield();
		apply(s, &m);
	}
	pthread_join(thread, &failed);
	assert_null(failed);
	assert_true(space_was_unmapped(s, page(a, OUT)) || events > 1);
	assert_false(uffd_fence_up(a->client.uffd));
	while (space_in_doubt(s))
		assert_int_equal(settle_doubt(&a->client), 0);
	settle_calm(&a->client);
	assert_false(space_unsettled(s));
	space_check(s);
}

static void what_was_not_unmapped_is_out_again(void **state)
{
	struct area *a = *state;
	struct space *s = &a->client.space;

	meanwhile(a, map_over_in_vain, 1);
	assert_int_equal(space_entry(s, page(a, OUT)), entry_make(PAGE_STORED, OUT));
	assert_int_equal(space_entry(s, page(a, OUT + 1)), entry_make(PAGE_STORED, OUT + 1));
	assert_non_null(space_region_at(s, page(a, OUT)));
	assert_non_null(space_region_at(s, page(a, PAGES - 1)));
	/* What else was known of it isn't (rule 4). */
	assert_true(space_entry(s, page(a, PAGES - 1)) & ENTRY_SUSPECT);
}

/* Of which each holds a page. */
static void all_mappings_of_the_call_are_asked_for(void **state)
{
	struct area *a = *state;
	struct space *s = &a->client.space;

	madvise(a->memory + (OUT + 1) * PAGE_SIZE, PAGE_SIZE, MADV_DONTDUMP);
	meanwhile(a, map_over_in_vain, 1);
	assert_int_equal(space_entry(s, page(a, OUT)), entry_make(PAGE_STORED, OUT));
	assert_int_equal(space_entry(s, page(a, OUT + 1)), entry_make(PAGE_STORED, OUT + 1));
}

static void *map_over_in_vain_and_discard(void *arg)
{
	struct area *a = arg;
	void *failed = map_over_in_vain(a);

	madvise(a->memory + OUT * PAGE_SIZE, PAGE_SIZE, MADV_DONTNEED);
	return failed;
}

/* As allocators do when they can't map anew. */
static void what_is_discarded_afterwards_is_not_out_again(void **state)
{
	struct area *a = *state;
	struct space *s = &a->client.space;

	meanwhile(a, map_over_in_vain_and_discard, 2);
	assert_int_equal(entry_state(space_entry(s, page(a, OUT))), PAGE_ABSENT);
	assert_int_equal(space_entry(s, page(a, OUT + 1)), entry_make(PAGE_STORED, OUT + 1));
}

static void what_has_grown_into_the_place_is_new(void **state)
{
	struct area *a = *state;

	meanwhile(a, unmap_and_grow, 1);
	assert_int_equal(entry_state(space_entry(&a->client.space, page(a, OUT))), PAGE_ABSENT);
}

static void what_was_moved_into_the_place_is_not_what_was_there(void **state)
{
	struct area *a = *state;

	meanwhile(a, unmap_and_move_there, 3);
	for (unsigned i = OUT; i < OUT + 2; i++)
		assert_int_equal(
			entry_state(space_entry(&a->client.space, page(a, i))), PAGE_ABSENT);
}

int main(void)
{
	if (access("/dev/userfaultfd", R_OK | W_OK) < 0) {
		puts("skipped: /dev/userfaultfd can't be opened: not root, or no such device");
		return 77;
	}
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(a_hole_is_never_on_record),
		T(what_is_not_registered_goes_off_record),
		T(a_doubtful_unmap_of_what_is_registered_drops_nothing),
		T(a_doubtful_unmap_of_what_is_gone_stands),
		T(what_was_discarded_off_the_record_is_suspect),
		T(nothing_is_asked_where_nothing_is_on_record),
		T(the_rest_is_asked_later),
		T(all_that_is_registered_is_asked_once),
		T(an_event_that_was_not_noted_begins_anew),
		T(what_was_not_unmapped_is_out_again),
		T(all_mappings_of_the_call_are_asked_for),
		T(what_is_discarded_afterwards_is_not_out_again),
		T(what_has_grown_into_the_place_is_new),
		T(what_was_moved_into_the_place_is_not_what_was_there),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
