/* The data set: what a server program's heap might hold. */
#include "bench.h"

#include <string.h>

uint64_t data_random(uint64_t *state)
{
	uint64_t x = *state += 0x9e3779b97f4a7c15;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

/* Records as a document store or a log buffer has them. */
static void fill_json(uint64_t seed, char *page)
{
	static const char *const names[] = {
		"alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi"};
	static const char *const states[] = {"active", "pending", "closed", "unknown"};
	char record[256];
	size_t at = 0;

	while (at < BENCH_PAGE) {
		uint64_t r = data_random(&seed), s = data_random(&seed);
		int n = snprintf(record, sizeof(record),
			"{\"id\": %u, \"user\": \"%s\", \"state\": \"%s\", \"score\": %u.%02u, "
			"\"token\": \"%08x\"},\n",
			(unsigned)(r & 0xffffff), names[(r >> 24) & 7], states[(r >> 27) & 3],
			(unsigned)(r >> 29) & 1023, (unsigned)(r >> 40) % 100, (unsigned)s);
		size_t take = (size_t)n < BENCH_PAGE - at ? (size_t)n : BENCH_PAGE - at;
		memcpy(page + at, record, take);
		at += take;
	}
}

/* Nodes with pointers into one heap, small numbers, and a key that doesn't repeat. */
static void fill_nodes(uint64_t seed, char *page)
{
	uint64_t words[BENCH_PAGE / 8],
		heap = 0x7f3a00000000 + (data_random(&seed) & 0xffff000);

	for (size_t i = 0; i < BENCH_PAGE / 8; i += 4) {
		uint64_t r = data_random(&seed);
		words[i] = heap + (r & 0xffff) * 16;
		words[i + 1] = heap + ((r >> 16) & 0xffff) * 16;
		words[i + 2] = (r >> 32) & 0xff;
		words[i + 3] = i % 8 == 0 ? data_random(&seed) : 0;
	}
	memcpy(page, words, BENCH_PAGE);
}

static void fill_random(uint64_t seed, char *page)
{
	uint64_t words[BENCH_PAGE / 8];

	for (size_t i = 0; i < BENCH_PAGE / 8; i++)
		words[i] = data_random(&seed);
	memcpy(page, words, BENCH_PAGE);
}

void data_fill(uint64_t seed, size_t index, void *page)
{
	uint64_t state = seed ^ (index << 20);
	uint64_t kind = data_random(&state) % 100;

	if (kind < 8)
		memset(page, 0, BENCH_PAGE);
	else if (kind < 13)
		fill_random(state, page);
	else if (kind < 56)
		fill_json(state, page);
	else
		fill_nodes(state, page);
}

uint64_t data_checksum(const void *page)
{
	const char *bytes = page;
	uint64_t sum = 0, word;

	for (size_t i = 0; i < BENCH_PAGE; i += sizeof(word)) {
		memcpy(&word, bytes + i, sizeof(word));
		sum = (sum ^ word) * 0x9fb21c651e98df25;
		sum ^= sum >> 29;
	}
	return sum;
}
