/* /proc/PID/pagemap of a client. The descriptor is bound to the address space at open: it goes
 * on telling of that one after an exec, and says when it is gone. */
#ifndef LARDER_PAGEMAP_H
#define LARDER_PAGEMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum page_presence {
	PAGE_NONE,   /* a touch would fault */
	PAGE_HERE,   /* mapped, or in the kernel's swap */
	PAGE_GUARDED /* MADV_GUARD_INSTALL: a touch is SIGSEGV, and COPY would destroy the guard
		      */
};

/* Fills ret[0..count-1] for the pages from `start`. -ESRCH: the address space is gone. */
int pagemap_read(int fd, uint64_t start, size_t count, uint8_t *ret);

/* The raw words (kernel.h PM_*), count <= 512. */
int pagemap_words(int fd, uint64_t start, size_t count, uint64_t *ret);

/* Is [start, start + 2 MiB) mapped by one huge page? False also where the kernel can't tell. */
bool pagemap_is_huge(int fd, uint64_t start);

bool pagemap_alive(int fd);

#endif
