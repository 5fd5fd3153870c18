#include "uffd.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int call(int fd, unsigned long request, void *arg)
{
	return ioctl(fd, request, arg) < 0 ? -errno : 0;
}

int uffd_api(int fd)
{
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURES};
	return call(fd, UFFDIO_API, &api);
}

int uffd_register(int fd, uint64_t start, uint64_t len, uint64_t mode)
{
	struct uffdio_register reg = {.range = {start, len}, .mode = mode};
	return call(fd, UFFDIO_REGISTER, &reg);
}

int uffd_unregister(int fd, uint64_t start, uint64_t len)
{
	struct uffdio_range range = {start, len};
	return call(fd, UFFDIO_UNREGISTER, &range);
}

int uffd_wake(int fd, uint64_t start, uint64_t len)
{
	struct uffdio_range range = {start, len};
	return call(fd, UFFDIO_WAKE, &range);
}

int uffd_protect(int fd, uint64_t start, uint64_t len, bool on)
{
	struct uffdio_writeprotect wp = {
		.range = {start, len}, .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0};
	return call(fd, UFFDIO_WRITEPROTECT, &wp);
}

/* The kernel says what it did in one field: bytes, or a negative errno when the first page
 * failed. A short count comes with EAGAIN and hides the reason; the next call, starting there,
 * tells it. */
static int outcome(int r, int64_t field, uint64_t len, uint64_t *done)
{
	uint64_t more = r < 0 && field > 0 ? (uint64_t)field : r < 0 ? 0 : len;

	*done += more;
	if (r == 0)
		return 0;
	return more > 0 ? 1 : r;
}

/* A call refuses a range that reaches into a second mapping as a whole, with ENOENT as for none
 * (mprotect makes two of one at any time). So what it refuses is tried page by page. */
static uint64_t next_step(int r, uint64_t step, uint64_t left)
{
	if (r == -ENOENT && step > PAGE_SIZE && left > PAGE_SIZE)
		return PAGE_SIZE;
	return 0;
}

static int copy_in(int fd, uint64_t start, const void *from, uint64_t len, uint64_t mode,
	uint64_t *ret_done)
{
	uint64_t step = len;
	int r = 0;

	*ret_done = 0;
	while (*ret_done < len) {
		uint64_t left = len - *ret_done;
		struct uffdio_copy copy = {.dst = start + *ret_done,
			.src = (uintptr_t)from + *ret_done,
			.len = left < step ? left : step,
			.mode = mode};
		r = call(fd, UFFDIO_COPY, &copy);
		r = outcome(r, copy.copy, copy.len, ret_done);
		if (r >= 0)
			continue;
		step = next_step(r, step, left);
		if (step == 0)
			return r;
	}
	return 0;
}

int uffd_copy(int fd, uint64_t start, const void *from, uint64_t len, uint64_t *ret_done)
{
	return copy_in(fd, start, from, len, 0, ret_done);
}

int uffd_copy_asleep(int fd, uint64_t start, const void *from, uint64_t len, uint64_t *ret_done)
{
	return copy_in(fd, start, from, len, UFFDIO_COPY_MODE_DONTWAKE, ret_done);
}

int uffd_zero(int fd, uint64_t start, uint64_t len, uint64_t *ret_done)
{
	uint64_t step = len;
	int r = 0;

	*ret_done = 0;
	while (*ret_done < len) {
		uint64_t left = len - *ret_done;
		struct uffdio_zeropage zero = {
			.range = {start + *ret_done, left < step ? left : step}};
		r = call(fd, UFFDIO_ZEROPAGE, &zero);
		r = outcome(r, zero.zeropage, zero.range.len, ret_done);
		if (r >= 0)
			continue;
		step = next_step(r, step, left);
		if (step == 0)
			return r;
	}
	return 0;
}

bool uffd_fence_up(int fd)
{
	/* Length 0 is refused with EINVAL, but only after the fence was looked at. */
	struct uffdio_copy nothing = {.dst = 0, .src = 0, .len = 0};
	return call(fd, UFFDIO_COPY, &nothing) == -EAGAIN;
}

int uffd_registered(int fd, uint64_t addr)
{
	/* A source that can't be read: found out only after the mapping was looked at
	 * (measured: EFAULT where registered, whether a page is there or not, and EEXIST where
	 * that is a huge one; else ENOENT). */
	struct uffdio_copy nothing = {.dst = addr, .src = 0, .len = PAGE_SIZE};
	int r = call(fd, UFFDIO_COPY, &nothing);

	if (r == -EFAULT || r == -EEXIST)
		return 1;
	/* The kernel looks at the fence, waits for the address space, and then looks for the
	 * mapping: one that was moved away meanwhile is ENOENT too. Its fence is still up. */
	if (r == -ENOENT)
		return uffd_fence_up(fd) ? -EAGAIN : 0;
	return r;
}

bool uffd_alive(int fd)
{
	/* The address space is taken hold of before the range is looked up: ENOMEM when that
	 * fails. The topmost page of the lower half is at most stack, which is never
	 * registered. */
	return uffd_unregister(fd, (1ULL << 47) - 2 * PAGE_SIZE, PAGE_SIZE) != -ENOMEM;
}

bool uffd_is_one(int fd)
{
	char path[32], name[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(path, name, sizeof(name) - 1);
	if (n < 0)
		return false;
	name[n] = '\0';
	return strcmp(name, "anon_inode:[userfaultfd]") == 0;
}
