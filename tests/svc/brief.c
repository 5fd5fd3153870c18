/* Executables that never live long are left alone, but for a few, until one lives longer. */
#include "brief.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static struct brief brief;
static uint64_t key, now;

static int start_anew(void **state)
{
	(void)state;
	brief = (struct brief){0};
	now = 1000000;
	key = brief_key("/usr/bin/cc1", "default", 1000);
	return 0;
}

static void end_early(unsigned times)
{
	while (times-- > 0)
		brief_ended(&brief, key, true, now);
}

static void a_few_early_ends_are_needed(void **state)
{
	(void)state;
	assert_false(brief_leave(&brief, key, now));
	end_early(BRIEF_SEEN - 1);
	assert_false(brief_leave(&brief, key, now));
	end_early(1);
	assert_true(brief_leave(&brief, key, now));
}

static void one_in_a_few_is_taken_over(void **state)
{
	unsigned taken = 0;

	(void)state;
	end_early(BRIEF_SEEN);
	for (unsigned i = 0; i < 5 * BRIEF_SAMPLE; i++)
		taken += !brief_leave(&brief, key, now);
	assert_int_equal(taken, 5);
}

static void one_that_lives_long_changes_it(void **state)
{
	(void)state;
	end_early(BRIEF_SEEN);
	brief_ended(&brief, key, false, now);
	assert_false(brief_leave(&brief, key, now));
	end_early(BRIEF_SEEN - 1);
	assert_false(brief_leave(&brief, key, now));
	end_early(1);
	assert_true(brief_leave(&brief, key, now));
}

static void executable_policy_and_user_tell_apart(void **state)
{
	const uint64_t others[] = {brief_key("/usr/bin/as", "default", 1000),
		brief_key("/usr/bin/cc1", "builds", 1000),
		brief_key("/usr/bin/cc1", "default", 1001),
		brief_key("/usr/bin/cc1default", "", 1000)};

	(void)state;
	end_early(BRIEF_SEEN);
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		assert_int_not_equal(others[i], key);
		assert_false(brief_leave(&brief, others[i], now));
	}
}

static void a_newer_one_takes_the_place_of_an_older(void **state)
{
	uint64_t newer = key + BRIEF_EXECUTABLES;

	(void)state;
	end_early(BRIEF_SEEN);
	brief_ended(&brief, newer, true, now);
	assert_false(brief_leave(&brief, newer, now)); /* what was seen is not about this one */
	assert_false(brief_leave(&brief, key, now));
}

/* One that runs now and then costs nothing, and may be a long one at any time. */
static void what_comes_seldom_is_taken_over(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 5 * BRIEF_FULL; i++, now += BRIEF_DRAIN_MS) {
		assert_false(brief_leave(&brief, key, now));
		end_early(1);
	}
}

static void as_long_as_they_come_fast_they_are_left_alone(void **state)
{
	unsigned taken = 0;

	(void)state;
	end_early(BRIEF_SEEN);
	for (unsigned i = 0; i < 100 * BRIEF_SAMPLE; i++, now += BRIEF_DRAIN_MS / 2)
		if (!brief_leave(&brief, key, now)) {
			taken++;
			end_early(1);
		}
	assert_int_equal(taken, 100);
}

static void a_pause_ends_it(void **state)
{
	(void)state;
	end_early(1000);
	now += (BRIEF_FULL - BRIEF_SEEN + 1) * BRIEF_DRAIN_MS;
	assert_false(brief_leave(&brief, key, now));
	end_early(1);
	assert_true(brief_leave(&brief, key, now));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup(f, start_anew)
	const struct CMUnitTest tests[] = {
		T(a_few_early_ends_are_needed),
		T(one_in_a_few_is_taken_over),
		T(one_that_lives_long_changes_it),
		T(what_comes_seldom_is_taken_over),
		T(as_long_as_they_come_fast_they_are_left_alone),
		T(a_pause_ends_it),
		T(executable_policy_and_user_tell_apart),
		T(a_newer_one_takes_the_place_of_an_older),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
