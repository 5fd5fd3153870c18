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

bool brief_leave(struct brief *b, uint64_t key)
{
	size_t i = key % BRIEF_EXECUTABLES;

	if (b->slot[i].key != key || b->slot[i].ended_early < BRIEF_SEEN)
		return false;
	return ++b->slot[i].left_alone % BRIEF_SAMPLE != 0;
}

void brief_ended(struct brief *b, uint64_t key, bool early)
{
	size_t i = key % BRIEF_EXECUTABLES;

	if (b->slot[i].key != key || !early) {
		b->slot[i].key = key;
		b->slot[i].ended_early = 0;
		b->slot[i].left_alone = 0;
	}
	if (early && b->slot[i].ended_early < BRIEF_SEEN)
		b->slot[i].ended_early++;
}
