/* Executables that never live long are left alone, but for a few, until one lives longer. */
#include "brief.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static struct brief brief;
static uint64_t key, now;

static int start_anew(void **state)
{
	(void)state;
	brief = (struct brief){0};
	now = 1000000;
	key = hint_key("/usr/bin/cc1", "default", 1000);
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
	assert_false(brief_leave(&brief, key, false, now));
	end_early(BRIEF_SEEN - 1);
	assert_false(brief_leave(&brief, key, false, now));
	end_early(1);
	assert_true(brief_leave(&brief, key, false, now));
}

static void one_in_a_few_is_taken_over(void **state)
{
	unsigned taken = 0;

	(void)state;
	end_early(BRIEF_SEEN);
	for (unsigned i = 0; i < 5 * BRIEF_SAMPLE; i++)
		taken += !brief_leave(&brief, key, false, now);
	assert_int_equal(taken, 5);
}

static void one_that_lives_long_changes_it(void **state)
{
	(void)state;
	end_early(BRIEF_SEEN);
	brief_ended(&brief, key, false, now);
	assert_false(brief_leave(&brief, key, false, now));
	end_early(BRIEF_SEEN - 1);
	assert_false(brief_leave(&brief, key, false, now));
	end_early(1);
	assert_true(brief_leave(&brief, key, false, now));
}

static void executable_policy_and_user_tell_apart(void **state)
{
	const uint64_t others[] = {hint_key("/usr/bin/as", "default", 1000),
		hint_key("/usr/bin/cc1", "builds", 1000),
		hint_key("/usr/bin/cc1", "default", 1001),
		hint_key("/usr/bin/cc1default", "", 1000)};

	(void)state;
	end_early(BRIEF_SEEN);
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		assert_int_not_equal(others[i], key);
		assert_false(brief_leave(&brief, others[i], false, now));
	}
}

static void a_newer_one_takes_the_place_of_an_older(void **state)
{
	uint64_t newer = key + BRIEF_EXECUTABLES;

	(void)state;
	end_early(BRIEF_SEEN);
	brief_ended(&brief, newer, true, now);
	assert_false(brief_leave(
		&brief, newer, false, now)); /* what was seen is not about this one */
	assert_false(brief_leave(&brief, key, false, now));
}

/* One that runs now and then costs nothing, and may be a long one at any time. */
static void what_comes_seldom_is_taken_over(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 5 * BRIEF_FULL; i++, now += BRIEF_DRAIN_MS) {
		assert_false(brief_leave(&brief, key, false, now));
		end_early(1);
	}
}

static void as_long_as_they_come_fast_they_are_left_alone(void **state)
{
	unsigned taken = 0;

	(void)state;
	end_early(BRIEF_SEEN);
	for (unsigned i = 0; i < 100 * BRIEF_SAMPLE; i++, now += BRIEF_DRAIN_MS / 2)
		if (!brief_leave(&brief, key, false, now)) {
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
	assert_false(brief_leave(&brief, key, false, now));
	end_early(1);
	assert_true(brief_leave(&brief, key, false, now));
}

/* A shim that looks there is told what it would be told when it asked. */
static void hints_say_the_same(void **state)
{
	static struct hint hint[HINT_SLOTS];
	const struct hint *h = &hint[key % HINT_SLOTS];

	(void)state;
	memset(hint, 0, sizeof(hint));
	brief.hint = hint;
	end_early(BRIEF_SEEN - 1);
	assert_int_equal(h->key, 0);
	end_early(1);
	assert_int_equal(h->key, key);
	assert_int_equal(h->until_ms, now + BRIEF_DRAIN_MS);
	/* One that comes all the same is taken over, and lives long. */
	assert_false(brief_leave(&brief, key, true, now));
	assert_int_equal(h->key, key);
	brief_ended(&brief, key, false, now);
	assert_int_equal(h->key, 0);
	end_early(BRIEF_FULL);
	assert_int_equal(h->until_ms, now + (BRIEF_FULL - BRIEF_SEEN + 1) * BRIEF_DRAIN_MS);
	now = h->until_ms;
	assert_false(brief_leave(&brief, key, false, now));
	assert_int_equal(h->key, 0);
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
		T(hints_say_the_same),
		T(executable_policy_and_user_tell_apart),
		T(a_newer_one_takes_the_place_of_an_older),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
