/* Percentiles within their bucket's error; reclamation only after everybody left. */
#include "histogram.h"
#include "qsbr.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void percentiles_are_within_an_eighth(void **state)
{
	static struct histogram h;
	static struct histogram_sum sum;

	(void)state;
	for (uint64_t us = 1; us <= 1000; us++)
		histogram_add(&h, us * 1000);
	histogram_sum(&h, &sum);
	assert_int_equal(sum.count, 1000);
	assert_in_range(histogram_percentile(&sum, 50), 500, 570);
	assert_in_range(histogram_percentile(&sum, 99), 990, 1000);
	assert_int_equal(sum.max_us, 1000);
}

static void extremes_stay_inside(void **state)
{
	static struct histogram h;
	static struct histogram_sum sum;

	(void)state;
	assert_int_equal(histogram_percentile(&sum, 50), 0);
	histogram_add(&h, 0);
	histogram_add(&h, UINT64_MAX);
	histogram_sum(&h, &sum);
	assert_int_equal(sum.count, 2);
	assert_int_equal(histogram_percentile(&sum, 50), 1);
}

struct visit {
	struct qsbr q;
	_Atomic bool left, done;
};

static void *synchronizer(void *arg)
{
	struct visit *v = arg;
	qsbr_synchronize(&v->q);
	/* Whoever was inside has left by now. */
	atomic_store(&v->done, atomic_load(&v->left));
	return NULL;
}

static void synchronize_waits_for_whoever_was_inside(void **state)
{
	struct visit v;
	pthread_t thread;

	(void)state;
	qsbr_init(&v.q);
	atomic_init(&v.left, false);
	atomic_init(&v.done, false);
	qsbr_enter(&v.q, 3);
	uint64_t epoch = atomic_load(&v.q.epoch);
	pthread_create(&thread, NULL, synchronizer, &v);
	while (atomic_load(&v.q.epoch) == epoch)
		; /* it has begun */
	atomic_store(&v.left, true);
	qsbr_leave(&v.q, 3);
	pthread_join(thread, NULL);
	assert_true(atomic_load(&v.done));
}

static void synchronize_does_not_wait_for_who_came_later(void **state)
{
	struct qsbr q;

	(void)state;
	qsbr_init(&q);
	atomic_fetch_add(&q.epoch, 5);
	qsbr_enter(&q, 0);
	qsbr_leave(&q, 0);
	qsbr_synchronize(&q); /* returns: nobody is inside */
	assert_int_equal(atomic_load(&q.epoch), 7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(percentiles_are_within_an_eighth),
		cmocka_unit_test(extremes_stay_inside),
		cmocka_unit_test(synchronize_waits_for_whoever_was_inside),
		cmocka_unit_test(synchronize_does_not_wait_for_who_came_later),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
