/* A thread that is at one piece of work for too long is noticed; one that gets on, that a
 * program holds up, or that somebody stopped, isn't. */
#include "pulse.h"
#include "watchdog.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { LIMIT = 10000, LOOK = WATCHDOG_LOOK_MS };

static struct pulses *p;
static struct watchdog d;

static int setup(void **state)
{
	(void)state;
	if (!p)
		p = pulse_new();
	if (!p)
		return -1;
	pulse_use(p);
	pulse_clear(p);
	pulse_limit(LIMIT);
	memset(&d, 0, sizeof(d));
	return 0;
}

/* Looks as long as nothing is found, this long at most: who hangs. */
static pid_t look_for(uint64_t ms, void (*between)(void))
{
	pid_t found = 0;
	uint64_t stuck = 0;

	for (uint64_t i = 0; i * LOOK < ms && found == 0; i++) {
		found = watchdog_count(&d, p, LOOK, &stuck);
		if (between)
			between();
	}
	if (found != 0)
		assert_in_range(stuck, LIMIT, LIMIT + LOOK);
	return found;
}

static void one_piece_for_too_long_is_noticed(void **state)
{
	(void)state;
	pulse_begin();
	assert_int_equal(look_for(LIMIT, NULL), 0);
	assert_int_equal(look_for(2 * LOOK, NULL), gettid());
	pulse_end();
	assert_int_equal(look_for(3 * LIMIT, NULL), 0);
}

static void next_piece(void)
{
	pulse_end();
	pulse_begin();
}

static void part(void)
{
	pulse_begin();
	pulse_end();
}

static void whoever_gets_on_is_not(void **state)
{
	(void)state;
	pulse_begin();
	assert_int_equal(look_for(3 * LIMIT, next_piece), 0);
	assert_int_equal(look_for(3 * LIMIT, part), 0);
	pulse_end();
}

static void call_and_leave(void)
{
	pulse_call_begin();
	pulse_call_end();
}

static void next_call(void)
{
	pulse_call_end();
	pulse_call_begin();
}

static void whoever_a_program_holds_up_is_not(void **state)
{
	(void)state;
	pulse_begin();
	pulse_call_begin();
	assert_int_equal(look_for(3 * LIMIT, NULL), 0);
	/* Back from there, it has its time as before. */
	pulse_call_end();
	assert_int_equal(look_for(LIMIT - LOOK, NULL), 0);
	assert_int_equal(look_for(3 * LOOK, NULL), gettid());
	pulse_end();
}

static void call_after_call_in_one_piece_is_noticed(void **state)
{
	(void)state;
	pulse_begin();
	assert_int_equal(look_for(2 * LIMIT, call_and_leave), gettid());
	pulse_end();
	setup(NULL);
	pulse_begin();
	pulse_call_begin();
	assert_int_equal(look_for(2 * LIMIT, next_call), gettid());
	pulse_call_end();
	pulse_end();
}

static void no_memory_is_no_hang(void **state)
{
	(void)state;
	pulse_begin();
	atomic_store(&p->starving, 1);
	assert_int_equal(look_for(3 * LIMIT, NULL), 0);
	atomic_store(&p->starving, 0);
	assert_int_equal(look_for(2 * LIMIT, NULL), gettid());
	pulse_end();
}

static void it_can_be_turned_off(void **state)
{
	(void)state;
	pulse_limit(0);
	pulse_begin();
	assert_int_equal(look_for(3 * LIMIT, NULL), 0);
	pulse_limit(LIMIT);
	assert_int_equal(look_for(LIMIT - LOOK, NULL), 0);
	assert_int_equal(look_for(3 * LOOK, NULL), gettid());
	pulse_end();
}

/* A machine that was suspended, or a keeper that had no CPU: the worker had none either. */
static void a_late_look_counts_as_two(void **state)
{
	uint64_t now = 1000, stuck = 0;
	unsigned looks = 0;

	(void)state;
	pulse_begin();
	assert_int_equal(watchdog_look(&d, p, getpid(), now, &stuck), 0);
	for (; watchdog_look(&d, p, getpid(), now += 100 * LIMIT, &stuck) == 0; looks++)
		assert_in_range(looks, 0, LIMIT / LOOK);
	assert_in_range(looks, LIMIT / LOOK / 2 - 1, LIMIT / LOOK);
	pulse_end();
}

static pid_t looks_at(pid_t worker)
{
	uint64_t now = 1000, stuck = 0;
	pid_t found = 0;

	memset(&d, 0, sizeof(d));
	for (unsigned i = 0; i < 3 * LIMIT / LOOK && found == 0; i++)
		found = watchdog_look(&d, p, worker, now += LOOK, &stuck);
	return found;
}

static void whoever_is_stopped_or_traced_is_not(void **state)
{
	int status;
	pid_t child = fork();

	(void)state;
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		raise(SIGSTOP);
		for (;;)
			pause();
	}
	assert_true(child > 0);
	pulse_begin();
	assert_int_equal(waitpid(child, &status, WUNTRACED), child);
	assert_int_equal(looks_at(child), 0);
	assert_int_equal(kill(child, SIGCONT), 0);
	assert_int_equal(waitpid(child, &status, WCONTINUED), child);
	assert_int_equal(looks_at(child), gettid());
	assert_int_equal(ptrace(PTRACE_SEIZE, child, NULL, NULL), 0);
	assert_int_equal(looks_at(child), 0);
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
	pulse_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(one_piece_for_too_long_is_noticed, setup),
		cmocka_unit_test_setup(whoever_gets_on_is_not, setup),
		cmocka_unit_test_setup(whoever_a_program_holds_up_is_not, setup),
		cmocka_unit_test_setup(call_after_call_in_one_piece_is_noticed, setup),
		cmocka_unit_test_setup(no_memory_is_no_hang, setup),
		cmocka_unit_test_setup(it_can_be_turned_off, setup),
		cmocka_unit_test_setup(a_late_look_counts_as_two, setup),
		cmocka_unit_test_setup(whoever_is_stopped_or_traced_is_not, setup),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
