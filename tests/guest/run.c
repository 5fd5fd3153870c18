/* The life of one thread of the guest. */
#include "guest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const struct operation {
	bool (*run)(struct worker *w);
	unsigned weight;
	bool in_child;
} operations[OP_COUNT] = {
#define X(name, weight, in_child, help) [OP_##name] = {op_##name, weight, in_child},
	GUEST_OPS(X)
#undef X
};

struct worker *worker_new(const struct options *o, struct totals *totals, unsigned number)
{
	struct worker *w = calloc(1, sizeof(*w));

	if (!w)
		exit(2);
	w->options = o;
	w->totals = totals;
	w->number = number;
	snprintf(w->who, sizeof(w->who), "%u", number);
	w->base = mix(mix(o->seed) + number);
	w->mark = (uint32_t)w->base & 0xffff;
	w->pages_max = (size_t)(o->megabytes * 256 / o->threads);
	return w;
}

static uint64_t clock_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* ---- how often ---- */

/* Of two kinds of operations there may be none at all, or few: after each of them, pages can't
 * be evicted for a while, and where there are many of them hardly any page ever is. */
static bool is_fork(enum op op)
{
	return op >= OP_fork && op <= OP_dontfork;
}

static bool is_discard(enum op op)
{
	return op == OP_dontneed || op == OP_free || op == OP_dontneedmany || op == OP_pmadvise;
}

/* In sixteenths. */
static size_t swarm_factor(uint64_t seed, enum op op)
{
	static const size_t group[] = {0, 1, 4, 16}, single[] = {0, 4, 16, 32};
	size_t factor = op <= OP_poke ? 16 : single[mix(seed + op) % 4];

	if (is_fork(op))
		factor = factor * group[mix(seed ^ 1000) % 4] / 16;
	if (is_discard(op))
		factor = factor * group[mix(seed ^ 2000) % 4] / 16;
	return factor;
}

void weights_choose(struct options *o)
{
	o->weights = 0;
	for (enum op op = 0; op < OP_COUNT; op++) {
		size_t factor = o->swarm ? swarm_factor(o->seed, op) : 16;
		o->weight[op] = o->enabled[op] ? operations[op].weight * factor : 0;
		o->weights += o->weight[op];
	}
}

/* ---- a step ---- */

/* Up to 32 ms, short waits being the more frequent ones. It isn't the script that says when, so
 * that each run of a script is another one in time. */
static void pause_sometimes(void)
{
	uint64_t random = mix(clock_us() ^ (uint64_t)getpid() << 40);
	uint64_t us = (random >> 8) % (1u << (random % 16));
	struct timespec t = {.tv_nsec = (long)us * 1000};

	if (random >> 60 < 8)
		nanosleep(&t, NULL);
}

static void sabotage_after(struct worker *w)
{
	if (w->options->sabotage != (int)w->op || w->area_count == 0)
		return;
	sabotage(w, w->last_area ? w->last_area : w->areas[random_below(w, w->area_count)]);
}

static bool worker_step(struct worker *w, enum op op, uint32_t seed)
{
	w->serial++;
	w->op = op;
	w->seed = seed;
	w->random = mix(seed);
	w->next_id = mix(~(uint64_t)seed);
	w->picks = w->areas_made = w->forks = 0;
	if (w->depth > 0 && !operations[op].in_child)
		return false;
	trace_step(w, op);
	if (w->options->pause)
		pause_sometimes();
	make_room(w);
	w->last_area = NULL;
	bool done = operations[op].run(w);
	w->counts[op] += done;
	if (done)
		sabotage_after(w);
	return done;
}

/* ---- which ---- */

static uint32_t next_seed(const struct worker *w)
{
	return (uint32_t)mix(w->base + w->serial);
}

static enum op choose(const struct worker *w, uint32_t seed)
{
	const struct options *o = w->options;
	size_t at = mix(seed ^ 1ull << 32) % o->weights;

	for (unsigned op = 0; op < OP_COUNT; op++) {
		if (at < o->weight[op])
			return (enum op)op;
		at -= o->weight[op];
	}
	return OP_read;
}

static void random_step(struct worker *w)
{
	uint32_t seed = next_seed(w);

	worker_step(w, choose(w, seed), seed);
}

static void replay(struct worker *w)
{
	const struct options *o = w->options;
	char who[WHO_MAX];

	memcpy(who, w->who, sizeof(who));
	for (size_t i = 0; i < o->line_count; i++)
		if (strcmp(o->lines[i].who, who) == 0)
			worker_step(w, o->lines[i].op, o->lines[i].seed);
}

/* Some live long enough to be evicted themselves. Those below take fewer steps, else there
 * would be more and more of them. */
void worker_run_child(struct worker *w)
{
	uint64_t steps = w->options->child_steps >> 2 * (w->depth - 1);

	if (mix(~w->base) % 8 == 0)
		steps *= 32;
	if (w->options->lines)
		replay(w);
	else
		for (uint64_t i = 0; i < steps; i++)
			random_step(w);
}

/* ---- a life ---- */

/* Areas of all sizes, until three quarters of the memory are in use. */
static void setup(struct worker *w)
{
	for (unsigned i = 0; i < AREAS_MAX / 2 && w->pages < w->pages_max / 4 * 3; i++)
		worker_step(w, i % 8 == 5 ? OP_malloc : OP_mmap, next_seed(w));
}

static void finish(struct worker *w)
{
	reap_children(w, 0);
	reap_orphans(w);
	while (w->area_count > 0) {
		struct area *a = w->areas[0];
		area_settle(w, a);
		area_check(w, a);
		area_free(w, a);
	}
}

/* A script goes once, or again and again when there is a time. */
void worker_run(struct worker *w)
{
	const struct options *o = w->options;
	uint64_t end = o->seconds > 0 ? clock_us() + o->seconds * 1000000 : 0;

	if (o->lines) {
		do {
			replay(w);
			finish(w);
			w->mark = (w->mark + 1) & 0xffff;
		} while (clock_us() < end);
	} else {
		setup(w);
		while ((o->steps == 0 || w->serial < o->steps) &&
			(end == 0 || w->serial % 16 != 0 || clock_us() < end))
			random_step(w);
		finish(w);
	}
	worker_count(w);
}

void worker_count(struct worker *w)
{
	for (unsigned op = 0; op < OP_COUNT; op++) {
		w->totals->counts[op] += w->counts[op];
		w->totals->unavailable[op] += w->unavailable[op];
		w->counts[op] = w->unavailable[op] = 0;
	}
	w->totals->checked += w->checked;
	w->checked = 0;
}
