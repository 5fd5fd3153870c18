#include "pagemap.h"
#include "pulse.h"
#include "uffd.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

int pagemap_words(int fd, uint64_t start, size_t count, uint64_t *ret)
{
	size_t want = count * sizeof(*ret);
	pulse_call_begin();
	ssize_t n = pread(fd, ret, want, (off_t)(start / PAGE_SIZE * sizeof(*ret)));
	int error = errno;
	pulse_call_end();

	if (n < 0)
		return -error;
	if (n == 0)
		return -ESRCH; /* what the kernel returns once nobody uses the address space */
	if ((size_t)n < want)  /* past the end of the address space */
		memset((char *)ret + n, 0, want - (size_t)n);
	return 0;
}

int pagemap_read(int fd, uint64_t start, size_t count, uint8_t *ret)
{
	uint64_t word[512];

	for (size_t done = 0; done < count;) {
		size_t n = count - done < 512 ? count - done : 512;
		int r = pagemap_words(fd, start + done * PAGE_SIZE, n, word);
		if (r < 0)
			return r;
		for (size_t i = 0; i < n; i++)
			ret[done + i] = word[i] & PM_GUARD		   ? PAGE_GUARDED
					: word[i] & (PM_PRESENT | PM_SWAP) ? PAGE_HERE
									   : PAGE_NONE;
		done += n;
	}
	return 0;
}

bool pagemap_is_huge(int fd, uint64_t start)
{
	struct page_region region;
	struct pm_scan_arg scan = {.size = sizeof(scan),
		.start = start,
		.end = start + 512 * PAGE_SIZE,
		.vec = (uintptr_t)&region,
		.vec_len = 1,
		.category_mask = PAGE_IS_HUGE,
		.return_mask = PAGE_IS_HUGE};

	pulse_call_begin();
	int n = ioctl(fd, PAGEMAP_SCAN, &scan);
	pulse_call_end();
	return n == 1 && region.start == start && region.end == scan.end;
}

bool pagemap_alive(int fd)
{
	uint64_t word;

	pulse_call_begin();
	/* A failure, as for want of memory, says nothing. */
	bool alive = pread(fd, &word, sizeof(word), 0) != 0;
	pulse_call_end();
	return alive;
}
