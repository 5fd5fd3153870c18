/* Which process it is shows in its /proc/PID/smaps: we register a page of the address space
 * that wasn't, and look whose page became registered. Write-protect only, and nothing is
 * protected: the program doesn't notice. It stays so, for to take it back could hit a mapping
 * that was moved there meanwhile, and whose pages are out. */
#include "owner.h"
#include "cleanup.h"
#include "maps.h"
#include "process.h"
#include "uffd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct look {
	uint64_t addr; /* 0: any */
	bool is;
};

static int plain_page(void *arg, const struct map *m)
{
	struct look *l = arg;

	if (m->refusal != MAPS_OK || m->uffd)
		return 0;
	l->addr = m->start;
	return 1;
}

static int registered_page(void *arg, const struct map *m)
{
	struct look *l = arg;

	if (l->addr >= m->end)
		return 0;
	l->is = l->addr >= m->start && m->uffd;
	return 1;
}

/* 1: it has this address space. 0: another one. */
static int has_memory(int procdir, int uffd)
{
	struct look look = {.addr = 0};
	int r = maps_read(procdir, 0, plain_page, &look);

	if (r <= 0)
		return 0; /* it has ended, or has no such page */
	r = uffd_registered(uffd, look.addr);
	if (r != 0)
		return r == 1 ? 0 : r;
	if (uffd_register(uffd, look.addr, PAGE_SIZE, UFFDIO_REGISTER_MODE_WP) < 0)
		return 0; /* nothing of the kind is mapped there */
	r = maps_read(procdir, 0, registered_page, &look);
	return r > 0 && look.is;
}

static bool runs(int procdir, const char *exe)
{
	char path[PATH_MAX];
	ssize_t n = readlinkat(procdir, "exe", path, sizeof(path) - 1);

	return n > 0 && (size_t)n == strlen(exe) && memcmp(path, exe, (size_t)n) == 0;
}

/* Returns its pidfd. -ENOENT: not this one. */
static int ask(pid_t pid, int uffd, const char *exe)
{
	char path[32];
	_cleanup_fd_ int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

	snprintf(path, sizeof(path), "/proc/%d", (int)pid);
	_cleanup_fd_ int procdir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (pidfd < 0 || procdir < 0 || (exe && !runs(procdir, exe)))
		return -ENOENT;
	int r = has_memory(procdir, uffd);
	if (r < 0)
		return r;
	/* Alive afterwards: the number was its. */
	return r == 1 && process_alive(pidfd) ? steal_fd(&pidfd) : -ENOENT;
}

int owner_find(int uffd, const char *exe, pid_t *ret_pid)
{
	DIR *dir = opendir("/proc");
	int r = dir ? -ENOENT : -errno;

	for (struct dirent *e; r == -ENOENT && dir && (e = readdir(dir));) {
		pid_t pid = (pid_t)atoi(e->d_name);
		if (pid <= 0 || pid == getpid())
			continue;
		r = ask(pid, uffd, exe);
		if (r >= 0)
			*ret_pid = pid;
	}
	if (dir)
		closedir(dir);
	return r;
}
