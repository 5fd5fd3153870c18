#include "index_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "index_sql.h"

#define INDEX_GONE_FILE INDEX_FILE "-gone"
#define INDEX_RUN_FILE	"index.run"
#define INDEX_LOG_FILE	INDEX_FILE "-wal"
#define INDEX_SHM_FILE	INDEX_FILE "-shm"

/* In the order in which they are removed: the last one says that the others are to go. */
static const char *const index_files[] = {
	INDEX_LOG_FILE,
	INDEX_SHM_FILE,
	INDEX_FILE "-journal",
	INDEX_RUN_FILE,
	INDEX_FILE,
	INDEX_GONE_FILE,
};

enum { INDEX_FILES = sizeof(index_files) / sizeof(index_files[0]) };

const char *index_file_name(unsigned i)
{
	return i < INDEX_FILES ? index_files[i] : NULL;
}

/* ---- index.run ---- */

#define RUN_MAGIC "LrdrRun1"

static struct index_run *map_run(int fd)
{
	void *at =
		mmap(NULL, sizeof(struct index_run), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return at == MAP_FAILED ? NULL : at;
}

static int fill_run(int fd, const struct index_segments *g, struct index_run **ret)
{
	struct index_run new = {.segments = *g};

	memcpy(new.magic, RUN_MAGIC, sizeof(new.magic));
	if (getrandom(&new.id, sizeof(new.id), 0) != sizeof(new.id))
		return -EIO;
	new.id >>= 1; /* SQLite's integers are signed */
	/* Written, not mapped: in a full tmpfs that is an error and no signal. */
	ssize_t n = pwrite(fd, &new, sizeof(new), 0);
	if (n != sizeof(new))
		return n < 0 ? -errno : -ENOSPC;
	struct index_run *run = map_run(fd);
	if (!run)
		return -errno;
	*ret = run;
	return 0;
}

int index_run_new(int dirfd, const struct index_segments *g, struct index_run **ret)
{
	if (unlinkat(dirfd, INDEX_RUN_FILE, 0) < 0 && errno != ENOENT)
		return -errno;
	int fd = openat(dirfd, INDEX_RUN_FILE,
		O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	int r = fill_run(fd, g, ret);
	close(fd);
	return r;
}

static int take_run(int fd, struct index_run **ret)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || st.st_size != sizeof(struct index_run))
		return -EBADMSG;
	struct index_run *run = map_run(fd);
	if (!run)
		return -errno;
	if (memcmp(run->magic, RUN_MAGIC, sizeof(run->magic)) != 0) {
		index_run_unmap(run);
		return -EBADMSG;
	}
	*ret = run;
	return 0;
}

int index_run_map(int dirfd, struct index_run **ret)
{
	int fd = openat(dirfd, INDEX_RUN_FILE, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	int r = take_run(fd, ret);
	close(fd);
	return r;
}

void index_run_unmap(struct index_run *run)
{
	if (run)
		munmap(run, sizeof(*run));
}

/* ---- what is there ---- */

/* SQLite's file format: what a database's first bytes are, and where in them, high byte first,
 * the numbers lie. */
#define HEADER_MAGIC "SQLite format 3"
enum { HEADER_SIZE = 100, HEADER_VERSION_AT = 60, HEADER_APPLICATION_AT = 68 };

static uint32_t header_number(const unsigned char *at)
{
	return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static int check_header(int fd)
{
	unsigned char header[HEADER_SIZE];
	ssize_t n = pread(fd, header, sizeof(header), 0);

	if (n < 0)
		return -errno;
	if (n == 0)
		return 0; /* made, and killed before SQLite wrote to it */
	if (n < HEADER_SIZE || memcmp(header, HEADER_MAGIC, sizeof(HEADER_MAGIC)) != 0 ||
		header_number(header + HEADER_APPLICATION_AT) != INDEX_SQL_APPLICATION)
		return -EEXIST;
	return header_number(header + HEADER_VERSION_AT) > INDEX_SQL_VERSION ? -EPROTONOSUPPORT
									     : 0;
}

int index_check(int dirfd)
{
	struct stat st;

	/* Not opened yet: opening a pipe would wait. */
	if (fstatat(dirfd, INDEX_FILE, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISREG(st.st_mode))
		return S_ISDIR(st.st_mode) ? -EISDIR : -EEXIST;
	int fd = openat(dirfd, INDEX_FILE, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int r = check_header(fd);
	close(fd);
	return r;
}

static bool has_bytes(int dirfd, const char *name)
{
	struct stat st;

	return fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_size > 0;
}

enum index_left index_left(int dirfd)
{
	struct stat st;

	if (has_bytes(dirfd, INDEX_FILE))
		return INDEX_THERE;
	if (fstatat(dirfd, INDEX_GONE_FILE, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return INDEX_GONE;
	/* A database that is being made has no log yet; and SQLite would remove one that it
	 * finds beside an empty database. */
	return has_bytes(dirfd, INDEX_LOG_FILE) ? INDEX_CUT : INDEX_NONE;
}

void index_give_up(int dirfd)
{
	if (renameat(dirfd, INDEX_FILE, dirfd, INDEX_GONE_FILE) == 0)
		return;
	/* No database, but perhaps what went with one. */
	int fd = openat(
		dirfd, INDEX_GONE_FILE, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd >= 0)
		close(fd);
}

void index_remove(int dirfd)
{
	for (unsigned i = 0; i < INDEX_FILES; i++)
		(void)unlinkat(dirfd, index_files[i], 0); /* not there: as good */
}

/* SQLite's format: two copies of a header of 48 bytes, which are believed when they are the
 * same and their checksum is right. What follows them (who reads up to where) stays. */
void index_distrust_shm(int dirfd)
{
	static const unsigned char none[2 * 48];
	int fd = openat(dirfd, INDEX_SHM_FILE, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return; /* not there: it is made from the log */
	struct stat st;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size >= (off_t)sizeof(none))
		/* Within the file, so there is nothing that could fail. */
		(void)!pwrite(fd, none, sizeof(none), 0);
	close(fd);
}
