#include "range.h"

#include <errno.h>
#include <sys/mman.h>

#include "must.h"

/* One mprotect per so many bytes; larger steps would only waste locked memory. */
enum { RANGE_STEP = 1 << 20 };

int range_reserve(struct range *ret, size_t size, int fd)
{
	int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED;

	void *base = mmap(NULL, size, PROT_NONE, flags, fd, 0);
	if (base == MAP_FAILED)
		return -errno;

	/* Both are refinements, refused by kernels built without them: no cores full of other
	 * programs' memory, and no huge page for a table whose first kilobytes are in use. */
	if (fd < 0)
		(void)madvise(base, size, MADV_NOHUGEPAGE);
	else
		(void)madvise(base, size, MADV_DONTDUMP);

	*ret = (struct range){.base = base, .size = size};
	return 0;
}

int range_open(struct range *r, size_t size)
{
	must(size <= r->size);
	if (size <= r->open)
		return 0;

	size_t open = (size + RANGE_STEP - 1) / RANGE_STEP * RANGE_STEP;
	if (open > r->size)
		open = r->size;
	if (mprotect(r->base + r->open, open - r->open, PROT_READ | PROT_WRITE) < 0)
		return -errno;
	r->open = open;
	return 0;
}

void range_done(struct range *r)
{
	if (r->base)
		munmap(r->base, r->size);
	*r = (struct range){0};
}
