/* What goes out of management, on real mappings of this process; the pager is a stub. */
#include "give_back.h"
#include "pager.h"
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

enum { PAGES = 4 };

static struct client client;
static struct graveyard graveyard;
static uint8_t *memory;

/* ---- the rest of the service ---- */

void store_ref(struct store *s, blob_t b)
{
	(void)s, (void)b;
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

/* It found the fence up, and so has settled nothing. */
int pager_drain(struct pager *p, struct client *c)
{
	(void)p, (void)c;
	return 0;
}

int pager_restore(
	struct pager *p, struct client *c, uint64_t addr, unsigned pages, unsigned *ret_pages)
{
	(void)p, (void)pages;
	space_set_state(&c->space, addr, PAGE_RESIDENT);
	return *ret_pages = 1, 0;
}

uint64_t worker_now_ms(void)
{
	return 1;
}

void client_mark_gone(struct client *c)
{
	(void)c;
	fail();
}

/* ---- */

static int setup(void **state)
{
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

	(void)state;
	memset(&client, 0, sizeof(client));
	pthread_mutex_init(&client.gate, NULL);
	client.uffd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	client.procdir = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
	close(device);
	/* Room on both sides, so that no neighbour is merged with. */
	memory = mmap(
		NULL, (PAGES + 2) * PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memory += PAGE_SIZE;
	mprotect(memory, PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE);
	graveyard_init(&graveyard, NULL);
	space_init(&client.space, &graveyard, 1);
	return uffd_api(client.uffd);
}

static int teardown(void **state)
{
	(void)state;
	close(client.uffd);
	close(client.procdir);
	munmap(memory - PAGE_SIZE, (PAGES + 2) * PAGE_SIZE);
	space_done(&client.space);
	for (struct leaf *l = graveyard_take(&graveyard), *next; l; l = next) {
		next = l->next;
		leaf_free(&graveyard, l);
	}
	return 0;
}

static void put_out(uint64_t addr, blob_t blob)
{
	uint64_t number = addr >> BLOCK_SHIFT;

	space_region_add(&client.space, addr, addr + PAGE_SIZE);
	space_set(&client.space, number, space_leaf(&client.space, number),
		(unsigned)(addr / PAGE_SIZE % BLOCK_PAGES), entry_make(PAGE_STORED, blob));
}

static int is_registered(void *arg, uint64_t addr)
{
	(void)arg;
	return uffd_registered(client.uffd, addr);
}

/* Something was unmapped and something else moved there, the fence fell, and what is there is
 * given back. A fork that begins now knows nothing of all that: what had been kept for those
 * that overlapped, and the steps that they look at, are none of its child's business. With
 * them, nothing would explain to it why the place isn't registered. */
static void a_child_that_is_forked_afterwards_is_told_nothing(void **state)
{
	uint64_t here = (uintptr_t)memory, from = here - 64 * BLOCK_SIZE;
	struct space *s = &client.space, child;

	(void)state;
	assert_int_equal(uffd_register(client.uffd, here, PAGES * PAGE_SIZE,
				 UFFDIO_REGISTER_MODE_MISSING),
		0);
	put_out(here, 7);
	put_out(from, 9);
	space_unmap(s, here, here + PAGE_SIZE);
	space_remap(s, from, here, PAGE_SIZE);
	space_unmap(s, from, from + PAGE_SIZE);
	s->doubt.open_count = 0; /* the kernel was asked */
	assert_int_equal(give_back(NULL, &client, here, here + PAGE_SIZE, 1000), 0);
	assert_int_equal(uffd_registered(client.uffd, here), 0);
	assert_int_equal(s->region_count, 0);

	space_init(&child, &graveyard, 1);
	struct steps *steps = space_fork(s, &child);
	uint64_t work = 0;
	const struct midwife m = {.registered = is_registered, .work = &work};
	assert_int_equal(space_bear(&child, steps, steps->count, &m), 0);
	assert_int_equal(child.out_pages, 0);
	steps_unref(steps);
	space_done(&child);
}

int main(void)
{
	if (access("/dev/userfaultfd", R_OK | W_OK) < 0) {
		puts("skipped: /dev/userfaultfd can't be opened: not root, or no such device");
		return 77;
	}
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(a_child_that_is_forked_afterwards_is_told_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
