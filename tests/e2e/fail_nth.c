/* Preloaded into larderd: the n-th call of one kind fails, as it does where there is no memory,
 * no room or no descriptor. Which, is in the file SWITCH; how many there were is counted there.
 *
 *   KIND, NTH, COUNT (four bytes each) */
#include "../../svc/kernel.h" /* by its path: svc/ has another link.h */

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind {
	NOTHING,
	MEMORY,	       /* malloc and the like */
	SQLITE_MEMORY, /* of SQLite's */
	SQLITE_FILE,   /* what SQLite does with files: open, read, write, truncate, map */
	OPEN,
	WRITE,	/* and pwrite */
	RESIZE, /* ftruncate, fallocate, memfd_create */
	MAP,
	THREAD,
	COPY,
	ZEROPAGE,
	REGISTER,
	UNREGISTER,
	WRITEPROTECT,
};

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *p, size_t size);
void *__libc_memalign(size_t align, size_t size);

static struct switched {
	_Atomic uint32_t kind, nth, count;
} * at;
static uintptr_t sqlite_start, sqlite_end;

static int find_sqlite(struct dl_phdr_info *info, size_t size, void *arg)
{
	(void)size;
	(void)arg;
	if (!strstr(info->dlpi_name, "libsqlite3"))
		return 0;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		uintptr_t start = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
		uintptr_t end = start + info->dlpi_phdr[i].p_memsz;
		if (info->dlpi_phdr[i].p_type != PT_LOAD)
			continue;
		if (sqlite_start == 0 || start < sqlite_start)
			sqlite_start = start;
		if (end > sqlite_end)
			sqlite_end = end;
	}
	return 1;
}

#define NEXT(name) __typeof__(name) *next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("SWITCH");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *map = fd < 0 ? MAP_FAILED
			   : mmap(NULL, sizeof(*at), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	dl_iterate_phdr(find_sqlite, NULL);
	if (map == MAP_FAILED || sqlite_start == 0)
		_exit(99);
	close(fd);
	at = map;
}

static bool hit(enum kind kind)
{
	if (!at || atomic_load(&at->kind) != (uint32_t)kind)
		return false;
	return atomic_fetch_add(&at->count, 1) + 1 == atomic_load(&at->nth);
}

/* Of SQLite's calls the second kind, of all others' the first. */
static bool fails(enum kind others, enum kind sqlites, const void *caller, int error)
{
	uintptr_t from = (uintptr_t)caller;

	if (!hit(from >= sqlite_start && from < sqlite_end ? sqlites : others))
		return false;
	errno = error;
	return true;
}
#define FAILS(others, sqlites, error) fails(others, sqlites, __builtin_return_address(0), error)

/* ---- memory ---- */

void *malloc(size_t size)
{
	return FAILS(MEMORY, SQLITE_MEMORY, ENOMEM) ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
	return FAILS(MEMORY, SQLITE_MEMORY, ENOMEM) ? NULL : __libc_calloc(count, size);
}

void *realloc(void *p, size_t size)
{
	return FAILS(MEMORY, SQLITE_MEMORY, ENOMEM) ? NULL : __libc_realloc(p, size);
}

void *aligned_alloc(size_t align, size_t size)
{
	return FAILS(MEMORY, SQLITE_MEMORY, ENOMEM) ? NULL : __libc_memalign(align, size);
}

void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	NEXT(mmap);
	return FAILS(MAP, SQLITE_FILE, ENOMEM) ? MAP_FAILED
					       : next(addr, length, prot, flags, fd, offset);
}

void *mmap64(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	NEXT(mmap);
	return FAILS(MAP, SQLITE_FILE, ENOMEM) ? MAP_FAILED
					       : next(addr, length, prot, flags, fd, offset);
}

int pthread_create(
	pthread_t *ret, const pthread_attr_t *attr, void *(*start)(void *), void *arg)
{
	NEXT(pthread_create);
	return FAILS(THREAD, THREAD, EAGAIN) ? EAGAIN : next(ret, attr, start, arg);
}

/* ---- files ---- */

#define OPEN_MODE(mode, flags)                                                                 \
	do {                                                                                   \
		va_list more;                                                                  \
		va_start(more, flags);                                                         \
		(mode) = (flags) & (O_CREAT | __O_TMPFILE) ? va_arg(more, mode_t) : 0;         \
		va_end(more);                                                                  \
	} while (0)

int open(const char *path, int flags, ...)
{
	NEXT(open);
	mode_t mode;

	OPEN_MODE(mode, flags);
	return FAILS(OPEN, SQLITE_FILE, EMFILE) ? -1 : next(path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
	NEXT(open64);
	mode_t mode;

	OPEN_MODE(mode, flags);
	return FAILS(OPEN, SQLITE_FILE, EMFILE) ? -1 : next(path, flags, mode);
}

int openat(int dir, const char *path, int flags, ...)
{
	NEXT(openat);
	mode_t mode;

	OPEN_MODE(mode, flags);
	return FAILS(OPEN, SQLITE_FILE, EMFILE) ? -1 : next(dir, path, flags, mode);
}

ssize_t write(int fd, const void *from, size_t size)
{
	NEXT(write);
	return FAILS(WRITE, SQLITE_FILE, ENOSPC) ? -1 : next(fd, from, size);
}

ssize_t pwrite(int fd, const void *from, size_t size, off_t offset)
{
	NEXT(pwrite);
	return FAILS(WRITE, SQLITE_FILE, ENOSPC) ? -1 : next(fd, from, size, offset);
}

ssize_t pwrite64(int fd, const void *from, size_t size, off_t offset)
{
	NEXT(pwrite64);
	return FAILS(WRITE, SQLITE_FILE, ENOSPC) ? -1 : next(fd, from, size, offset);
}

ssize_t pread64(int fd, void *to, size_t size, off_t offset)
{
	NEXT(pread64);
	return FAILS(NOTHING, SQLITE_FILE, EIO) ? -1 : next(fd, to, size, offset);
}

int ftruncate(int fd, off_t size)
{
	NEXT(ftruncate);
	return FAILS(RESIZE, SQLITE_FILE, ENOSPC) ? -1 : next(fd, size);
}

int ftruncate64(int fd, off_t size)
{
	NEXT(ftruncate64);
	return FAILS(RESIZE, SQLITE_FILE, ENOSPC) ? -1 : next(fd, size);
}

int fallocate(int fd, int mode, off_t offset, off_t size)
{
	NEXT(fallocate);
	return FAILS(RESIZE, SQLITE_FILE, ENOSPC) ? -1 : next(fd, mode, offset, size);
}

int memfd_create(const char *name, unsigned flags)
{
	NEXT(memfd_create);
	return FAILS(RESIZE, RESIZE, EMFILE) ? -1 : next(name, flags);
}

/* ---- userfaultfd ---- */

/* The question whether the memory is there still: ENOMEM is its answer. */
static bool asks_whether_alive(const void *arg)
{
	const struct uffdio_range *range = arg;
	return range->start >= (1ULL << 47) - 2 * 4096;
}

static enum kind kind_of(unsigned long request, void *arg)
{
	switch (request) {
	case UFFDIO_COPY:
		/* Of length 0, or from nowhere: a question too. */
		return ((struct uffdio_copy *)arg)->src == 0 ? NOTHING : COPY;
	case UFFDIO_ZEROPAGE:
		return ZEROPAGE;
	case UFFDIO_REGISTER:
		return REGISTER;
	case UFFDIO_UNREGISTER:
		return asks_whether_alive(arg) ? NOTHING : UNREGISTER;
	case UFFDIO_WRITEPROTECT:
		return WRITEPROTECT;
	default:
		return NOTHING;
	}
}

int ioctl(int fd, unsigned long request, ...)
{
	NEXT(ioctl);
	va_list more;

	va_start(more, request);
	void *arg = va_arg(more, void *);
	va_end(more);
	enum kind kind = kind_of(request, arg);
	if (kind != NOTHING && hit(kind)) {
		if (kind == COPY)
			((struct uffdio_copy *)arg)->copy = -ENOMEM;
		if (kind == ZEROPAGE)
			((struct uffdio_zeropage *)arg)->zeropage = -ENOMEM;
		return errno = ENOMEM, -1;
	}
	return next(fd, request, arg);
}
