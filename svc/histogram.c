#include "histogram.h"

/* bucket = 8 * log2(ns), the fraction taken from the three bits after the highest. */
static unsigned bucket_of(uint64_t ns)
{
	unsigned high = 63U - (unsigned)__builtin_clzll(ns | 8);
	unsigned bucket = (high - 3) * HISTOGRAM_STEPS + (unsigned)(ns >> (high - 3) & 7);

	return bucket < HISTOGRAM_BUCKETS ? bucket : HISTOGRAM_BUCKETS - 1;
}

static uint64_t edge_ns(unsigned bucket)
{
	return (8ULL + bucket % HISTOGRAM_STEPS + 1) << bucket / HISTOGRAM_STEPS;
}

void histogram_add(struct histogram *h, uint64_t ns)
{
	_Atomic uint64_t *b = &h->bucket[bucket_of(ns)];

	/* One writer: no read-modify-write needed. */
	atomic_store_explicit(
		b, atomic_load_explicit(b, memory_order_relaxed) + 1, memory_order_relaxed);
	if (ns > atomic_load_explicit(&h->max_ns, memory_order_relaxed))
		atomic_store_explicit(&h->max_ns, ns, memory_order_relaxed);
}

void histogram_sum(const struct histogram *h, struct histogram_sum *sum)
{
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		uint64_t n = atomic_load_explicit(&h->bucket[i], memory_order_relaxed);
		sum->bucket[i] += n;
		sum->count += n;
	}
	uint64_t max_ns = atomic_load_explicit(&h->max_ns, memory_order_relaxed);
	uint64_t max = max_ns / 1000 + (max_ns % 1000 != 0);
	if (max > sum->max_us)
		sum->max_us = max;
}

uint64_t histogram_percentile(const struct histogram_sum *s, double percent)
{
	double want = (double)s->count * percent / 100.0, seen = 0;

	for (unsigned i = 0; s->count > 0 && i < HISTOGRAM_BUCKETS; i++) {
		seen += (double)s->bucket[i];
		if (seen >= want && s->bucket[i] > 0) {
			uint64_t us = (edge_ns(i) + 999) / 1000;
			return us < s->max_us ? us : s->max_us;
		}
	}
	return 0;
}
