/* A model of what the kernel does with userfaultfds: address spaces whose programs change them,
 * and what that tells the service. All of it in place of svc/uffd.c and svc/pagemap.c.
 *
 * Calls happen at once; what they raise is read in that order. But a fork copies the page
 * tables first and is told of later, so that other threads' calls come between. A discard is
 * told of before it is done. A thread waits until its event was read, and the fence is up as
 * long.
 *
 * Each page has a number; 0 is zeros. Whatever the service puts anywhere has to be what the
 * program would find there without it. */
#ifndef KERNEL_MODEL_H
#define KERNEL_MODEL_H

#include "link.h"
#include "uffd.h"

#include <stdbool.h>
#include <stdint.h>

enum {
	PLACES = 4, /* mappings, each at the begin of a block of its own */
	PLACE_PAGES = 4,
	THREADS = 3,
	MEMORIES = 10,
	EVENTS = 3,
	/* Descriptors that aren't any. */
	MODEL_UFFDS = 100000, /* the first that a FORK gets; a number comes again once closed */
	MODEL_PAGEMAPS = 200000,
	MODEL_MEMS = 300000,
	MODEL_END = 400000,
};
#define PLACE_FIRST   (0x40000000000ULL)
#define PLACE_STAGING (0x50000000000ULL)

static inline uint64_t place_addr(unsigned place, unsigned page)
{
	return PLACE_FIRST + ((uint64_t)place << 21) + page * PAGE_SIZE;
}

struct thread {
	struct uffd_msg event[EVENTS]; /* of its call, in their order; told of one by one */
	unsigned events;
	bool told_of;	/* the first is in the queue */
	uint64_t fault; /* it waits for this page; 0 = no */
	bool write;
	bool fault_read;
	/* What its call brings something to: others can't know yet what is there. But what it
	 * has unmapped they may get. */
	bool busy[PLACES];
	uint64_t doomed, doomed_end; /* a discard that was told of, and isn't done */
};

struct memory {
	bool used; /* it lives, or the service has a descriptor of it */
	bool lives;
	bool has_agent;
	int uffd; /* -1: its FORK wasn't read */
	int index;
	unsigned threads;
	struct thread thread[THREADS];
	struct thread *queue[THREADS]; /* borrowed: whose event comes next */
	unsigned queued;
	unsigned lag; /* so many looks find the fence up though nothing is under way */
	bool mapped[PLACES], registered[PLACES];
	bool present[PLACES][PLACE_PAGES];
	uint32_t number[PLACES][PLACE_PAGES]; /* what the program would find there */
	/* Its agent's. */
	bool staging_open;
	bool staged[LINK_SLOTS];
	uint32_t staging[LINK_SLOTS];
	struct link *link; /* borrowed mapping of the world's */
	int link_fd;
	struct pending { /* what it was told to do and has not yet */
		bool move, zap;
		unsigned place, first, end;
	} pending;
};

/* Nothing lives. random: one below. */
void model_reset(uint64_t (*random)(uint64_t below));
/* A program with so many threads, and all places mapped and registered. NULL: no room. */
struct memory *model_start(unsigned threads);
struct memory *model_memory(unsigned i); /* below MEMORIES */
struct memory *model_by_uffd(int uffd);	 /* NULL: there is none */

/* Some thread of it goes on, or calls something. */
void model_step(struct memory *m);
/* They go on, as far as they can, and call nothing. True: nobody waits for an event to be read.
 */
bool model_calm(struct memory *m);
/* A thread of it touches the page, and waits for it where it isn't there. */
void model_touch(struct memory *m, unsigned place, unsigned page);
/* False: somebody is in a call. */
bool model_end(struct memory *m);
bool model_is_discarding(const struct memory *m);
bool model_fence_up(struct memory *m);

/* The agent does what is pending, or some of it. */
void model_agent(struct memory *m, bool all);

#endif
