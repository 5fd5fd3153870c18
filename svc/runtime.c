#include "runtime.h"
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>

/* One that was killed has it for as long as its memory takes to be freed. */
enum { LOCK_TRIES = 50, LOCK_WAIT_US = 20000 };

static int try_lock(int fd)
{
	int r = -EWOULDBLOCK;

	for (int i = 0; i < LOCK_TRIES && r == -EWOULDBLOCK; i++) {
		if (i > 0)
			usleep(LOCK_WAIT_US);
		r = flock(fd, LOCK_EX | LOCK_NB) < 0 ? -errno : 0;
	}
	return r;
}

static int take_lock(struct runtime *r, const char *dir)
{
	char path[600];

	snprintf(path, sizeof(path), "%s/lock", dir);
	r->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (r->lock_fd < 0) {
		log_error("%s: %s", path, strerror(errno));
		return -errno;
	}
	int e = try_lock(r->lock_fd);
	if (e < 0)
		log_error("%s: %s", path,
			e == -EWOULDBLOCK ? "another larderd runs with this runtime directory"
					  : strerror(-e));
	return e;
}

static bool is_tmpfs(const char *path)
{
	struct statfs fs;
	return statfs(path, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
}

static bool is_mount_point(const char *path, const char *parent)
{
	struct stat a, b;
	return stat(path, &a) == 0 && stat(parent, &b) == 0 && a.st_dev != b.st_dev;
}

static int mount_store(struct runtime *r, const char *dir, uint64_t size)
{
	char options[128];

	if (is_mount_point(r->store, dir)) {
		if (is_tmpfs(r->store))
			return 0; /* the unit's, or one that an earlier larderd left */
		log_error("%s: on another file system than tmpfs, which would write clients' "
			  "memory "
			  "to a disk; unmount it, or mount a tmpfs there",
			r->store);
		return -ENOTSUP;
	}
	if (size)
		snprintf(options, sizeof(options), "mode=0700,huge=never,noswap,size=%llu",
			(unsigned long long)size);
	else
		snprintf(options, sizeof(options), "mode=0700,huge=never,noswap");
	if (mount("larder", r->store, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options) < 0) {
		int e = errno;
		log_error("%s: mounting a tmpfs (%s): %s%s", r->store, options, strerror(e),
			e == EPERM ? ": larderd needs root" : "");
		return -e;
	}
	r->mounted = true;
	return 0;
}

static const struct problem {
	int error;
	const char *text;
} problems[] = {
	{ENOTSUP, "not a tmpfs, so it would write clients' memory to a disk; unmount it, or "
		  "mount a "
		  "tmpfs there"},
	{ENOSPC, "no room in the tmpfs: it needs 8 MiB at least, and what others put there "
		 "takes "
		 "from it; mount it larger (size=), or remove what isn't Larder's"},
	{EINVAL, "memory-limit is too small; 8M at least"},
	{EISDIR, "index.db in it is a directory; remove it, or use another --runtime-dir"},
	{EEXIST, "index.db or warm.seg in it is not Larder's; move it away, or use another "
		 "--runtime-dir"},
	{EPROTONOSUPPORT,
		"index.db in it is of a newer Larder; run that one, or remove the file"},
	{EACCES, "no permission; larderd needs root"},
};

const char *runtime_store_problem(int r)
{
	for (size_t i = 0; i < sizeof(problems) / sizeof(problems[0]); i++)
		if (problems[i].error == -r)
			return problems[i].text;
	return strerror(-r);
}

/* Whoever may write to it could put a socket of their own in place of ours, and hand programs
 * whatever they like. */
static int check_directory(const char *dir)
{
	struct stat st;

	if (stat(dir, &st) < 0) {
		log_error("%s: %s", dir, strerror(errno));
		return -errno;
	}
	if (S_ISDIR(st.st_mode) && st.st_uid == geteuid() &&
		!(st.st_mode & (S_IWGRP | S_IWOTH)))
		return 0;
	log_error("%s: must be a directory of larderd's user that nobody else may write to; "
		  "others could replace the sockets: chown root %s && chmod 755 %s",
		dir, dir, dir);
	return -EPERM;
}

static int make_directory(const char *dir)
{
	if (mkdir(dir, 0755) == 0) {
		/* Whatever our umask. One that was there keeps what its owner chose. */
		if (chmod(dir, 0755) == 0)
			return 0;
	} else if (errno == EEXIST) {
		return check_directory(dir);
	}
	log_error("%s: %s", dir, strerror(errno));
	return -errno;
}

int runtime_open(struct runtime *ret, const char *dir, uint64_t size_bytes)
{
	struct runtime r = {.lock_fd = -1};
	int e = 0;

	if ((size_t)snprintf(r.store, sizeof(r.store), "%s/store", dir) >=
		sizeof(r.store) - 64) {
		log_error("%s: runtime directory: name too long", dir);
		return -ENAMETOOLONG;
	}
	e = make_directory(dir);
	if (e == 0)
		e = take_lock(&r, dir);
	if (e == 0 && mkdir(r.store, 0700) < 0 && errno != EEXIST) {
		e = -errno;
		log_error("%s: %s", r.store, strerror(-e));
	}
	if (e == 0)
		e = mount_store(&r, dir, size_bytes);
	if (e < 0) {
		runtime_close(&r);
		return e;
	}
	*ret = r;
	return 0;
}

void runtime_close(struct runtime *r)
{
	bool ours = r->mounted && !r->left;

	if (ours && umount2(r->store, 0) < 0)
		log_warn("%s: %s; left mounted", r->store, strerror(errno));
	if (ours)
		rmdir(r->store);
	if (r->lock_fd >= 0)
		close(r->lock_fd);
	r->lock_fd = -1;
	r->mounted = false;
}

int runtime_listen(const char *dir, const char *name, int type, unsigned mode)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int n = snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/%s", dir, name);

	if (n < 0 || (size_t)n >= sizeof(addr.sun_path)) {
		log_error("%s/%s: too long for a socket's name (%zu bytes at most)", dir, name,
			sizeof(addr.sun_path) - 1);
		return -ENAMETOOLONG;
	}
	unlink(addr.sun_path);
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
		chmod(addr.sun_path, mode) < 0 || listen(fd, 512) < 0) {
		int e = errno;
		log_error("%s: %s", addr.sun_path, strerror(e));
		if (fd >= 0)
			close(fd);
		return -e;
	}
	return fd;
}

void *runtime_map(const char *dir, const char *name, size_t bytes, unsigned mode)
{
	char path[512];
	void *map = MAP_FAILED;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	/* Anew: an older one may be open somewhere. */
	unlink(path);
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
	if (fd >= 0 && fchmod(fd, mode) == 0 && posix_fallocate(fd, 0, (off_t)bytes) == 0)
		map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		log_warn("%s: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	return map == MAP_FAILED ? NULL : map;
}

void runtime_unmap(const char *dir, const char *name, void *map, size_t bytes)
{
	char path[512];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	unlink(path);
	munmap(map, bytes);
}
