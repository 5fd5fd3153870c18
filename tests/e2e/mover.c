/* Forks in one thread while others move memory, and the children check it:
 *
 *   mover SECONDS BLOCKS MB
 *
 * Each block lies at one of two places, and a thread moves blocks from one to the other and
 * back without touching them. A child finds exactly one of the two mapped, and there what was
 * written before. Prints "ready" when all is written, goes on when a file "go" is there, and
 * prints at the end how often it forked and moved; exit code 1 when a child found anything
 * else. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BLOCKS_MAX = 64, MOVERS = 2 };

struct block {
	uint8_t *place[2];
};

static struct block block[BLOCKS_MAX];
static unsigned blocks;
static size_t bytes;
static atomic_bool stop;
static atomic_ulong moves;

/* Of splitmix64 (public domain, S. Vigna): packs to a quarter or so, and tells place from
 * place. */
static uint64_t pattern(unsigned b, size_t word)
{
	uint64_t z = ((uint64_t)b << 32 | word) * 0x9e3779b97f4a7c15;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	return (z ^ z >> 27) & 0xffff;
}

static bool mapped(const uint8_t *p)
{
	unsigned char there;
	return mincore((void *)(uintptr_t)p, 4096, &there) == 0;
}

/* Exit code of a child: 0, or what it found. */
static int check(void)
{
	for (unsigned b = 0; b < blocks; b++) {
		bool first = mapped(block[b].place[0]), second = mapped(block[b].place[1]);
		if (first == second)
			return 10 + first;
		const uint64_t *word = (const uint64_t *)(const void *)block[b].place[second];
		for (size_t i = 0; i < bytes / 8; i++)
			if (word[i] != pattern(b, i))
				return word[i] == 0 ? 20 : 21;
	}
	return 0;
}

static void *move(void *arg)
{
	unsigned first = (unsigned)(uintptr_t)arg, at[BLOCKS_MAX] = {0};

	while (!atomic_load(&stop))
		for (unsigned b = first; b < blocks; b += MOVERS) {
			uint8_t *from = block[b].place[at[b]], *to = block[b].place[!at[b]];
			if (mremap(from, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to) !=
				to) {
				fprintf(stderr, "mover: mremap: %s\n", strerror(errno));
				_exit(1);
			}
			at[b] = !at[b];
			atomic_fetch_add(&moves, 1);
		}
	return NULL;
}

static void prepare(void)
{
	for (unsigned b = 0; b < blocks; b++) {
		for (int i = 0; i < 2; i++) {
			/* Apart, so that no two of them are one mapping. */
			block[b].place[i] = mmap(NULL, bytes + 8192, PROT_NONE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			block[b].place[i] += 4096;
		}
		mprotect(block[b].place[0], bytes, PROT_READ | PROT_WRITE);
		munmap(block[b].place[1], bytes);
		uint64_t *word = (uint64_t *)(void *)block[b].place[0];
		for (size_t i = 0; i < bytes / 8; i++)
			word[i] = pattern(b, i);
	}
}

static int one_fork(bool raw)
{
	pid_t pid = raw ? (pid_t)syscall(SYS_fork) : fork();
	int status;

	if (pid == 0)
		_exit(check());
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return -1;
	return WEXITSTATUS(status);
}

int main(int argc, char **argv)
{
	pthread_t thread[MOVERS];
	unsigned long forks = 0;
	int r = 0;

	if (argc != 4)
		return 2;
	blocks = (unsigned)atoi(argv[2]);
	bytes = strtoul(argv[3], NULL, 10) << 20;
	if (blocks > BLOCKS_MAX)
		return 2;
	prepare();
	setvbuf(stdout, NULL, _IONBF, 0);
	puts("ready");
	while (access("go", F_OK) < 0)
		usleep(10000);
	time_t end = time(NULL) + atoi(argv[1]);
	for (uintptr_t i = 0; i < MOVERS; i++)
		if (pthread_create(&thread[i], NULL, move, (void *)i) != 0)
			return 2;
	for (; r == 0 && time(NULL) < end; forks++)
		r = one_fork(forks % 2);
	atomic_store(&stop, true);
	for (unsigned i = 0; i < MOVERS; i++)
		pthread_join(thread[i], NULL);
	if (r == 0)
		r = check();
	printf("%lu forks, %lu moves: %d\n", forks, atomic_load(&moves), r);
	return r != 0;
}
