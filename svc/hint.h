/* DIR/brief: which executables the service would leave alone just now (brief.h), so that a
 * program need not ask. Compilers and their like start by the thousand, and each exchange takes
 * a processor from another one twice. Written by the service, mapped; read by each shim with
 * one pread. Whoever finds itself there goes on all the same once in HINT_SAMPLE times, and
 * says so (HELLO_SAMPLED): by these the service learns whether it still holds.
 *
 * What it says is no secret and no permission: a wrong entry costs an exchange, or leaves a
 * program alone that could have been taken over. */
#ifndef LARDER_HINT_H
#define LARDER_HINT_H

#include <stdatomic.h>
#include <stdint.h>

#define HINT_FILE "brief"
enum { HINT_SLOTS = 1024, HINT_SAMPLE = 16 };

struct hint {
	_Atomic uint64_t key;	   /* 0: none */
	_Atomic uint64_t until_ms; /* CLOCK_MONOTONIC; not after */
};

/* FNV-1a (Fowler, Noll, Vo). Whoever makes two executables' hashes equal gets one of their own
 * left alone. */
static inline uint64_t hint_mix(uint64_t hash, const char *text)
{
	do
		hash = (hash ^ (unsigned char)*text) * 0x100000001b3ULL;
	while (*text++);
	return hash;
}

/* exe: as /proc/PID/exe says. policy: that it asks for by name, or "". Never 0. */
static inline uint64_t hint_key(const char *exe, const char *policy, uint32_t uid)
{
	uint64_t hash = hint_mix(hint_mix(0xcbf29ce484222325ULL ^ uid, exe), policy);
	return hash ? hash : 1;
}

#endif
