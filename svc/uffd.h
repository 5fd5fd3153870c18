/* userfaultfd calls as functions: 0 or negative errno. `fd` is always the client's uffd,
 * addresses are the client's. Safe from any thread; the client's gate is the caller's business.
 */
#ifndef LARDER_UFFD_H
#define LARDER_UFFD_H

#include "kernel.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_SIZE 4096ULL
#define PAGE_MASK (~(PAGE_SIZE - 1))

/* The features every client is used with. */
#define UFFD_FEATURES                                                                          \
	(UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE |      \
		UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_MOVE |        \
		UFFD_FEATURE_PAGEFAULT_FLAG_WP)

int uffd_api(int fd);
int uffd_register(int fd, uint64_t start, uint64_t len, uint64_t mode);
int uffd_unregister(int fd, uint64_t start, uint64_t len);
int uffd_wake(int fd, uint64_t start, uint64_t len);
int uffd_protect(int fd, uint64_t start, uint64_t len, bool on);

/* Copies len bytes. *ret_done is always set: bytes that are in place, also on failure.
 * 0 when all are. -EAGAIN: an event is in flight; -EEXIST: the page at start + *ret_done
 * exists; -ENOENT: no registered mapping there; -ESRCH: the address space is gone; -ENOMEM. */
int uffd_copy(int fd, uint64_t start, const void *from, uint64_t len, uint64_t *ret_done);
/* The same, and who waits there goes on waiting. */
int uffd_copy_asleep(
	int fd, uint64_t start, const void *from, uint64_t len, uint64_t *ret_done);
/* The same with the shared zero page: costs no memory until it is written to. */
int uffd_zero(int fd, uint64_t start, uint64_t len, uint64_t *ret_done);

/* Is an event of this address space under way, read or not? Then true: MOVE and COPY say
 * EAGAIN. It falls when the last thread has *begun* to go on after its event was read: no proof
 * that a zap is done. */
bool uffd_fence_up(int fd);

/* Is this address in a mapping that is registered, with fd or with another one: the kernel
 * doesn't say (to register it again does, by EBUSY). Changes nothing. 1 or 0; -EAGAIN: an event
 * is in flight; -ESRCH. */
int uffd_registered(int fd, uint64_t addr);

/* False once the address space is gone. Works without knowing any pid. */
bool uffd_alive(int fd);

/* Is this descriptor a userfaultfd? (A client can send anything.) */
bool uffd_is_one(int fd);

#endif
