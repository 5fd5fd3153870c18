/* Randomness: splitmix64. */
#include "guest.h"

uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

uint64_t random_next(struct worker *w)
{
	return mix(w->random++);
}

size_t random_below(struct worker *w, size_t limit)
{
	return (size_t)(random_next(w) % limit);
}

bool random_one_in(struct worker *w, size_t n)
{
	return random_below(w, n) == 0;
}
