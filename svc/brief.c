#include "brief.h"

static void drain(struct brief_slot *s, uint64_t now_ms)
{
	uint64_t n = (now_ms - s->drained_ms) / BRIEF_DRAIN_MS;

	s->level = n < s->level ? s->level - (uint32_t)n : 0;
	s->drained_ms += n * BRIEF_DRAIN_MS;
}

static void fill(struct brief_slot *s)
{
	if (s->level < BRIEF_FULL)
		s->level++;
}

/* The one key that this slot is about, for as long as it takes to drain to where it would be
 * taken over. */
static void publish(struct brief *b, const struct brief_slot *s)
{
	if (!b->hint)
		return;
	struct hint *h = &b->hint[s - b->slot];
	bool full = s->level >= BRIEF_SEEN;
	uint64_t ms = (uint64_t)(s->level - BRIEF_SEEN + 1) * BRIEF_DRAIN_MS;

	if (!full)
		atomic_store(&h->key, 0);
	atomic_store(&h->until_ms, full ? s->drained_ms + ms : 0);
	if (full)
		atomic_store(&h->key, s->key);
}

bool brief_leave(struct brief *b, uint64_t key, bool sampled, uint64_t now_ms)
{
	struct brief_slot *s = &b->slot[key % BRIEF_EXECUTABLES];

	if (s->key != key)
		return false;
	drain(s, now_ms);
	bool leave = s->level >= BRIEF_SEEN && !sampled && ++s->left_alone % BRIEF_SAMPLE != 0;
	if (leave)
		fill(s);
	publish(b, s);
	return leave;
}

void brief_ended(struct brief *b, uint64_t key, bool early, uint64_t now_ms)
{
	struct brief_slot *s = &b->slot[key % BRIEF_EXECUTABLES];

	if (s->key != key || !early)
		*s = (struct brief_slot){.key = key, .drained_ms = now_ms};
	drain(s, now_ms);
	if (early)
		fill(s);
	publish(b, s);
}
