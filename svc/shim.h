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
	pid_t program; /* a vfork child has this page, and another pid */
	/* Calls that found no link and do without: an agent that comes late waits for them. */
	_Atomic uint32_t unlinked_calls;
};

/* Set once by the constructor, before the program has threads; read-only afterwards. NULL:
 * neither this program nor the one that it was forked from is managed. */
extern struct shim_page *shim_page;

/* Hands this program's userfaultfd to the service and starts the agent. On any failure nothing
 * remains: no descriptor, no mapping, no process. errno is kept. */
void shim_attach(void);

/* Has [addr, addr + len) put back and the mappings it touches unregistered, and keeps them so
 * until shim_end(ticket). Returns a ticket, or -1 when there is nothing to be done, as in a
 * forked child, which has no link. errno is kept. */
int shim_give_back(const void *addr, size_t len);
void shim_end(int ticket);

/* What is registered is all below it. */
#define SHIM_WHOLE_SPACE (1UL << 47)

/* Is this program left alone, so that it doesn't feel ours in its limits? */
bool shim_near_limit(void);

/* No page is on its way out. It stays so while all is given back. */
bool shim_staging_unused(const struct link *link);

/* In a forked child without a link, brings the pages back by touching them, and with `fill` has
 * none missing; elsewhere nothing. */
void shim_touch_in_child(const void *addr, size_t len, bool fill);

/* Memory of this process was locked when it had no link: it may be registered still. */
extern _Atomic bool shim_locked_unlinked;

/* After the program locked all of its memory, and what was ours with it. Everything of the
 * program's was given back, and stays so meanwhile. */
void shim_unlock_own(void);

/* What a raw system call returned, as libc returns it. */
long shim_result(long r);

#endif
