/* bench-pager: how fast pages leave a program and come back, by the kernel's swap on zram and
 * by Larder, with the same program and the same data.
 *
 *   main (pager.c) ── fills memory (data.c)
 *        └─ passes (passes.c): evict by the peer, touch every page, verify every page */
#ifndef LARDER_BENCH_H
#define LARDER_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

enum { BENCH_PAGE = 4096, THREADS_MAX = 64 };

struct bench {
	uint64_t seed;
	size_t pages, threads;
	const char *larder; /* borrowed: the command, for the peer larder */
	const char *zram;   /* borrowed: name of the device, for the peer zram */
	pid_t service;	    /* whose processor time counts as well; 0: none */

	char *memory;
	uint64_t *checksums; /* of each page */
	uint32_t *order;     /* a random permutation of the pages */
	uint32_t *latency;   /* ns, of the touches of the current pass, in any order */
	uint8_t *absent;     /* 1: the page was out when the pass began */
};

/* ---- peers ---- */
struct peer {
	const char *name;
	/* Moves as much of the memory out as can be. 0 or negative errno. */
	int (*evict)(const struct bench *b);
	/* Bytes of memory that hold what is out; -1: not known. */
	int64_t (*stored)(const struct bench *b);
};
extern const struct peer peer_zram, peer_larder;

/* ---- data.c ---- */
/* Page `index` of the data set: the same for the same seed. About 2:1 by lz4. */
void data_fill(uint64_t seed, size_t index, void *page);
uint64_t data_checksum(const void *page);
uint64_t data_random(uint64_t *state);

/* ---- passes.c ---- */
struct eviction {
	size_t pages; /* that were there before and not after */
	size_t left;  /* that stayed */
	uint64_t wall_ns, cpu_ns;
};
struct pass {
	size_t touches; /* of pages that were out */
	uint64_t wall_ns;
	uint32_t p50, p90, p99, max; /* ns a touch */
};
enum pass_kind { PASS_RANDOM, PASS_SEQUENTIAL, PASS_THREADS };

int bench_evict(struct bench *b, const struct peer *peer, struct eviction *ret);
int bench_touch(struct bench *b, enum pass_kind kind, struct pass *ret);
/* How many pages don't have their checksum. */
size_t bench_verify(const struct bench *b);

#endif
