/* What every misbehaviour of hostile.c needs: the attach protocol, spoken by hand. Whatever
 * fails here ends the process with 1 and a reason; only what the service refuses is left to the
 * caller.
 */
#ifndef LARDER_TESTS_HOSTILE_H
#define LARDER_TESTS_HOSTILE_H

#include "kernel.h"
#include "link.h"
#include "protocol.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	BLOCK = 2 << 20,
	STAGING = LINK_SLOTS * LINK_PAGE,
	PREY = 8 * BLOCK, /* what there is to evict */
	/* Longer than anything that works takes on a busy machine. */
	PATIENCE_MS = 60000,
	FDS_MAX = 200,
};

/* A client, as far as it has come. */
struct hostile {
	int socket, uffd;
	int fds[WELCOME_FDS];
	struct link *link;
	uint8_t *staging, *bell, *prey;
};

void die(const char *what) __attribute__((noreturn)); /* with errno's text */

void chance_seed(uint64_t seed);
uint64_t roll(void);
void roll_bytes(void *to, size_t n);

void *map(size_t size);
uint8_t *map_aligned(size_t size); /* to 2 MiB */

int dial(void);
/* The service may have hung up already: that is for the caller to find out. */
void say(int fd, const void *body, size_t size, const int *fds, size_t count);
/* A message of that size, with at most `room` descriptors: false when it is another, or none.
 */
bool hear(int fd, void *body, size_t size, int *fds, size_t room);
void say_hello(int fd);
void say_ready(
	const struct hostile *h, uint64_t staging, uint64_t bell, const int *fds, size_t count);
int new_uffd(const struct hostile *h);

/* Up to WELCOME, with all that READY needs. */
struct hostile introduce(void);
/* The service must have closed, and within reason. */
void expect_end(int fd, const char *what);
void forget(struct hostile *h);

/* A client like any other, but for what its agent does: a process of its own, which shares the
 * memory but no descriptors. Once a process. */
struct hostile *attach(void (*serve)(struct hostile *h));

/* hostile_left.c */
void left_swapped(void);
void left_relinked(void);
void left_deafened(void);
void left_execed(void);
void left_impostor(void);

#endif
