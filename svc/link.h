/* The link: memory shared by the service and one client's agent and shim.
 *
 *   offset      size
 *   0           4096      struct link_head
 *   4096        8192      slot table: struct link_slot per staging slot
 *   12288       4096      requests of the shim: struct link_request
 *   16384       512*4096  data slots: slot i holds the bytes of the page in staging slot i
 *
 * One memfd a client, made, sealed against resizing and filled by the service, and dropped to
 * nothing (hole-punched) when no eviction is under way. The layout is ABI between a shim that a
 * long-running program loaded months ago and a newer service: fields are only added, in the
 * reserved space, and the version, which is that of the handshake that made it (protocol.h),
 * grows only with an incompatible change.
 *
 * One order is outstanding at a time (DESIGN rule 2: posted only when the agent is idle), so
 * the order ring and the completion ring are one entry each.
 *
 *   service                          agent
 *   fills order, stores seq = n  -->  sees seq != done_seq: it spins, or the doorbell wakes it
 *                                     does it, fills moved, error
 *   sees done_seq == n           <--  stores done_seq = n, wakes the service if it waits
 *
 * (seq and done_seq: release on store, acquire on load.)
 *
 * The service trusts nothing in here: it reads each completion field once, checks their
 * range, and takes addresses only from its own memory. */
#ifndef LARDER_LINK_H
#define LARDER_LINK_H

#include "protocol.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdint.h>

enum {
	LINK_VERSION = PROTOCOL_VERSION,
	LINK_SLOTS = 512, /* one 2 MiB block: a huge page moves in one order */
	LINK_REQUESTS = 32,
	LINK_PAGE = 4096,
	LINK_SLOT_TABLE_AT = 4096,
	LINK_REQUESTS_AT = 12288,
	LINK_DATA_AT = 16384,
	LINK_BYTES = LINK_DATA_AT + LINK_SLOTS * LINK_PAGE,
};
#define LINK_MAGIC 0x6b6e696c7264726cULL /* "lrdrlink" */

enum link_op {
	/* MOVE each page of [addr, addr + pages) into the staging slot of the same place in its
	 * 2 MiB block, first `slot`, and copy what moved into the data slots. */
	LINK_MOVE = 1,
	LINK_ZAP = 2, /* give staging slots [slot, slot + pages) back to the kernel */
	/* MADV_POPULATE_WRITE [addr, addr + pages): what is shared since a fork becomes the
	 * program's own, and can be moved then. An agent that doesn't know it says -EINVAL. */
	LINK_UNSHARE = 3,
	/* MADV_COLLAPSE [addr, addr + pages), a block that is all there; of whatever is there
	 * by then. As with LINK_UNSHARE. */
	LINK_COLLAPSE = 4,
};

enum link_acceptance {
	LINK_UNTOLD = 0, /* an older service doesn't tell */
	LINK_PENDING = 1,
	LINK_ACCEPTED = 2
};

enum link_end {
	/* By the service, or by an agent that gave up: a forked child's memory is served all
	 * the same, and what was registered stays so. */
	LINK_LEFT = 1,
	/* By the service, to whom everything was given back before. */
	LINK_ALL_BACK = 2
};

struct link_head {
	uint64_t magic;
	uint32_t version;
	uint32_t reserved0;
	/* order: written by the service */
	_Atomic uint32_t seq;
	uint32_t op;
	uint64_t addr;
	uint32_t pages;
	uint32_t slot;
	_Atomic uint32_t
		busy; /* orders follow closely: the agent spins a little before it sleeps */
	_Atomic uint32_t waiting; /* the service sleeps on done_seq */
	/* completion: written by the agent */
	_Atomic uint32_t done_seq;
	int32_t error;	     /* 0; -EAGAIN: stopped, the fence is up; else the last refusal */
	uint32_t busy_pages; /* refused with EBUSY: shared or pinned */
	uint64_t moved[LINK_SLOTS /
		       64];	  /* bit i: slot i holds its page, and its bytes are copied */
	_Atomic uint32_t asleep;  /* the agent sleeps in poll: an order needs the doorbell */
	_Atomic uint32_t closed;  /* enum link_end; not 0: nobody answers, ask for nothing */
	_Atomic uint32_t exit;	  /* by the service: the agent ends */
	_Atomic uint32_t hung_up; /* the exec pipe hung up: is it still our program's memory? */
	/* By the service, enum link_acceptance: once it is accepted, a service that comes after
	 * this one knows of it. */
	_Atomic uint32_t accepted;
};

/* Written by the service before it posts a MOVE; tells a recovering service what staging holds.
 */
struct link_slot {
	uint64_t addr; /* application page, 0 = none */
	uint32_t seq;  /* of the order that was to move it */
	uint32_t reserved;
};

/* What the shim asks for, before a call that the kernel reports no event for (rules 7, 12). */
enum link_request_op {
	/* Put [addr, addr + len) back, unregister the mappings it touches. */
	LINK_GIVE_BACK = 1,
};
/* FREE -> (shim) CLAIMED -> filled, POSTED -> (service) DONE -> (shim, after its call) FREE.
 * While DONE, the range stays unregistered. */
/* Why it is asked for; an older shim doesn't say. */
enum link_reason {
	LINK_FOR_A_CALL = 0, /* that is under way, and ends */
	LINK_FOR_LIMITS = 1, /* the program lowered its limits: it is left alone for good */
};
enum link_request_state { LINK_FREE, LINK_CLAIMED, LINK_POSTED, LINK_DONE };
struct link_request {
	_Atomic uint32_t state;
	uint32_t op;
	uint64_t addr;
	uint64_t len;
	int32_t result;
	uint32_t reason; /* enum link_reason, for people */
};

struct link {
	struct link_head head;
	uint8_t pad0[LINK_SLOT_TABLE_AT - sizeof(struct link_head)];
	struct link_slot slot[LINK_SLOTS];
	struct link_request request[LINK_REQUESTS];
	uint8_t pad1[LINK_DATA_AT - LINK_REQUESTS_AT -
		     LINK_REQUESTS * sizeof(struct link_request)];
	uint8_t data[LINK_SLOTS][LINK_PAGE];
};
static_assert(sizeof(struct link) == LINK_BYTES, "the layout is ABI");
static_assert(sizeof(struct link_slot) * LINK_SLOTS == LINK_REQUESTS_AT - LINK_SLOT_TABLE_AT,
	"the slot table fills its place");

#endif
