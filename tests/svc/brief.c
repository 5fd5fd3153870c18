/* Executables that never live long are left alone, but for a few, until one lives longer. */
#include "brief.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static struct brief brief;
static uint64_t key;

static int start_anew(void **state)
{
	(void)state;
	brief = (struct brief){0};
	key = brief_key("/usr/bin/cc1", "default", 1000);
	return 0;
}

static void end_early(unsigned times)
{
	while (times-- > 0)
		brief_ended(&brief, key, true);
}

static void a_few_early_ends_are_needed(void **state)
{
	(void)state;
	assert_false(brief_leave(&brief, key));
	end_early(BRIEF_SEEN - 1);
	assert_false(brief_leave(&brief, key));
	end_early(1);
	assert_true(brief_leave(&brief, key));
}

static void one_in_a_few_is_taken_over(void **state)
{
	unsigned taken = 0;

	(void)state;
	end_early(BRIEF_SEEN);
	for (unsigned i = 0; i < 5 * BRIEF_SAMPLE; i++)
		taken += !brief_leave(&brief, key);
	assert_int_equal(taken, 5);
}

static void one_that_lives_long_changes_it(void **state)
{
	(void)state;
	end_early(BRIEF_SEEN);
	brief_ended(&brief, key, false);
	assert_false(brief_leave(&brief, key));
	end_early(BRIEF_SEEN - 1);
	assert_false(brief_leave(&brief, key));
	end_early(1);
	assert_true(brief_leave(&brief, key));
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
		assert_false(brief_leave(&brief, others[i]));
	}
}

static void a_newer_one_takes_the_place_of_an_older(void **state)
{
	uint64_t newer = key + BRIEF_EXECUTABLES;

	(void)state;
	end_early(BRIEF_SEEN);
	brief_ended(&brief, newer, true);
	assert_false(brief_leave(&brief, newer)); /* what was seen is not about this one */
	assert_false(brief_leave(&brief, key));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup(f, start_anew)
	const struct CMUnitTest tests[] = {
		T(a_few_early_ends_are_needed),
		T(one_in_a_few_is_taken_over),
		T(one_that_lives_long_changes_it),
		T(executable_policy_and_user_tell_apart),
		T(a_newer_one_takes_the_place_of_an_older),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
