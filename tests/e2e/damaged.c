/* Holds 8 MiB for damage.sh, and touches nothing else that could be evicted. Says "ready"; at
 * each SIGUSR1 reads them, and says how many words weren't as they were written; at each
 * SIGUSR2 has a child do that, which is forked without libc and says its number before. */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { BYTES = 8 << 20 };

static uint64_t pattern(size_t i)
{
	uint64_t z = (i + 1) * 0x9e3779b97f4a7c15;
	return (z ^ z >> 30) | 1;
}

static unsigned wrong(const uint64_t *memory)
{
	unsigned n = 0;

	for (size_t i = 0; i < BYTES / sizeof(*memory); i++)
		n += memory[i] != pattern(i);
	return n;
}

int main(void)
{
	sigset_t set;
	int which;
	uint64_t *memory =
		mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return 1;
	for (size_t i = 0; i < BYTES / sizeof(*memory); i++)
		memory[i] = pattern(i);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	dprintf(1, "ready\n");
	while (sigwait(&set, &which) == 0) {
		if (which == SIGUSR1) {
			dprintf(1, "read: %u words wrong\n", wrong(memory));
		} else if (syscall(SYS_fork) == 0) {
			dprintf(1, "child %d\n", (int)syscall(SYS_getpid));
			dprintf(1, "child read: %u words wrong\n", wrong(memory));
			_exit(0);
		}
	}
	return 1;
}
