/* Inside liblarder.so: what its files share. Nothing here is visible to the program. */
#ifndef LARDER_SHIM_H
#define LARDER_SHIM_H

#include <stdint.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "link.h"

#define EXPORT __attribute__((visibility("default")))

/* What a forked child does not have: the mappings are MADV_DONTFORK, and something else may lie
 * at their addresses by then. So the page that names them is MADV_WIPEONFORK: it reads as zeros
 * in a child, however that was made, and as it is in whoever shares the memory (vfork). */
struct shim_page {
	struct link *_Atomic link; /* NULL: no link in this process */
	volatile uint8_t *bell;
	uint8_t *staging; /* NULL: unmapped again, and so are the link's data slots */
	/* Staging and all that lies around it: one range. */
	uint8_t *area;
	size_t area_bytes;
	pid_t program;		/* a vfork child has this page, and another pid */
	_Atomic bool left;	/* the limits were lowered (shim_limit.c) */
	_Atomic uint64_t calls; /* that found no link and do without (shim_call.c) */
};

/* Set once by the constructor, before the program has threads; read-only afterwards. NULL:
 * neither this program nor the one that it was forked from is managed. */
extern struct shim_page *shim_page;

/* Hands this program's userfaultfd to the service and starts the agent. On any failure nothing
 * remains: no descriptor, no mapping, no process. errno is kept. */
void shim_attach(void);

/* A call of the program's that is under way. Zero: none. */
struct shim_call {
	struct link *link; /* NULL: it found none */
	volatile uint8_t *bell;
	int ticket; /* of link->request; -1: there is nothing to be done */
	bool begun;
	uint32_t counted; /* shim_call.c's */
};

/* Has [addr, addr + len) put back and the mappings it touches unregistered, and keeps them so
 * until shim_end. In the same thread, the one that began last ends first. errno is kept. */
void shim_give_back(struct shim_call *call, const void *addr, size_t len);
void shim_end(struct shim_call *call);
/* The same, but that they stay so for good. */
void shim_keep(struct shim_call *call);

/* False: there is no link. */
bool shim_call_begin(struct shim_call *call);
void shim_call_end(struct shim_call *call);
/* Does nobody answer this call, of a program whose memory may be registered all the same? A
 * forked child's, which has no link, or none any more: its agent may not get through. */
bool shim_call_alone(const struct shim_call *call);
/* First thing in a new process. Generation: greater than its parent's; 0: it has no agent. */
void shim_calls_start(uint32_t generation);

/* What is registered is all below it. */
#define SHIM_WHOLE_SPACE (1UL << 47)

/* Is this program left alone, so that it doesn't feel ours in its limits? */
bool shim_near_limit(void);

/* No page is on its way out. It stays so while all is given back. */
bool shim_staging_unused(const struct link *link);

/* After shim_give_back, which does nothing in a forked child that has nobody to ask: brings the
 * pages back by touching them, and with `fill` has none missing. Elsewhere nothing. */
void shim_touch_in_child(const struct shim_call *call, const void *addr, size_t len, bool fill);

/* Memory of this process was locked when nobody could be asked: it may be registered still. */
extern _Atomic bool shim_locked_unlinked;

/* After the program locked all of its memory, and what was ours with it. Everything of the
 * program's was given back, and stays so meanwhile. */
void shim_unlock_own(void);

/* What a raw system call returned, as libc returns it. */
long shim_result(long r);

#endif
