/* The life of one thread of the guest. */
#include "guest.h"

#include <stdlib.h>

static const struct operation {
	bool (*run)(struct worker *w);
	unsigned weight;
	bool in_child;
} operations[OP_COUNT] = {
#define X(name, weight, in_child, help) [OP_##name] = {op_##name, weight, in_child},
	GUEST_OPS(X)
#undef X
};

/* Areas of all sizes, until three quarters of the memory are in use. */
void worker_setup(struct worker *w)
{
	w->now = clock_us();
	while (w->pages < w->pages_max / 4 * 3 && w->area_count < AREAS_MAX / 2) {
		size_t pages = size_pick(w);
		if (w->area_count % 4 == 3)
			pages = w->pages_max / 8 + 1;
		if (!has_room(w, pages))
			break;
		if (w->area_count % 8 == 5 && op_malloc(w))
			continue;
		struct area *a = area_map(w, pages);
		if (!a)
			break;
		area_fill(w, a, 0, pages);
		note(w, a, OP_setup, 0, pages);
	}
}

static enum op choose(struct worker *w)
{
	size_t total = 0, at;

	for (unsigned op = 0; op < OP_COUNT; op++)
		total += w->options->enabled[op] ? operations[op].weight : 0;
	at = random_below(w, total);
	for (unsigned op = 0; op < OP_COUNT; op++) {
		size_t weight = w->options->enabled[op] ? operations[op].weight : 0;
		if (at < weight)
			return (enum op)op;
		at -= weight;
	}
	return OP_read;
}

bool worker_step(struct worker *w)
{
	enum op op = choose(w);

	if (w->depth > 0 && !operations[op].in_child)
		return false;
	w->serial++;
	w->last_area = NULL;
	bool done = operations[op].run(w);
	w->counts[op] += done;
	if (!done || w->options->sabotage != (int)op || w->area_count == 0)
		return done;
	struct area *a = w->last_area ? w->last_area : w->areas[random_below(w, w->area_count)];
	sabotage(w, a);
	return done;
}

void worker_run(struct worker *w)
{
	uint64_t end = clock_us() + w->options->seconds * 1000000;

	while ((w->now = clock_us()) < end)
		worker_step(w);
}

void worker_finish(struct worker *w)
{
	reap_children(w, 0);
	while (w->area_count > 0) {
		struct area *a = w->areas[0];
		area_settle(w, a);
		area_check(w, a);
		area_free(w, a);
	}
}
