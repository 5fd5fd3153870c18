/* A histogram of microseconds with buckets that grow by an eighth: percentiles are right within
 * 13 %. One thread adds; any thread may read (a reading is as of about now). */
#ifndef LARDER_HISTOGRAM_H
#define LARDER_HISTOGRAM_H

#include <stdatomic.h>
#include <stdint.h>

enum { HISTOGRAM_STEPS = 8, HISTOGRAM_BUCKETS = 40 * HISTOGRAM_STEPS };

struct histogram {
	_Atomic uint64_t bucket[HISTOGRAM_BUCKETS];
	_Atomic uint64_t max_ns;
};

struct histogram_sum {
	uint64_t bucket[HISTOGRAM_BUCKETS];
	uint64_t count;
	uint64_t max_us;
};

void histogram_add(struct histogram *h, uint64_t ns);
void histogram_sum(const struct histogram *h, struct histogram_sum *sum); /* adds to sum */
/* Upper edge of the bucket, us, rounded up; never above the maximum. 0 when empty. */
uint64_t histogram_percentile(const struct histogram_sum *s, double percent);

#endif
