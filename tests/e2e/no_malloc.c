/* Preloaded into larderd: while the first byte of the file SWITCH is 1, there is no memory for
 * the threads that answer faults. What they ask for is counted in the second four bytes. */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *p, size_t size);

static struct switched {
	_Atomic uint32_t on, asked;
} * at;

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("SWITCH");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *map = fd < 0 ? MAP_FAILED
			   : mmap(NULL, sizeof(*at), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (map == MAP_FAILED)
		_exit(99);
	close(fd);
	at = map;
}

static bool refused(void)
{
	char name[17] = "";

	if (!at || !atomic_load(&at->on))
		return false;
	prctl(PR_GET_NAME, name);
	if (strcmp(name, "larder-reader") != 0)
		return false;
	atomic_fetch_add(&at->asked, 1);
	errno = ENOMEM;
	return true;
}

void *malloc(size_t size)
{
	return refused() ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
	return refused() ? NULL : __libc_calloc(count, size);
}

void *realloc(void *p, size_t size)
{
	return refused() ? NULL : __libc_realloc(p, size);
}
