/* A program whose service ends while it works.
 *
 *   ending MB    fills MB MiB, says "ready", then forks children one after the other, each of
 * which reads all of it, until a line comes on stdin; then calls what the shim watches (mlock,
 * mremap) and reads all of it itself.
 *
 * Exit code 0: every byte was right, in every child, and every call returned. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/poll.h>
#include <sys/wait.h>
#include <unistd.h>

static const size_t page = 4096;

static uint64_t word_of(size_t i)
{
	return (i + 1) * 0x9e3779b97f4a7c15ULL;
}

static void fill(uint8_t *p, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		for (size_t at = 0; at < page; at += sizeof(uint64_t)) {
			uint64_t w = at % 64 ? i : word_of(i + at);
			memcpy(p + i * page + at, &w, sizeof(w));
		}
}

static size_t wrong_pages(const uint8_t *p, size_t pages)
{
	size_t wrong = 0;

	for (size_t i = 0; i < pages; i++) {
		uint64_t first, last, mid;
		memcpy(&first, p + i * page, sizeof(first));
		memcpy(&mid, p + i * page + 2048, sizeof(mid));
		memcpy(&last, p + (i + 1) * page - sizeof(last), sizeof(last));
		wrong += first != word_of(i) || mid != word_of(i + 2048) || last != i;
	}
	return wrong;
}

static int line_waits(void)
{
	struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
	return poll(&in, 1, 0) > 0;
}

static int fork_until_told(const uint8_t *p, size_t pages)
{
	for (unsigned children = 0; !line_waits(); children++) {
		int status;
		pid_t child = fork();
		if (child == 0)
			_exit(wrong_pages(p, pages) ? 1 : 0);
		if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
			fprintf(stderr, "child %u read something else\n", children);
			return 1;
		}
	}
	return 0;
}

/* A move onto itself is refused as a whole, and nothing of it may have happened. */
static int overlapping_move(void)
{
	uint8_t *p = mmap(
		NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	memset(p, 7, 4 * page);
	mprotect(p + page, page, PROT_READ);
	void *r = mremap(p, 2 * page, 2 * page, MREMAP_MAYMOVE | MREMAP_FIXED, p + page);
	int bad = r != MAP_FAILED || p[0] != 7 || p[page] != 7 || p[3 * page] != 7;
	if (bad)
		fputs("an overlapping mremap did something\n", stderr);
	return bad;
}

int main(int argc, char **argv)
{
	size_t pages = (argc > 1 ? strtoul(argv[1], NULL, 10) : 64) * (1 << 20) / page;
	uint8_t *p = mmap(
		NULL, pages * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	fill(p, pages);
	puts("ready");
	fflush(stdout);
	char byte;
	if (read(STDIN_FILENO, &byte, 1) != 1 || overlapping_move() ||
		fork_until_told(p, pages))
		return 1;
	/* The service is gone: the shim must not wait for it. */
	if (mlock(p, page) < 0 || munlock(p, page) < 0)
		return 1;
	if (wrong_pages(p, pages)) {
		fputs("the program itself read something else\n", stderr);
		return 1;
	}
	return 0;
}
