/* The runtime directory: DIR/{attach.sock, stats.sock, brief, lock, store/ (a tmpfs of our
 * own)}. */
#ifndef LARDER_RUNTIME_H
#define LARDER_RUNTIME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct runtime {
	int lock_fd;	 /* owned: one larderd a directory */
	char store[512]; /* path of the store's directory */
	bool mounted;	 /* by us: ours to unmount */
	bool left;	 /* what is in it is another larderd's to go on with: it stays */
};

/* Makes the directory, takes its lock and mounts the store's tmpfs unless one is mounted there.
 * size_bytes: of the tmpfs; 0 = half of the machine's memory. Logs what is wrong.
 * -EWOULDBLOCK: another larderd runs here. -ENOTSUP: store/ is on another file system. */
int runtime_open(struct runtime *ret, const char *dir, uint64_t size_bytes);
void runtime_close(struct runtime *r);

/* Why store_open failed with r in such a directory, and what helps, for people. Static text. */
const char *runtime_store_problem(int r);

/* A listening unix socket DIR/name; a stale one is replaced (the lock says that it is stale).
 * type: SOCK_STREAM or SOCK_SEQPACKET. Returns the descriptor. */
int runtime_listen(const char *dir, const char *name, int type, unsigned mode);

/* A file DIR/name of so many zeros, mapped shared; whatever was there is replaced. NULL: it
 * can't be made, and a warning was logged. */
void *runtime_map(const char *dir, const char *name, size_t bytes, unsigned mode);
void runtime_unmap(const char *dir, const char *name, void *map, size_t bytes);

#endif
