#include "brief.h"

/* FNV-1a. Whoever makes two executables' hashes equal gets one of their own left alone. */
static uint64_t mix(uint64_t hash, const char *text)
{
	do
		hash = (hash ^ (unsigned char)*text) * 0x100000001b3ULL;
	while (*text++);
	return hash;
}

uint64_t brief_key(const char *exe, const char *policy, uid_t uid)
{
	uint64_t hash = mix(mix(0xcbf29ce484222325ULL ^ uid, exe), policy);
	return hash ? hash : 1;
}

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

bool brief_leave(struct brief *b, uint64_t key, uint64_t now_ms)
{
	struct brief_slot *s = &b->slot[key % BRIEF_EXECUTABLES];

	if (s->key != key)
		return false;
	drain(s, now_ms);
	if (s->level < BRIEF_SEEN || ++s->left_alone % BRIEF_SAMPLE == 0)
		return false;
	fill(s);
	return true;
}

void brief_ended(struct brief *b, uint64_t key, bool early, uint64_t now_ms)
{
	struct brief_slot *s = &b->slot[key % BRIEF_EXECUTABLES];

	if (s->key != key || !early)
		*s = (struct brief_slot){.key = key, .drained_ms = now_ms};
	drain(s, now_ms);
	if (early)
		fill(s);
}
