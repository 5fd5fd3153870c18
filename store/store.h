/* The store: compressed pages ("blobs") in a tmpfs, and the SQLite index that says whose.
 *
 * A page is exactly STORE_PAGE (4096) bytes. A blob is named by a handle (blob_t) that stays
 * the same for the blob's life, while compaction may move its bytes.
 *
 *   page --store_pack--> packed --store_put--> blob --store_get--> page
 *
 * Threads: store_pack/store_unpack need a scratch of the caller's own and no lock. store_put,
 * store_ref, store_unref and store_get may be called from any thread at once; store_get takes
 * no lock. Everything named store_index_* and store_txn_*, store_compact and
 * store_repack_finish belong to one thread at a time (the caller's job). All functions return 0
 * or a negative errno and leave ret_ arguments untouched on failure. A store is never used
 * again after a fork, nor opened before an exec.
 *
 * Life of a blob: store_put gives it one reference. When the last reference is dropped it is
 * dead, but the index on disk may still name it, so its handle and its bytes are used again
 * only after the next store_txn_commit whose store_txn_begin came after the drop. The caller's
 * part: such a transaction rewrites (or deletes) every leaf that named the blob, and whoever
 * calls store_get or store_ref holds a reference meanwhile.
 *
 * Memory: 16 bytes per blob besides the segments. Address space: 4 GiB, and the limit or the
 * size of the tmpfs. A process with a store uses mlockall only with MCL_ONFAULT: without it,
 * the kernel would fill what was given back. */
#ifndef LARDER_STORE_H
#define LARDER_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	STORE_PAGE = 4096,
	STORE_BLOB_MAX = STORE_PAGE + 16, /* what a page takes in the store at most */
	STORE_LEAF_PAGES = 512,		  /* pages of one index row: 2 MiB of address space */
};

typedef uint32_t blob_t; /* 1 .. BLOB_MAX; BLOB_NONE = no blob */
#define BLOB_NONE 0u
#define BLOB_MAX  ((1u << 28) - 1) /* a page entry keeps 4 bits for itself: 1 TiB of pages */

struct store;

/* Moments between which what is on disk differs. */
#define STORE_STEPS(X)                                                                         \
	X(begun, "a transaction has begun")                                                    \
	X(committed, "it is committed, what it let go of isn't free")                          \
	X(compact_moved, "a segment's blobs were moved, synchronize wasn't called")            \
	X(compact_quiet, "it was called, the segment isn't given back")                        \
	X(compacted, "the segment was given back")                                             \
	X(shrink, "unused pages of the index were given up, the file is as long")              \
	X(shrunk, "the file was cut")                                                          \
	X(repacked, "a blob was packed anew, its old bytes are there")                         \
	X(repack_done, "they are free")
enum store_step {
#define X(name, help) STORE_STEP_##name,
	STORE_STEPS(X)
#undef X
};

struct store_options {
	const char *dir; /* an existing directory on tmpfs; anything else is -ENOTSUP */
	/* Bytes of segments, 2 MiB at least, rounded down to 1 MiB, of which the last is kept
	 * for store_compact. 0 = as the tmpfs allows. Reached: -ENOSPC. */
	uint64_t memory_limit;
	/* Waits until no thread that was inside store_get when it was called is still there.
	 * Called by store_compact and store_repack_finish, without the store's lock. NULL:
	 * there is no such thread. */
	void (*synchronize)(void *arg);
	/* Called at each step, by the thread that takes it, without the store's lock. NULL:
	 * nobody wants to know. */
	void (*passes)(void *arg, enum store_step step);
	void *arg;
	/* store_reopen: what the blobs that it finds are stamped with; that isn't kept. */
	uint32_t stamp;
};

/* Creates the segments and index.db afresh in opt->dir; files of an earlier run are removed,
 * and nothing else is. -ENOTSUP: not a tmpfs. -EINVAL: the limit is under 2 MiB. index.db is
 * there and stays: -EISDIR: as a directory; -EEXIST: no index of ours; -EPROTONOSUPPORT: of a
 * newer version. -ENOSPC, -ENOMEM, other negative errno: as the kernel says. */
int store_open(struct store **ret, const struct store_options *opt);
void store_close(struct store *s); /* NULL is fine. Files are removed. */
void store_leave(struct store *s); /* The same, but the files stay, for store_reopen. */

/* ---- reopening ---- */
enum { STORE_WHY = 256 };

/* As store_open, but goes on with what an earlier run has left, by store_leave or by being
 * killed at any instruction; where there is nothing, or what was being made or removed, it is
 * as store_open. Every row of the index is checked, and the segments are searched for the blobs
 * that it names: so they are live, with a reference of the store's own until
 * store_reopen_finish. Whatever is in no row is gone.
 *
 * A row may name what isn't in the segments, since memory was damaged: such a blob is lost.
 * It is referenced, unreferenced and indexed as any other, but store_get says -EBADMSG, and
 * nothing else gets its handle before no row names it.
 *
 * Besides store_open's errors, -EBADMSG: an index that is damaged, older than its last commit,
 * or not of these segments; or one of both is missing. why says it in words, for a log line
 * ("" after other errors). Files stay as they are then: they are for people to look at; to
 * begin afresh there is store_open. -EBUSY: another process is writing to the index.
 *
 * Before: where a descriptor table is shared with the earlier run's process, and so outlived
 * it, each descriptor of the files of store_files must be closed, since file locks go with any
 * of them (index_open.c); no process of that run may be alive. */
int store_reopen(struct store **ret, const struct store_options *opt, char why[STORE_WHY]);

/* Is what is in dir of a version that store_reopen can read? Another process may be using it.
 * Errors as store_open's. */
int store_check_version(const char *dir);

/* The files of the store in a directory, by device and inode, whether it is open or not.
 * Returns how many. */
struct store_file {
	uint64_t device, inode;
};
enum { STORE_FILES = 8 };
int store_files(const char *dir, struct store_file ret[STORE_FILES]);

/* Drops the store's own references: what the caller has taken none of (store_ref) is dead, as
 * after store_unref. So the caller's next transaction rewrites or deletes every leaf that names
 * such a blob. After store_open, and a second time, it does nothing. */
void store_reopen_finish(struct store *s);

/* No store_get of it can succeed, and the caller may want to know before. */
bool store_is_lost(const struct store *s, blob_t b);

/* The rows of the index. What the callback returns other than 0 ends it and is returned; it
 * gets borrowed memory, and may call nothing that has index or txn in its name. -EBADMSG: why
 * names table and row. */
struct store_client;
struct store_leaf {
	uint64_t id, clock;
	uint32_t pages;	       /* entries that aren't BLOB_NONE */
	const blob_t *entries; /* STORE_LEAF_PAGES */
};
typedef int store_client_fn(void *arg, const struct store_client *c);
typedef int store_block_fn(void *arg, uint64_t block, uint64_t leaf);
typedef int store_leaf_fn(void *arg, const struct store_leaf *l);
int store_each_client(struct store *s, store_client_fn *found, void *arg, char why[STORE_WHY]);
int store_each_block(struct store *s, uint64_t client, store_block_fn *found, void *arg,
	char why[STORE_WHY]);
/* These only before store_reopen_finish, else -EINVAL: later, entries may be dead. A leaf need
 * not be any block's. store_find_leaf: -ENOENT. */
int store_each_leaf(struct store *s, store_leaf_fn *found, void *arg, char why[STORE_WHY]);
int store_find_leaf(
	struct store *s, uint64_t leaf, store_leaf_fn *found, void *arg, char why[STORE_WHY]);

/* The highest ids that ever were in a committed row, in all runs since store_open; 0 = none. */
void store_last_ids(struct store *s, uint64_t *ret_client, uint64_t *ret_leaf);

/* ---- packing ---- */
struct store_scratch; /* codec contexts and buffers of one thread */
int store_scratch_new(struct store_scratch **ret);
void store_scratch_free(struct store_scratch *x);

enum store_codec { CODEC_FILL = 1, CODEC_RAW = 2, CODEC_LZ4 = 3, CODEC_ZSTD = 4 };
enum { STORE_CODECS = CODEC_ZSTD + 1 }; /* ids are below */
const char *store_codec_name(enum store_codec c);

/* How to pack. Level 0 is the codec's own choice; else only ZSTD knows levels, from 1 (fast) to
 * STORE_ZSTD_LEVEL_MAX (dense). */
enum { STORE_ZSTD_LEVEL_MAX = 19 };
struct store_method {
	enum store_codec codec; /* LZ4 or ZSTD */
	int level;
};
bool store_method_valid(const struct store_method *how);

struct store_packed {
	uint64_t checksum; /* xxh3 of the unpacked page, never of the packed bytes */
	const void *bytes; /* borrowed from the scratch, until its next store_pack */
	uint16_t length;   /* 1 .. STORE_PAGE */
	uint8_t codec;	   /* enum store_codec */
};

/* Packs a page: CODEC_FILL when it is one 8-byte word over and over, by the method (NULL: LZ4)
 * when that gives at most STORE_RAW_ABOVE bytes, else CODEC_RAW. What is returned was unpacked
 * again and compared. The page may be memory that others write to: what is packed is one copy
 * of it. -EBADMSG: it did not compare equal (a codec fault): the page must stay where it is.
 * -ENOMEM. */
enum { STORE_RAW_ABOVE = 3300 }; /* measured: above it, unpacking costs more than it saves */
int store_pack(struct store_scratch *x, const struct store_method *how, const void *page,
	struct store_packed *ret);

/* What it takes in the store: bytes, header, padding. */
uint32_t store_packed_size(const struct store_packed *p);

/* Fills page[0..4095], allocating nothing. -EBADMSG: not what store_pack gave; page is then
 * undefined. */
int store_unpack(struct store_scratch *x, const struct store_packed *p, void *page);

/* ---- blobs ---- */
/* stamp: when, in seconds of a clock of the caller's, below STORE_STAMP_MAX; it is kept with
 * the blob, for store_repack. -ENOSPC: limit, or tmpfs full (nothing changed); store_compact
 * may help. -ENOMEM. */
#define STORE_STAMP_MAX (UINT32_MAX - 1)
int store_put(struct store *s, const struct store_packed *p, uint32_t stamp, blob_t *ret);
/* Fills page[0..4095]. -EBADMSG: damaged, or no blob; page is then undefined and must not be
 * used. Takes no lock and allocates nothing; neither do store_ref and store_unref. */
int store_get(struct store *s, struct store_scratch *x, blob_t b, void *page);
void store_ref(struct store *s, blob_t b);
void store_unref(struct store *s, blob_t b); /* BLOB_NONE is fine */

/* Packed bytes, without header. */
uint32_t store_blob_length(const struct store *s, blob_t b);

/* What holds the blob (bytes, header, padding), divided among its references and each
 * reference's sharers; rounded up. The caller holds a reference. */
uint32_t store_blob_share(const struct store *s, blob_t b, uint32_t sharers);

/* Will store_put find room for more than what fits into the segments that are begun? */
bool store_has_room(struct store *s);

/* Do dead blobs wait for a transaction? One that writes nothing frees them too. */
bool store_has_dead(struct store *s);

/* Moves live blobs out of the emptiest segments until dead space is under `percent` of the
 * segment bytes, `budget` bytes were copied, or no segment has enough of it to be worth that;
 * gives the segments back to the system, and unused pages of the index as well. Dead blobs that
 * no commit has freed yet are moved along. -EINVAL: in a transaction. -ENOSPC: the tmpfs is
 * full to the last page; what was moved by then is moved. */
int store_compact(struct store *s, unsigned percent, uint64_t budget);

/* ---- packing anew ---- */
/* Is it packed by LZ4 or not at all, with a stamp of at most this, and wasn't it tried before?
 * The caller holds a reference. */
bool store_repack_due(const struct store *s, blob_t b, uint32_t stamp);

/* Packs a blob by another method; its handle and its page stay. From any thread, each with a
 * scratch of its own and a reference to its blob, while the job's thread waits for them, and no
 * two for the same blob. 1: done. 0: it packs no better and stays, for good. -EAGAIN: first
 * store_repack_finish. -ENOSPC: the store is full; -ENOMEM. -EBADMSG: damaged, or a codec
 * fault; it stays as it is. */
int store_repack(
	struct store *s, struct store_scratch *x, blob_t b, const struct store_method *how);

/* Waits until nobody looks at the old bytes, and frees them. After each STORE_LEAF_PAGES at the
 * latest. The job's thread. */
void store_repack_finish(struct store *s);

/* ---- index ---- */
struct store_client {
	uint64_t id;	    /* the service's number for it, never used twice in a run */
	uint64_t parent;    /* id of the client it was forked from, 0 = none */
	int64_t pid;	    /* 0 = unknown (a forked child not yet seen) */
	const char *exe;    /* borrowed; "" = unknown */
	const char *policy; /* borrowed */
	uint64_t clock;	    /* the client's clock when this was true */
	/* What else the service has to know of it: any bytes, at most STORE_STATE_MAX.
	 * borrowed; NULL: the row keeps those that it has, at first none. When read it is never
	 * NULL. */
	const void *state;
	uint32_t state_length;
};
enum { STORE_STATE_MAX = 1 << 20 };
#define STORE_BLOCK_MAX ((UINT64_C(1) << 43) - 1) /* of a 64-bit address */

/* -EBUSY: another process is writing to index.db. Readers don't disturb, but those that come
 * upon the log of a process that was killed, for a moment; so the first one after store_reopen
 * waits a little. */
int store_txn_begin(struct store *s);
/* On failure everything since begin is rolled back. It fails if any store_index_* since begin
 * has: there are no half transactions. -ENOSPC: the tmpfs is full. */
int store_txn_commit(struct store *s);
void store_txn_abort(struct store *s); /* outside of a transaction: nothing */

/* All store_index_*: -EINVAL outside of a transaction. */
/* Insert or replace. -EINVAL: the state is too long. */
int store_index_client(struct store *s, const struct store_client *c);
int store_index_client_drop(struct store *s, uint64_t client); /* with its block rows */
/* Leaves may be shared by several blocks (fork). Entries are BLOB_NONE where the store doesn't
 * have the page; of the others the caller holds a reference. */
int store_index_leaf(
	struct store *s, uint64_t leaf, uint64_t clock, const blob_t entries[STORE_LEAF_PAGES]);
int store_index_leaf_drop(struct store *s, uint64_t leaf);
/* block = address >> 21; leaf 0 removes the row. */
int store_index_block(struct store *s, uint64_t client, uint64_t block, uint64_t leaf);

/* ---- numbers ---- */
struct store_stats {
	uint64_t blobs;		/* live */
	uint64_t blob_bytes;	/* packed bytes of live blobs */
	uint64_t header_bytes;	/* headers and padding of live blobs */
	uint64_t dead_bytes;	/* in segments, but in no live blob */
	uint64_t segment_bytes; /* blob + header + dead: what the tmpfs holds for segments */
	uint64_t index_bytes;	/* index.db with its WAL, as allocated in the tmpfs */
	uint64_t table_bytes;	/* the handle table and other private memory of the store */
	uint64_t limit_bytes;	/* 0 = none */
	uint64_t lost_blobs;	/* named by the index, and not found by store_reopen */
	/* Of live blobs, by enum store_codec: how many, and their packed bytes. */
	uint64_t codec_blobs[STORE_CODECS], codec_bytes[STORE_CODECS];
};
void store_stats(struct store *s, struct store_stats *ret);

/* Asserts the module's invariants (numbered in its .c files), while no other thread uses the
 * store. Slow: for tests and debug builds. */
void store_check(struct store *s);

#endif
