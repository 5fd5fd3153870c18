/* Holds memory that doesn't pack, and reads it all when told to:
 *
 *   holder MB    prints "ready"; for each byte on its input reads everything and prints "good"
 * or "bad"; ends at the end of its input.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* Of splitmix64 (public domain, S. Vigna): noise that depends on the place only. */
static uint64_t noise(uint64_t at)
{
	uint64_t z = at * 0x9e3779b97f4a7c15;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

static bool good(const uint64_t *word, size_t words)
{
	for (size_t i = 0; i < words; i++)
		if (word[i] != noise(i))
			return false;
	return true;
}

int main(int argc, char **argv)
{
	size_t bytes = (argc > 1 ? strtoul(argv[1], NULL, 10) : 16) << 20;
	uint64_t *word =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char order;

	if (word == MAP_FAILED)
		return 1;
	for (size_t i = 0; i < bytes / sizeof(*word); i++)
		word[i] = noise(i);
	setvbuf(stdout, NULL, _IONBF, 0);
	puts("ready");
	while (read(STDIN_FILENO, &order, 1) == 1)
		puts(good(word, bytes / sizeof(*word)) ? "good" : "bad");
	return 0;
}
