/* The file of the counters in a full file system: whatever is counted there or read from it is
 * an answer, and never a signal. */
#include "counters.h"
#include "full_tmpfs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static char dir[] = "/tmp/larder-counters.XXXXXX";
static char path[256], filler[256];

static uint64_t faults(const struct counters *c)
{
	struct client_counts all = {0};

	counters_add_up(c, &all);
	return atomic_load(&all.faults);
}

/* Clients that begin when there is no room get no slot, so there are gaps below the next. */
static void gaps_are_no_holes(void **state)
{
	struct counters *c = counters_open(dir, false);

	(void)state;
	assert_non_null(c);
	struct counter_slot *s = counters_claim(c, 0, 1);
	assert_non_null(s);
	atomic_fetch_add(&s->sum.faults, 3);
	tmpfs_fill(dir);
	assert_null(counters_claim(c, 500, 2));
	assert_int_equal(faults(c), 3);
	assert_int_equal(unlink(filler), 0);
	s = counters_claim(c, 500, 3);
	assert_non_null(s);
	atomic_fetch_add(&s->sum.faults, 4);
	tmpfs_fill(dir);
	assert_int_equal(faults(c), 7);
	assert_int_equal(unlink(filler), 0);
	counters_close(c, dir);
}

/* A file of that size without any content, and no room for it. */
static void an_empty_file_is_none(void **state)
{
	(void)state;
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	assert_int_equal(ftruncate(fileno(f), sizeof(struct counters)), 0);
	fclose(f);
	tmpfs_fill(dir);
	assert_null(counters_open(dir, true));
	/* And none is left half made. */
	assert_int_not_equal(access(path, F_OK), 0);
	assert_int_equal(unlink(filler), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gaps_are_no_holes),
		cmocka_unit_test(an_empty_file_is_none),
	};
	if (!tmpfs_of(dir, "1m")) {
		fputs("skipped: needs root\n", stderr);
		return getenv("MUST_WORK") ? 1 : 77;
	}
	snprintf(path, sizeof(path), "%s/" COUNTERS_FILE, dir);
	snprintf(filler, sizeof(filler), "%s/filler", dir);
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	tmpfs_remove(dir);
	return failed;
}
