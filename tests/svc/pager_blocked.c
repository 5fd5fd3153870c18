/* Reading the userfaultfd of a forked child, which has it too and can make any read of it wait.
 * The pager reads real ones; everything else of the service is a stub, and the child acts in
 * the read call. */
#include "birth.h"
#include "pager.h"
#include "restorer.h"
#include "sequence.h"
#include "settle.h"
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { WATCHDOG_S = 60 };

/* What happens between the pager's last look at the flags and its read. */
enum act { ACT_NOTHING, ACT_BLOCK, ACT_BLOCK_AFTER_ALARM, ACT_SIGNAL, ACT_NO_MEMORY };

struct world {
	struct worker worker;
	struct graveyard graveyard;
	struct client client;
	struct pager pager;
	enum act act;
	unsigned reads, retries;
	bool no_timers;
	pid_t program;
};
static struct world *world;
static volatile sig_atomic_t alarms;

/* ---- stubs ---- */

ssize_t __wrap_read(int fd, void *to, size_t size);
ssize_t __real_read(int fd, void *to, size_t size);
int __wrap_timer_create(clockid_t clock, struct sigevent *e, timer_t *ret);
int __real_timer_create(clockid_t clock, struct sigevent *e, timer_t *ret);

ssize_t __wrap_read(int fd, void *to, size_t size)
{
	int before = alarms;

	world->reads++;
	if (world->act == ACT_SIGNAL)
		return errno = EINTR, -1;
	if (world->act == ACT_NO_MEMORY)
		return errno = ENOMEM, -1;
	if (world->act != ACT_NOTHING)
		fcntl(fd, F_SETFL, 0);
	while (world->act == ACT_BLOCK_AFTER_ALARM && alarms == before)
		usleep(1000);
	return __real_read(fd, to, size);
}

int __wrap_timer_create(clockid_t clock, struct sigevent *e, timer_t *ret)
{
	if (world->no_timers)
		return errno = EAGAIN, -1;
	return __real_timer_create(clock, e, ret);
}

void client_mark_gone(struct client *c)
{
	atomic_store(&c->state, CLIENT_GONE);
}

void restorer_ring(struct restorer *r, struct client *c)
{
	(void)r, (void)c;
}

int settle_doubt(struct client *c)
{
	(void)c;
	return 0;
}

void settle_calm(struct client *c)
{
	(void)c;
}

bool sequence_pause(const struct client *c)
{
	(void)c;
	return false;
}

void sequence_add(struct client *c, const struct uffd_msg *m)
{
	(void)c, (void)m;
}

void sequence_flush(struct client *c)
{
	(void)c;
}

void birth_read_fork(struct client *parent, int ufd)
{
	(void)parent, (void)ufd;
}

void birth_fork(struct client *parent, int ufd)
{
	(void)parent, (void)ufd;
}

int birth_settle(struct pager *p, struct client *child)
{
	(void)p, (void)child;
	return 0;
}

void trouble_set(struct worker *w, enum trouble t, bool on)
{
	(void)w, (void)t, (void)on;
}

void worker_retry_later(struct worker *w, struct client *c, uint64_t delay_ns)
{
	(void)w, (void)c, (void)delay_ns;
	world->retries++;
}

uint64_t worker_now_ns(void)
{
	return 0;
}

/* ---- */

static void on_alarm(int number)
{
	(void)number;
	alarms = alarms + 1;
}

static int setup(void **state)
{
	struct world *w = world = calloc(1, sizeof(*w));
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	const struct sigaction interrupt = {.sa_handler = on_alarm};

	sigaction(SIGUSR1, &interrupt, NULL);
	alarm(WATCHDOG_S); /* what waits for ever has failed */
	qsbr_init(&w->worker.qsbr);
	graveyard_init(&w->graveyard, NULL);
	space_init(&w->client.space, &w->graveyard, 1);
	pthread_mutex_init(&w->client.gate, NULL);
	w->client.worker = &w->worker;
	w->client.parent = 1;
	w->client.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	w->client.uffd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	close(device);
	w->program = fork();
	if (w->program == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	w->client.pidfd = (int)syscall(SYS_pidfd_open, w->program, 0);
	*state = w;
	return uffd_api(w->client.uffd) < 0 ? -1 : pager_init(&w->pager, &w->worker);
}

static int teardown(void **state)
{
	struct world *w = *state;

	alarm(0);
	kill(w->program, SIGKILL);
	waitpid(w->program, NULL, 0);
	pager_done(&w->pager);
	space_done(&w->client.space);
	close(w->client.uffd);
	close(w->client.pidfd);
	close(w->client.pagemap);
	free(w);
	return 0;
}

static bool is_killed(struct world *w)
{
	siginfo_t info = {.si_pid = 0};

	/* Only looked at: it is there still. A kill is done when the call that asks for it is.
	 */
	assert_int_equal(waitid(P_PID, (id_t)w->program, &info,
				 WEXITED | WNOWAIT | (w->client.hostile ? 0 : WNOHANG)),
		0);
	return info.si_pid == w->program && info.si_status == SIGKILL;
}

static void is_found_hostile(struct world *w)
{
	assert_int_equal(pager_drain(&w->pager, &w->client), 0);
	assert_true(w->client.hostile);
	assert_true(w->client.failed);
	assert_true(is_killed(w));
	/* It isn't read any more. */
	unsigned reads = w->reads;
	assert_int_equal(pager_drain(&w->pager, &w->client), 0);
	assert_int_equal(w->reads, reads);
}

static void nothing_is_there(void **state)
{
	struct world *w = *state;
	struct itimerspec left;

	assert_int_equal(pager_drain(&w->pager, &w->client), 0);
	assert_int_equal(w->reads, 1);
	assert_int_equal(w->retries, 0);
	assert_false(w->client.hostile);
	/* Nobody is interrupted later. */
	assert_int_equal(timer_gettime(w->pager.alarm, &left), 0);
	assert_int_equal(left.it_value.tv_sec, 0);
	assert_int_equal(left.it_value.tv_nsec, 0);
}

/* Blocking when we come to it: before the program had an agent, it could do nothing else. */
static void made_non_blocking_again(void **state)
{
	struct world *w = *state;

	fcntl(w->client.uffd, F_SETFL, 0);
	assert_int_equal(pager_drain(&w->pager, &w->client), 0);
	assert_false(w->client.hostile);
	assert_false(is_killed(w));
}

static void whoever_makes_it_wait_is_killed(void **state)
{
	struct world *w = *state;

	w->act = ACT_BLOCK;
	is_found_hostile(w);
}

/* The thread got no CPU between setting the alarm and reading. */
static void an_alarm_before_the_read_is_not_the_last(void **state)
{
	struct world *w = *state;

	w->act = ACT_BLOCK_AFTER_ALARM;
	is_found_hostile(w);
}

static void *use_and_leave(void *arg)
{
	struct world *w = arg;

	assert_int_equal(pager_drain(&w->pager, &w->client), 0);
	assert_true(w->pager.has_alarm);
	pager_leave_thread(&w->pager);
	return NULL;
}

/* Readers end, and others take their pagers over. */
static void the_alarm_is_of_the_thread_that_reads(void **state)
{
	struct world *w = *state;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, use_and_leave, w), 0);
	pthread_join(thread, NULL);
	w->act = ACT_BLOCK;
	is_found_hostile(w);
}

static void a_signal_is_no_harm(void **state)
{
	struct world *w = *state;

	w->act = ACT_SIGNAL;
	assert_int_equal(pager_drain(&w->pager, &w->client), 0);
	assert_false(w->client.hostile);
	assert_false(w->client.failed);
	assert_false(is_killed(w));
	/* What is there is unread. */
	assert_true(w->client.read_again);
	assert_int_equal(w->retries, 1);
	w->act = ACT_NOTHING;
	assert_int_equal(pager_drain(&w->pager, &w->client), 0);
	assert_false(w->client.read_again);
	assert_int_equal(w->retries, 1);
}

/* For the file of a FORK: it stays queued, and its edge is used up. What waits is tried again,
 * too. */
static void no_memory_to_read_is_tried_again(void **state)
{
	struct world *w = *state;

	w->act = ACT_NO_MEMORY;
	for (unsigned i = 1; i <= 3; i++) {
		assert_int_equal(pager_drain(&w->pager, &w->client), 0);
		assert_true(w->client.read_again);
		assert_int_equal(w->retries, i);
	}
	assert_int_equal(w->client.read_error, ENOMEM);
	w->act = ACT_NOTHING;
	assert_int_equal(pager_drain(&w->pager, &w->client), 0);
	assert_false(w->client.read_again);
	assert_int_equal(w->retries, 3);
	assert_int_equal(client_state(&w->client), 0);
}

/* Without an alarm it isn't read at all. */
static void no_alarm_no_read(void **state)
{
	struct world *w = *state;

	w->no_timers = true;
	assert_int_equal(pager_drain(&w->pager, &w->client), 0);
	assert_int_equal(w->reads, 0);
	assert_int_equal(w->retries, 1);
	assert_false(w->client.hostile);
	w->no_timers = false;
	assert_int_equal(pager_drain(&w->pager, &w->client), 0);
	assert_int_equal(w->reads, 1);
}

/* Nobody but us has it, and most children live for a moment. */
static void one_that_never_had_an_agent_costs_no_alarm(void **state)
{
	struct world *w = *state;

	close(w->client.pagemap);
	w->client.pagemap = -1;
	assert_int_equal(pager_drain(&w->pager, &w->client), 0);
	assert_int_equal(w->reads, 1);
	assert_false(w->pager.has_alarm);
}

int main(void)
{
	if (access("/dev/userfaultfd", R_OK | W_OK) < 0) {
		puts("skipped: /dev/userfaultfd can't be opened: not root, or no such device");
		return 77;
	}
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(nothing_is_there),
		T(made_non_blocking_again),
		T(whoever_makes_it_wait_is_killed),
		T(an_alarm_before_the_read_is_not_the_last),
		T(the_alarm_is_of_the_thread_that_reads),
		T(a_signal_is_no_harm),
		T(no_memory_to_read_is_tried_again),
		T(no_alarm_no_read),
		T(one_that_never_had_an_agent_costs_no_alarm),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
