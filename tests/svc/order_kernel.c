/* Orders to an agent on memory of this process (DESIGN rules 1, 2, 13): the real one, which is
 * a process of its own that shares this memory, and one of ours that is late where a test says
 * so. */
#include "agent.h"
#include "link.h"
#include "order.h"
#include "pagemap.h"
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { HANGS_S = 20 };

static struct client *client;
static uint8_t *block;	 /* BLOCK_SIZE, registered for missing pages */
static uint8_t *staging; /* BLOCK_SIZE */
static pid_t agent_pid;
static int sockets[2], doorbell[2], exec_pipe[2];
static uint8_t agent_stack[AGENT_STACK_BYTES * 2] __attribute__((aligned(4096)));

uint64_t worker_now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

uint64_t worker_now_ms(void)
{
	return worker_now_ns() / 1000000;
}

static uint8_t *map_block(void)
{
	uint8_t *p = mmap(NULL, 4 * BLOCK_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	p = (uint8_t *)(((uintptr_t)p + 2 * BLOCK_SIZE - 1) & ~(uintptr_t)(BLOCK_SIZE - 1));

	mprotect(p, BLOCK_SIZE, PROT_READ | PROT_WRITE);
	madvise(p, BLOCK_SIZE, MADV_NOHUGEPAGE);
	return p;
}

static uint8_t *page(unsigned i)
{
	return block + i * PAGE_SIZE;
}

static enum page_presence presence(const void *at)
{
	uint8_t here;

	assert_int_equal(pagemap_read(client->pagemap, (uintptr_t)at, 1, &here), 0);
	return here;
}

static uint64_t number(void)
{
	return (uintptr_t)block >> BLOCK_SHIFT;
}

static bool moved(const struct order_result *r, unsigned i)
{
	return r->moved[i / 64] >> i % 64 & 1;
}

/* ---- the real agent ---- */

/* Called with no registered memory: agent_main closes and changes only what is its own. */
static void agent_begin(void)
{
	struct agent *a = (struct agent *)(void *)agent_stack;

	*a = (struct agent){.link = client->link,
		.staging = (uintptr_t)staging,
		.bell = (uintptr_t)staging,
		.program = getpid(),
		.uffd = client->uffd,
		.socket = sockets[1],
		.doorbell = doorbell[0],
		.link_fd = -1,
		.exec_pipe = exec_pipe[0]};
	agent_pid = clone(agent_main, agent_stack + sizeof(agent_stack), CLONE_VM, a);
	assert_true(agent_pid > 0);
}

static void agent_end(void)
{
	if (agent_pid <= 0)
		return;
	kill(agent_pid, SIGKILL);
	waitpid(agent_pid, NULL, (int)__WCLONE);
	agent_pid = 0;
}

/* An order that the agent gets no CPU for in time is revoked; then it is given again. */
static void order_agent(unsigned first, unsigned count, struct order_result *ret)
{
	struct order_result r = {.error = -ETIME};

	memset(ret, 0, sizeof(*ret));
	while (r.error == -ETIME) {
		while (order_open(client) == -EBUSY)
			sched_yield();
		assert_int_equal(order_move(client, number(), first, count, &r), 0);
		for (unsigned i = 0; i < LINK_SLOTS / 64; i++)
			ret->moved[i] |= r.moved[i];
		ret->busy_pages = r.busy_pages;
	}
}

static int setup(void **state)
{
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	int fd = memfd_create("link", MFD_CLOEXEC);

	(void)state;
	alarm(HANGS_S);
	client = calloc(1, sizeof(*client));
	client->uffd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	close(device);
	client->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	client->mem = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || ftruncate(fd, LINK_BYTES) < 0 || uffd_api(client->uffd) < 0 ||
		socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0 ||
		pipe2(doorbell, O_CLOEXEC | O_NONBLOCK) < 0 || pipe2(exec_pipe, O_CLOEXEC) < 0)
		return -1;
	client->link = mmap(NULL, LINK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	client->doorbell = doorbell[1];
	block = map_block();
	staging = map_block();
	client->staging = (uintptr_t)staging;
	for (unsigned i = 0; i < 16; i++)
		memset(page(i), (int)i + 1, PAGE_SIZE);
	return 0;
}

static void register_block(void)
{
	assert_int_equal(uffd_register(client->uffd, (uintptr_t)block, BLOCK_SIZE,
				 UFFDIO_REGISTER_MODE_MISSING),
		0);
}

static int teardown(void **state)
{
	const int fds[] = {client->uffd, client->pagemap, client->mem, sockets[0], sockets[1],
		doorbell[0], doorbell[1], exec_pipe[0], exec_pipe[1]};

	(void)state;
	agent_end();
	uffd_unregister(client->uffd, (uintptr_t)block, BLOCK_SIZE);
	uffd_unregister(client->uffd, (uintptr_t)staging, BLOCK_SIZE);
	munmap(block, BLOCK_SIZE);
	munmap(staging, BLOCK_SIZE);
	munmap(client->link, LINK_BYTES);
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		close(fds[i]);
	free(client);
	alarm(0);
	return 0;
}

/* ---- what the agent does ---- */

static void an_order_moves_and_copies(void **state)
{
	struct order_result r;

	(void)state;
	agent_begin();
	register_block();
	order_agent(2, 3, &r);
	for (unsigned i = 0; i < 16; i++) {
		assert_int_equal(moved(&r, i), i >= 2 && i < 5);
		assert_int_equal(presence(page(i)), moved(&r, i) ? PAGE_NONE : PAGE_HERE);
	}
	assert_int_equal(client->link->data[4][0], 5);
	order_close(client);
	assert_int_equal(order_zap(client), 0);
	assert_int_equal(presence(staging + 2 * PAGE_SIZE), PAGE_NONE);
}

static void a_run_may_be_of_several_mappings(void **state)
{
	struct order_result r;

	(void)state;
	/* Two for the kernel, which refuses to move both at once. */
	mprotect(page(4), 4 * PAGE_SIZE, PROT_READ);
	agent_begin();
	register_block();
	order_agent(2, 8, &r);
	assert_true(moved(&r, 3));
	assert_false(moved(&r, 4)); /* not writable */
	assert_true(moved(&r, 8));
	assert_int_equal(client->link->data[8][0], 9);
	order_close(client);
}

static void what_a_child_shares_is_passed_over(void **state)
{
	struct order_result r;
	char byte;
	int ends[2];

	(void)state;
	assert_int_equal(pipe(ends), 0);
	/* Before anything is registered, as a fork is an event. */
	pid_t child = fork();
	if (child == 0) {
		close(ends[1]);
		_exit(read(ends[0], &byte, 1) != 0);
	}
	close(ends[0]);
	for (unsigned i = 6; i < 16; i++)
		*(volatile uint8_t *)page(i) = (uint8_t)(i + 1); /* ours alone again */
	agent_begin();
	register_block();
	order_agent(4, 4, &r);
	assert_int_equal(r.busy_pages, 2);
	assert_false(moved(&r, 4));
	assert_false(moved(&r, 5));
	assert_true(moved(&r, 6));
	assert_true(moved(&r, 7));
	order_close(client);
	close(ends[1]);
	waitpid(child, NULL, 0);
}

/* ---- late ---- */

static int move(unsigned from, unsigned pages)
{
	struct uffdio_move m = {.dst = (uintptr_t)staging + from * PAGE_SIZE,
		.src = (uintptr_t)page(from),
		.len = pages * PAGE_SIZE};
	return ioctl(client->uffd, UFFDIO_MOVE, &m) < 0 ? -errno : 0;
}

static void answer(void)
{
	atomic_store(&client->link->head.done_seq, atomic_load(&client->link->head.seq));
}

/* Stopped before it began: nothing was taken, and nothing is, ever. */
static void a_late_order_moves_nothing(void **state)
{
	struct order_result r;

	(void)state;
	register_block();
	assert_int_equal(order_open(client), 0);
	assert_int_equal(order_move(client, number(), 2, 2, &r), 0);
	assert_int_equal(r.error, -ETIME);
	assert_false(moved(&r, 2));
	assert_int_equal(move(2, 2), -EINVAL);
	assert_int_equal(presence(page(2)), PAGE_HERE);
	/* Nor with the next order: it isn't given before the answer. */
	assert_int_equal(order_open(client), -EBUSY);
	assert_int_equal(move(2, 2), -EINVAL);
	answer();
	assert_int_equal(order_open(client), 0);
	order_close(client);
}

static void *move_and_stop(void *arg)
{
	(void)arg;
	while (atomic_load(&client->link->head.seq) == 0)
		;
	return move(2, 1) < 0 ? client : NULL;
}

/* Stopped between MOVE and copy: found in staging, and copied. */
static void what_a_late_order_moved_is_found(void **state)
{
	struct order_result r;
	pthread_t thread;
	void *failed;

	(void)state;
	register_block();
	assert_int_equal(order_open(client), 0);
	pthread_create(&thread, NULL, move_and_stop, NULL);
	assert_int_equal(order_move(client, number(), 2, 2, &r), 0);
	pthread_join(thread, &failed);
	assert_null(failed);
	assert_int_equal(r.error, -ETIME);
	assert_true(moved(&r, 2));
	assert_false(moved(&r, 3));
	assert_int_equal(client->link->data[2][0], 3);
	assert_int_equal(client->link->data[2][PAGE_SIZE - 1], 3);
}

/* A zap would be posted over it. */
static void no_order_before_the_answer(void **state)
{
	struct order_result r;
	uint32_t seq;

	(void)state;
	register_block();
	assert_int_equal(order_open(client), 0);
	assert_int_equal(order_move(client, number(), 2, 2, &r), 0);
	seq = client->order_seq;
	assert_int_equal(order_zap(client), -EBUSY);
	assert_int_equal(order_unshare(client, (uintptr_t)page(0), 1), -EBUSY);
	assert_int_equal(client->order_seq, seq);
	assert_true(client->staging_used);
}

static void *say_all_moved(void *arg)
{
	(void)arg;
	while (atomic_load(&client->link->head.seq) == 0)
		;
	memset(client->link->head.moved, 0xff, sizeof(client->link->head.moved));
	answer();
	return NULL;
}

static void only_what_was_ordered_counts(void **state)
{
	struct order_result r;
	pthread_t thread;

	(void)state;
	register_block();
	assert_int_equal(order_open(client), 0);
	pthread_create(&thread, NULL, say_all_moved, NULL);
	assert_int_equal(order_move(client, number(), 2, 2, &r), 0);
	pthread_join(thread, NULL);
	assert_int_equal(r.moved[0], 3 << 2);
	for (unsigned i = 1; i < LINK_SLOTS / 64; i++)
		assert_int_equal(r.moved[i], 0);
	order_close(client);
}

/* Whoever reads a hole of staging, as the kernel does for mlockall, doesn't wait for an answer.
 */
static void holes_of_staging_read_zeros(void **state)
{
	(void)state;
	assert_int_equal(order_open(client), 0);
	assert_int_equal(*(volatile uint8_t *)(staging + 9 * PAGE_SIZE), 0);
	order_close(client);
}

int main(void)
{
	if (access("/dev/userfaultfd", R_OK | W_OK) < 0) {
		puts("skipped: /dev/userfaultfd can't be opened: not root, or no such device");
		return 77;
	}
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(an_order_moves_and_copies),
		T(a_run_may_be_of_several_mappings),
		T(what_a_child_shares_is_passed_over),
		T(a_late_order_moves_nothing),
		T(what_a_late_order_moved_is_found),
		T(no_order_before_the_answer),
		T(only_what_was_ordered_counts),
		T(holes_of_staging_read_zeros),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
