/* Handshakes under way (attach.h), of which nobody's keeps others out. The main thread's. */
#ifndef LARDER_HANDSHAKES_H
#define LARDER_HANDSHAKES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct attachment;
struct worker;

/* At a time; more wait in the listen queue. */
enum { HANDSHAKES_MAX = 256 };

struct handshake {
	uint64_t id;
	uint64_t since_ms;
	struct attachment *attachment; /* owned */
};

/* Starts as zeros, with its worker. */
struct handshakes {
	struct worker *w;
	struct handshake slot[HANDSHAKES_MAX];
	size_t count;
	uint64_t next_id;
	bool deaf;   /* the attach socket isn't listened to */
	bool paused; /* the same, and the tick doesn't change that */
	bool closed; /* for good */
};

/* The attach socket is readable. */
void handshakes_accept(struct handshakes *h);
/* One's socket is (SOURCE_HANDSHAKE). */
void handshakes_advance(struct handshakes *h, uint64_t id);
/* Each second, while there are any: ends silent ones, and listens again. */
void handshakes_tick(struct handshakes *h);
/* Those that are under way go on, and who comes now waits in the listen queue. */
void handshakes_pause(struct handshakes *h);
/* Nobody is taken over any more, and who asks runs on as without a service. */
void handshakes_close(struct handshakes *h);

#endif
