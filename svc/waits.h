/* What a client waits for that others have to do: for the statistics, and for the log where it
 * takes long. */
#ifndef LARDER_WAITS_H
#define LARDER_WAITS_H

#include "client.h"

struct waits {
	uint64_t faults;	  /* read, and not answered yet */
	uint64_t oldest_fault_ms; /* 0: none */
	uint64_t events;	  /* read, and not in order yet (sequence.h) */
	uint64_t events_ms;	  /* since there are any; 0: none */
	uint64_t unborn_ms;	  /* a forked child (birth.h); 0: it is born */
	uint64_t request_ms;	  /* a request, or a thread at the bell (restorer.h); 0: none */
};

/* Gate held. */
void waits_of(const struct client *c, struct waits *ret);

/* The main loop's, about once a second: a word in the log on each wait that lasts too long,
 * once. Skips a client whose gate is taken. */
void waits_look(struct client *c);

#endif
