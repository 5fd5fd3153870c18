/* A program that ends, or is stopped, at any moment, and tools to look at it from outside.
 *
 *   stops MB   fills MB MiB that hardly pack and says "ready ADDRESS BYTES". Each byte on its
 *              input is an order, taken at once, even while an earlier one is stuck in a fault:
 *
 *       r   a thread reads all of it: "good" or "bad"
 *       m   the same, but not the part that the others are about
 *       d   it discards a few pages, checks that they are zeros, fills them anew: the same
 *       f   a child that it forks reads all of it: the same
 *       k   it locks a part of it, lets go of that and reads all: the same
 *       x   the program ends
 *       e   executes itself anew: "again", then as at the start
 *       l   its first thread ends, the others go on: "left"
 *       n   a process that shares the memory, and isn't a thread, discards pages: "child PID";
 *           when it has ended: "lost"
 *       N   is each of these pages what it was, or zeros? They are filled anew: "good" or "bad"
 *       u   such a process unmaps the second half of a mapping, else as n
 *       U   the mapping grows again in place: its second half must be zeros, else as N
 *       o   gets ready for g: "prepared"
 *       g   a thread moves the end of the memory away, another maps something else there as
 * soon as it is gone: "taken"; when the first goes on: "good" or "bad", and all is put back M
 * the end of the memory is moved to where that half was, and back: "good" or "bad"
 *
 *   stops trace PID                stops its threads by ptrace, "stopped", until its input ends
 *   stops trace PID CALL entry     the same when its one thread next enters CALL (move: the
 *   stops trace PID CALL exit      ioctl UFFDIO_MOVE; zap: MADV_DONTNEED), or leaves it
 *   stops read PID ADDRESS BYTES   by process_vm_readv: "good" or "bad"
 *   stops peek PID ADDRESS BYTES   by /proc/PID/mem and by ptrace: "good PAGES refused PAGES"
 *   stops core FILE ADDRESS BYTES  in a core file: "good" or "bad"
 *
 * Everything is checked to the byte. Exit code 0: it could do what it was told. */
#include "kernel.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <dirent.h>
#include <unistd.h>

enum {
	PAGE = 4096,
	WORDS = PAGE / 8,
	SCRATCH_PAGES = 128, /* 512 KiB: more than what isn't worth managing */
	DISCARD_PAGES = 16,
	THREADS_MAX = 64,
};

static void say(const char *what)
{
	size_t length = strlen(what);

	if (write(STDOUT_FILENO, what, length) != (ssize_t)length)
		_exit(3);
}

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	_exit(2);
}

/* ---- content ---- */

/* Of splitmix64 (public domain, S. Vigna): noise that depends on the place only. */
static uint64_t noise(uint64_t at)
{
	uint64_t z = at * 0x9e3779b97f4a7c15;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

/* Three pages that don't pack, one that does. The address is in it: a page in the wrong place
 * is a wrong page. */
static uint64_t word_at(uint64_t addr)
{
	return addr / PAGE % 4 == 3 ? noise(addr / 64) : noise(addr);
}

static void fill(uint64_t *word, size_t words)
{
	for (size_t i = 0; i < words; i++)
		word[i] = word_at((uintptr_t)&word[i]);
}

/* Of the first wrong word: where, what is there, at first and when looked at again, and what
 * should be. */
static bool wrong(const uint64_t *word, uint64_t addr, uint64_t got, uint64_t want)
{
	fprintf(stderr, "wrong: 0x%lx has %016lx, now %016lx, want %016lx\n",
		(unsigned long)addr, (unsigned long)got,
		(unsigned long)*(const volatile uint64_t *)word, (unsigned long)want);
	return false;
}

/* Of what was at addr, wherever it is now. */
static bool good(const uint64_t *word, uint64_t addr, size_t words)
{
	for (size_t i = 0; i < words; i++) {
		uint64_t got = word[i], want = word_at(addr + i * 8);
		if (got != want)
			return wrong(&word[i], addr + i * 8, got, want);
	}
	return true;
}

static bool zeros(const uint64_t *word, size_t words)
{
	for (size_t i = 0; i < words; i++) {
		uint64_t got = word[i];
		if (got != 0)
			return wrong(&word[i], (uintptr_t)&word[i], got, 0);
	}
	return true;
}

/* ---- the program ---- */

static struct {
	char **argv;
	uint64_t *memory;
	size_t bytes;
	uint64_t *scratch;
	int orders[2]; /* to the thread that may get stuck */
	int leave[2];  /* to the first thread */
	pid_t child;
} it;

/* Wherever the kernel chooses, an address reads as "bad" once in some hundred runs: so always,
 * and whoever looks for our answers finds out that it has to look for whole lines. */
#define MEMORY_AT ((void *)0x2bad00000000)

/* Between pages that nobody may use: it merges with nothing, as with the stack of a thread. In
 * orders of a few pages each, of which there are several a block. */
static uint64_t *map_apart(void *at, size_t bytes)
{
	uint8_t *p = mmap(at, bytes + 2 * PAGE, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED || mprotect(p + PAGE, bytes, PROT_READ | PROT_WRITE) < 0)
		die("a mapping apart");
	madvise(p + PAGE, bytes, MADV_NOHUGEPAGE);
	return (uint64_t *)(void *)(p + PAGE);
}

static bool discard(void)
{
	uint64_t *some = it.scratch + 4 * WORDS;

	if (madvise(some, DISCARD_PAGES * PAGE, MADV_DONTNEED) < 0)
		die("madvise");
	if (!zeros(some, DISCARD_PAGES * WORDS))
		return false;
	fill(some, DISCARD_PAGES * WORDS);
	return good(it.scratch, (uintptr_t)it.scratch, SCRATCH_PAGES * WORDS);
}

static bool read_all(void)
{
	return good(it.memory, (uintptr_t)it.memory, it.bytes / 8) &&
	       good(it.scratch, (uintptr_t)it.scratch, SCRATCH_PAGES * WORDS);
}

static bool read_in_child(void)
{
	int status;
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	if (pid == 0)
		_exit(read_all() ? 0 : 1);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			die("waitpid");
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* Both go by libc, which the shim watches. */
static bool lock_and_read(void)
{
	if (mlock(it.scratch, PAGE) < 0 || munlock(it.scratch, PAGE) < 0)
		die("mlock");
	return read_all();
}

/* ---- a process that shares the memory ---- */

static int discard_shared(void *arg)
{
	(void)arg;
	syscall(SYS_madvise, it.scratch, DISCARD_PAGES * PAGE, MADV_DONTNEED);
	syscall(SYS_exit_group, 0);
	return 0;
}

static int unmap_shared(void *arg)
{
	(void)arg;
	syscall(SYS_munmap, it.scratch + SCRATCH_PAGES / 2 * WORDS, SCRATCH_PAGES / 2 * PAGE);
	syscall(SYS_exit_group, 0);
	return 0;
}

static void share(int (*fn)(void *))
{
	static uint8_t stack[16384] __attribute__((aligned(16)));
	char text[32];

	it.child = clone(fn, stack + sizeof(stack), CLONE_VM | SIGCHLD, NULL);
	if (it.child < 0)
		die("clone");
	snprintf(text, sizeof(text), "child %d\n", (int)it.child);
	say(text);
	while (waitpid(it.child, NULL, 0) < 0)
		if (errno != EINTR)
			die("waitpid");
	say("lost\n");
}

/* Killed in the middle of a discard: each page was discarded, or it wasn't. */
static bool after_discard(void)
{
	uint64_t *some = it.scratch;

	for (size_t i = 0; i < DISCARD_PAGES; i++, some += WORDS)
		if (!(some[0] == 0 ? zeros(some, WORDS) : good(some, (uintptr_t)some, WORDS)))
			return false;
	fill(it.scratch, DISCARD_PAGES * WORDS);
	return read_all();
}

/* Of no use to whoever thinks that something is there still. */
static bool move_there(void)
{
	size_t half = SCRATCH_PAGES / 2 * PAGE;
	uint64_t *there = it.scratch + SCRATCH_PAGES / 2 * WORDS;
	uint64_t *end = it.memory + (it.bytes - half) / 8;
	int how = MREMAP_MAYMOVE | MREMAP_FIXED;

	return mremap(end, half, half, how, there) == there &&
	       good(there, (uintptr_t)end, half / 8) &&
	       mremap(there, half, half, how, end) == end &&
	       good(it.memory, (uintptr_t)it.memory, it.bytes / 8);
}

static struct {
	uint64_t *from, *to;
	size_t bytes;
	pthread_t mover;
	int go[2];
} away;

static void *move_away(void *arg)
{
	char go;

	(void)arg;
	if (read(away.go[0], &go, 1) != 1 ||
		mremap(away.from, away.bytes, away.bytes, MREMAP_MAYMOVE | MREMAP_FIXED,
			away.to) != away.to)
		die("mremap");
	return NULL;
}

static void get_ready(void)
{
	away.bytes = SCRATCH_PAGES / 2 * PAGE;
	away.from = it.memory + (it.bytes - away.bytes) / 8;
	away.to = map_apart(NULL, away.bytes);
	if (pipe2(away.go, O_CLOEXEC) < 0 ||
		pthread_create(&away.mover, NULL, move_away, NULL) != 0)
		die("thread");
	say("prepared\n");
}

/* The move is done before its thread goes on, which waits for somebody to read of it. */
static bool take_place(void)
{
	uint64_t *here;

	if (write(away.go[1], "g", 1) != 1)
		die("write");
	do {
		here = mmap(away.from, away.bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	} while (here == MAP_FAILED && errno == EEXIST);
	if (here != away.from)
		die("the place that is free");
	memset(here, 0x5a, away.bytes);
	say("taken\n");
	pthread_join(away.mover, NULL);
	close(away.go[0]);
	close(away.go[1]);
	bool right = good(away.to, (uintptr_t)away.from, away.bytes / 8);
	for (size_t i = 0; i < away.bytes / 8; i++)
		right &= here[i] == 0x5a5a5a5a5a5a5a5a;
	if (munmap(here, away.bytes) < 0 ||
		mremap(away.to, away.bytes, away.bytes, MREMAP_MAYMOVE | MREMAP_FIXED, here) !=
			here)
		die("moving back");
	return right && good(it.memory, (uintptr_t)it.memory, it.bytes / 8);
}

static bool after_unmap(void)
{
	size_t half = SCRATCH_PAGES / 2 * PAGE;
	uint64_t *second = it.scratch + SCRATCH_PAGES / 2 * WORDS;

	/* Whether it was unmapped or not yet: it is now. */
	if (munmap(second, half) < 0 || mremap(it.scratch, half, 2 * half, 0) != it.scratch ||
		!zeros(second, half / 8))
		return false;
	fill(second, half / 8);
	return read_all();
}

/* ---- its threads ---- */

static void *work(void *arg)
{
	char order;

	(void)arg;
	while (read(it.orders[0], &order, 1) == 1)
		switch (order) {
		case 'r':
			say(read_all() ? "good\n" : "bad\n");
			break;
		case 'm':
			say(good(it.memory, (uintptr_t)it.memory, it.bytes / 8) ? "good\n"
										: "bad\n");
			break;
		case 'd':
			say(discard() ? "good\n" : "bad\n");
			break;
		case 'f':
			say(read_in_child() ? "good\n" : "bad\n");
			break;
		case 'k':
			say(lock_and_read() ? "good\n" : "bad\n");
			break;
		case 'n':
			share(discard_shared);
			break;
		case 'N':
			say(after_discard() ? "good\n" : "bad\n");
			break;
		case 'u':
			share(unmap_shared);
			break;
		case 'U':
			say(after_unmap() ? "good\n" : "bad\n");
			break;
		case 'o':
			get_ready();
			break;
		case 'g':
			say(take_place() ? "good\n" : "bad\n");
			break;
		case 'M':
			say(move_there() ? "good\n" : "bad\n");
			break;
		default:
			die("what order is that");
		}
	return NULL;
}

static void *control(void *arg)
{
	char order;

	(void)arg;
	while (read(STDIN_FILENO, &order, 1) == 1) {
		if (order == 'x')
			_exit(0);
		if (order == 'e') {
			say("again\n");
			execv(it.argv[0], it.argv); /* /proc/self is of the first thread */
			die("exec");
		}
		if (write(order == 'l' ? it.leave[1] : it.orders[1], &order, 1) != 1)
			die("write");
	}
	_exit(0);
}

static int hold_memory(char **argv)
{
	pthread_t thread[2];
	char text[64], order;

	it.argv = argv;
	it.bytes = strtoul(argv[1], NULL, 10) << 20;
	it.memory = map_apart(MEMORY_AT, it.bytes);
	it.scratch = map_apart(NULL, SCRATCH_PAGES * PAGE);
	fill(it.memory, it.bytes / 8);
	fill(it.scratch, SCRATCH_PAGES * WORDS);
	if (pipe2(it.orders, O_CLOEXEC) < 0 || pipe2(it.leave, O_CLOEXEC) < 0)
		die("pipe");
	if (pthread_create(&thread[0], NULL, work, NULL) != 0 ||
		pthread_create(&thread[1], NULL, control, NULL) != 0)
		die("thread");
	snprintf(text, sizeof(text), "ready 0x%lx %zu\n", (unsigned long)it.memory, it.bytes);
	say(text);
	if (read(it.leave[0], &order, 1) != 1)
		return 1;
	say("left\n");
	pthread_exit(NULL);
}

/* ---- ptrace ---- */

static unsigned list_threads(pid_t pid, pid_t *ret)
{
	char path[32];
	unsigned count = 0;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	DIR *dir = opendir(path);
	if (!dir)
		die(path);
	for (struct dirent *d; (d = readdir(dir)) && count < THREADS_MAX;)
		if (d->d_name[0] != '.')
			ret[count++] = (pid_t)atoi(d->d_name);
	closedir(dir);
	return count;
}

static void seize(pid_t tid)
{
	int status;

	if (ptrace(PTRACE_SEIZE, tid, NULL, NULL) < 0 ||
		ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) < 0)
		die("ptrace");
	if (waitpid(tid, &status, __WALL) != tid || !WIFSTOPPED(status))
		die("it doesn't stop");
}

/* Until we are told; one that was killed meanwhile needs no letting go. */
static int stay(const pid_t *thread, unsigned count)
{
	char byte;

	say("stopped\n");
	if (read(STDIN_FILENO, &byte, 1) < 0)
		return 1;
	for (unsigned i = 0; i < count; i++)
		if (ptrace(PTRACE_DETACH, thread[i], NULL, NULL) < 0 && errno != ESRCH)
			die("detach");
	return 0;
}

static int trace(pid_t pid)
{
	pid_t thread[THREADS_MAX];
	unsigned count = list_threads(pid, thread);

	for (unsigned i = 0; i < count; i++)
		seize(thread[i]);
	return stay(thread, count);
}

static void next_call_stop(pid_t pid, struct __ptrace_syscall_info *info)
{
	int status;

	do {
		if (ptrace(PTRACE_SYSCALL, pid, NULL, NULL) < 0 ||
			waitpid(pid, &status, __WALL) != pid || !WIFSTOPPED(status))
			die("it doesn't go on");
	} while (WSTOPSIG(status) != (SIGTRAP | 0x80));
	if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, (void *)sizeof(*info), info) < 0)
		die("PTRACE_GET_SYSCALL_INFO");
}

static int trace_call(pid_t pid, bool move, bool leaves)
{
	struct __ptrace_syscall_info info;
	uint64_t number = move ? SYS_ioctl : SYS_madvise;
	unsigned arg = move ? 1 : 2;
	uint64_t value = move ? UFFDIO_MOVE : MADV_DONTNEED;

	seize(pid);
	if (ptrace(PTRACE_SETOPTIONS, pid, NULL, (void *)PTRACE_O_TRACESYSGOOD) < 0)
		die("PTRACE_SETOPTIONS");
	say("traced\n");
	do
		next_call_stop(pid, &info);
	while (info.op != PTRACE_SYSCALL_INFO_ENTRY || info.entry.nr != number ||
		info.entry.args[arg] != value);
	if (leaves)
		next_call_stop(pid, &info);
	return stay(&pid, 1);
}

/* ---- other eyes ---- */

static int read_other(pid_t pid, uint64_t addr, size_t bytes)
{
	uint64_t *copy = malloc(bytes);
	struct iovec here = {copy, bytes}, there = {(void *)(uintptr_t)addr, bytes};

	if (!copy)
		die("malloc");
	if (process_vm_readv(pid, &here, 1, &there, 1, 0) != (ssize_t)bytes)
		die("process_vm_readv");
	say(good(copy, addr, bytes / 8) ? "good\n" : "bad\n");
	return 0;
}

/* 1: right. 0: refused with EIO. Anything else ends us. */
static int peek_mem(int mem, uint64_t addr)
{
	uint64_t page[WORDS];
	ssize_t n = pread(mem, page, PAGE, (off_t)addr);

	if (n < 0 && errno == EIO)
		return 0;
	if (n != PAGE)
		die("/proc/PID/mem");
	if (!good(page, addr, WORDS)) {
		say("bad\n");
		_exit(1);
	}
	return 1;
}

static int peek_trace(pid_t pid, uint64_t addr)
{
	errno = 0;
	uint64_t word = (uint64_t)ptrace(PTRACE_PEEKDATA, pid, (void *)(uintptr_t)addr, NULL);

	if (errno == EIO)
		return 0;
	if (errno != 0)
		die("PTRACE_PEEKDATA");
	if (word != word_at(addr)) {
		say("bad\n");
		_exit(1);
	}
	return 1;
}

static int peek(pid_t pid, uint64_t addr, size_t bytes)
{
	unsigned seen = 0, refused = 0;
	char text[64];

	snprintf(text, sizeof(text), "/proc/%d/mem", (int)pid);
	int mem = open(text, O_RDONLY | O_CLOEXEC);
	if (mem < 0)
		die(text);
	seize(pid);
	for (uint64_t a = addr; a < addr + bytes; a += PAGE) {
		int by_mem = peek_mem(mem, a), by_trace = peek_trace(pid, a + 8);
		if (by_mem != by_trace)
			die("two ways to look see two things");
		seen += (unsigned)by_mem;
		refused += !by_mem;
	}
	ptrace(PTRACE_DETACH, pid, NULL, NULL);
	snprintf(text, sizeof(text), "good %u refused %u\n", seen, refused);
	say(text);
	return 0;
}

/* The part of a core file that has the memory from addr on. */
static int look_into_core(const char *file, uint64_t addr, size_t bytes)
{
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	off_t length = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
	const uint8_t *core =
		length < 0 ? MAP_FAILED
			   : mmap(NULL, (size_t)length, PROT_READ, MAP_PRIVATE, fd, 0);

	if (core == MAP_FAILED)
		die(file);
	const Elf64_Ehdr *head = (const void *)core;
	const Elf64_Phdr *part = (const void *)(core + head->e_phoff);
	for (unsigned i = 0; i < head->e_phnum; i++) {
		if (part[i].p_type != PT_LOAD || addr < part[i].p_vaddr ||
			addr + bytes > part[i].p_vaddr + part[i].p_filesz)
			continue;
		const uint8_t *at = core + part[i].p_offset + (addr - part[i].p_vaddr);
		say(good((const void *)at, addr, bytes / 8) ? "good\n" : "bad\n");
		return 0;
	}
	say("not in it\n");
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 2)
		return hold_memory(argv);
	if (argc == 3 && strcmp(argv[1], "trace") == 0)
		return trace((pid_t)atoi(argv[2]));
	if (argc != 5)
		return 2;
	if (strcmp(argv[1], "trace") == 0)
		return trace_call((pid_t)atoi(argv[2]), strcmp(argv[3], "move") == 0,
			strcmp(argv[4], "exit") == 0);
	uint64_t addr = strtoull(argv[3], NULL, 16);
	size_t bytes = strtoul(argv[4], NULL, 10);
	if (strcmp(argv[1], "read") == 0)
		return read_other((pid_t)atoi(argv[2]), addr, bytes);
	if (strcmp(argv[1], "peek") == 0)
		return peek((pid_t)atoi(argv[2]), addr, bytes);
	return strcmp(argv[1], "core") == 0 ? look_into_core(argv[2], addr, bytes) : 2;
}
