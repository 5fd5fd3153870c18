/* What is registered and what goes on record, in a program that changes its mappings between
 * our looks (DESIGN rules 6, 7, 11). The program is a child of ours with two threads, each of
 * which does what it is told; the pager reads events as the real one, and a test can step in
 * after it did. */
#include "adopt.h"
#include "give_back.h"
#include "link.h"
#include "pager.h"
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { HANGS_S = 30, MIB = 1 << 20, PIECES = 3 };

static struct client *client;
static struct graveyard graveyard;
static uint64_t at; /* PIECES of MIB each, in the program */
static void (*after_drain)(void);
static unsigned blind; /* so many drains find nothing, as if the event came just after */
static pid_t program;
static int line[2]; /* to its threads */

/* ---- the rest of the service ---- */

uint64_t worker_now_ms(void)
{
	return 0;
}

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

static unsigned given_back;

int give_back(
	struct pager *p, struct client *c, uint64_t start, uint64_t end, unsigned slice_ms)
{
	(void)p, (void)c, (void)start, (void)end, (void)slice_ms;
	given_back++;
	return 0;
}

int pager_restore(
	struct pager *p, struct client *c, uint64_t addr, unsigned pages, unsigned *ret_pages)
{
	(void)p, (void)c, (void)addr, (void)pages;
	*ret_pages = 0;
	return 0;
}

int pager_drain(struct pager *p, struct client *c)
{
	struct uffd_msg m;

	(void)p;
	if (blind > 0)
		return blind--, 0;
	while (read(c->uffd, &m, sizeof(m)) == sizeof(m))
		if (m.event == UFFD_EVENT_UNMAP)
			space_unmap(&c->space, m.arg.remove.start, m.arg.remove.end);
	void (*once)(void) = after_drain;
	after_drain = NULL;
	if (once)
		once();
	return 0;
}

/* ---- the program ---- */

enum act { ACT_MAP, ACT_UNMAP };
struct order {
	enum act act;
	uint64_t addr, len;
};

static void *obey(void *arg)
{
	int fd = *(int *)arg;
	struct order o;

	while (recv(fd, &o, sizeof(o), 0) == sizeof(o)) {
		void *p = (void *)(uintptr_t)o.addr;
		if (o.act == ACT_UNMAP) {
			munmap(p, o.len);
		} else {
			mmap(p, o.len, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
			memset(p, 5, o.len);
		}
		if (send(fd, &o, 1, 0) != 1)
			break;
	}
	_exit(0);
}

static _Noreturn void be_program(int pair[2][2])
{
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	int number[2] = {ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK),
		ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK)};
	pthread_t thread;
	uint64_t room = (uintptr_t)mmap(NULL, (PIECES + 2) * MIB, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char byte;

	/* Told by number, and taken by pidfd_getfd; then it has none. */
	send(pair[0][1], number, sizeof(number), 0);
	send(pair[0][1], &room, sizeof(room), 0);
	recv(pair[0][1], &byte, 1, 0);
	close(number[0]);
	close(number[1]);
	send(pair[0][1], "c", 1, 0);
	pthread_create(&thread, NULL, obey, &pair[1][1]);
	obey(&pair[0][1]);
	_exit(0);
}

static void tell(int thread, enum act act, uint64_t addr, uint64_t len)
{
	const struct order o = {act, addr, len};
	assert_int_equal(send(line[thread], &o, sizeof(o), 0), sizeof(o));
}

static void told(int thread)
{
	char byte;
	assert_int_equal(recv(line[thread], &byte, 1, 0), 1);
}

static void map(int piece, int count)
{
	tell(1, ACT_MAP, at + (uint64_t)piece * MIB, (uint64_t)count * MIB);
	told(1);
}

static void unmap(int piece, int count)
{
	tell(1, ACT_UNMAP, at + (uint64_t)piece * MIB, (uint64_t)count * MIB);
	told(1);
}

/* As during a call of its shim's for that range. */
static void keep_out(int request, uint64_t addr, uint64_t len)
{
	struct link_request *q = &client->link->request[request];

	q->addr = addr;
	q->len = len;
	atomic_store(&q->state, LINK_DONE);
}

static int another; /* userfaultfd of the program's, in hands that aren't its own */

static int setup(void **state)
{
	int pair[2][2], number[2];
	char path[32], byte = 0;
	uint64_t room;

	(void)state;
	alarm(HANGS_S);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair[0]) < 0 ||
		socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair[1]) < 0)
		return -1;
	program = fork();
	if (program == 0) {
		alarm(HANGS_S);
		be_program(pair);
	}
	for (int i = 0; i < 2; i++) {
		close(pair[i][1]);
		line[i] = pair[i][0];
	}
	client = calloc(1, sizeof(*client));
	graveyard_init(&graveyard, NULL);
	space_init(&client->space, &graveyard, 1);
	pthread_mutex_init(&client->gate, NULL);
	client->link = calloc(1, sizeof(struct link));
	recv(line[0], number, sizeof(number), 0);
	recv(line[0], &room, sizeof(room), 0);
	at = room + MIB;
	/* All else that it has stays as it is: nobody here would answer its faults. */
	keep_out(0, MIB, at - 2 * MIB);
	keep_out(1, at + (PIECES + 1) * MIB, 1ULL << 46);
	client->pidfd = (int)syscall(SYS_pidfd_open, program, 0);
	client->uffd = (int)syscall(SYS_pidfd_getfd, client->pidfd, number[0], 0);
	another = (int)syscall(SYS_pidfd_getfd, client->pidfd, number[1], 0);
	send(line[0], &byte, 1, 0);
	recv(line[0], &byte, 1, 0);
	snprintf(path, sizeof(path), "/proc/%d", program);
	client->procdir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/%d/pagemap", program);
	client->pagemap = open(path, O_RDONLY | O_CLOEXEC);
	client->pid = client->agent_pid = program;
	atomic_store(&client->state, CLIENT_MANAGED);
	return uffd_api(client->uffd) < 0 || uffd_api(another) < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	const int fds[] = {client->uffd, client->pidfd, client->procdir, client->pagemap,
		another, line[0], line[1]};

	(void)state;
	kill(program, SIGKILL);
	waitpid(program, NULL, 0);
	space_done(&client->space);
	for (struct leaf *l = graveyard_take(&graveyard), *next; l; l = next) {
		next = l->next;
		leaf_free(&graveyard, l);
	}
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		close(fds[i]);
	free(client->link);
	free(client);
	alarm(0);
	return 0;
}

/* ---- */

static struct adopt_result adopt(void)
{
	struct adopt_result r;

	assert_int_equal(adopt_mappings(NULL, client, &r), 0);
	assert_null(r.why);
	return r;
}

static bool on_record(int piece)
{
	return space_region_at(&client->space, at + (uint64_t)piece * MIB + MIB / 2);
}

static bool is_registered(int piece)
{
	return uffd_registered(client->uffd, at + (uint64_t)piece * MIB + MIB / 2) == 1;
}

static void a_mapping_is_registered_and_on_record(void **state)
{
	(void)state;
	map(0, PIECES);
	adopt();
	for (int i = 0; i < PIECES; i++)
		assert_true(on_record(i) && is_registered(i));
}

static void lose_the_middle(void)
{
	unmap(1, 1);
}

/* One mapping as /proc was read; as it is registered, its middle is gone. */
static void a_hole_does_not_go_on_record(void **state)
{
	(void)state;
	map(0, PIECES);
	after_drain = lose_the_middle;
	adopt();
	assert_true(on_record(0) && is_registered(0));
	assert_false(on_record(1));
	assert_true(on_record(2) && is_registered(2));
	/* What comes to lie there is the next look's. */
	map(1, 1);
	assert_false(is_registered(1));
	adopt();
	assert_true(on_record(1) && is_registered(1));
}

/* On record as a whole, and in truth a part isn't registered. */
static void what_is_on_record_is_asked_again(void **state)
{
	(void)state;
	map(0, PIECES);
	adopt();
	assert_int_equal(uffd_unregister(client->uffd, at + MIB, MIB), 0);
	adopt();
	assert_true(on_record(1) && is_registered(1));
}

static void unmap_both_and_map_one(void)
{
	blind = 40; /* more than there are mappings before it, less than the tries */
	tell(0, ACT_UNMAP, at, 2 * MIB); /* waits for its event to be read */
	while (!uffd_fence_up(client->uffd))
		;
	map(0, 1);
}

/* While an event is in flight it can't be told whose a registration is. That is no reason to
 * bring all of it back. */
static void what_cannot_be_asked_for_just_now_stays(void **state)
{
	(void)state;
	map(0, 1);
	map(2, 1);
	adopt();
	assert_true(on_record(0) && on_record(2));
	blind = 1000000;
	tell(0, ACT_UNMAP, at + 2 * MIB, MIB);
	while (!uffd_fence_up(client->uffd))
		sched_yield();
	given_back = 0;
	adopt();
	assert_int_equal(given_back, 0);
	blind = 0;
	pager_drain(NULL, client);
	told(0);
	assert_true(on_record(0) && is_registered(0));
	assert_false(on_record(2));
}

/* An UNMAP that isn't read yet covers where a new mapping lies by now. */
static void a_new_mapping_outlives_an_older_unmap(void **state)
{
	(void)state;
	map(1, 1);
	adopt();
	assert_true(is_registered(1));
	map(0, 1);
	after_drain = unmap_both_and_map_one;
	adopt();
	told(0);
	pager_drain(NULL, client);
	assert_true(on_record(0) && is_registered(0));
	assert_false(on_record(1));
}

/* The shim asked for this range, and its call isn't over. */
static void nothing_is_registered_during_a_call(void **state)
{
	(void)state;
	map(0, PIECES);
	keep_out(3, at + MIB, MIB);
	adopt();
	assert_false(on_record(0) || is_registered(0));
	atomic_store(&client->link->request[3].state, LINK_FREE);
	adopt();
	assert_true(on_record(0) && is_registered(0));
}

static void what_another_userfaultfd_has_is_left(void **state)
{
	(void)state;
	map(0, PIECES);
	assert_int_equal(
		uffd_register(another, at, PIECES * MIB, UFFDIO_REGISTER_MODE_MISSING), 0);
	struct adopt_result r = adopt();
	assert_false(on_record(0));
	assert_int_equal(r.refused_bytes[MAPS_FOREIGN_UFFD], PIECES * MIB);
}

int main(void)
{
	if (access("/dev/userfaultfd", R_OK | W_OK) < 0) {
		puts("skipped: /dev/userfaultfd can't be opened: not root, or no such device");
		return 77;
	}
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(a_mapping_is_registered_and_on_record),
		T(a_hole_does_not_go_on_record),
		T(what_is_on_record_is_asked_again),
		T(a_new_mapping_outlives_an_older_unmap),
		T(what_cannot_be_asked_for_just_now_stays),
		T(nothing_is_registered_during_a_call),
		T(what_another_userfaultfd_has_is_left),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
