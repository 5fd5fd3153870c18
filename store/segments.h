/* Segments: the file warm.seg, mapped once, in parts of SEGMENT_SIZE that are filled one after
 * the other and given back whole.
 *
 *   warm.seg   | segment 0 | segment 1 | (hole)    | segment 3 | (never used) ...
 *                   |
 *                   [header|bytes|pad][header|bytes|pad] ... zeros | (no memory yet)
 *
 * A blob's header, by byte offset, in the byte order of the machine (the file never leaves it):
 *    0  u32  handle, 28 bits; 0 = nothing more in this segment
 *    4  u16  packed length, 1 .. 4096
 *    6  u8   codec; 0 = the blob is gone, its handle may name another one elsewhere
 *    7  u8   version, BLOB_VERSION
 *    8  u64  xxh3 of the unpacked page
 *   16       packed bytes, then zeros up to a multiple of 16
 * Room for more: a dictionary's id stands in the packed bytes of the codecs that use one (in
 * zstd's frames there is a field of 0 to 4 bytes for it), so that no other blob pays for it. A
 * further tier is a further file, named by three bits of where_t (blobs.h); its blobs look the
 * same. The high 4 bits of the handle and the high 3 of the length are 0.
 *
 * The header is written after the bytes that it describes, its first half, in one store, last.
 * So at any instant, all headers of one handle whose codec isn't 0 describe the same page
 * (compaction leaves two for a while).
 *
 * Life of a segment:
 *   never used, free -> open  [segments_append, when the stream's open one is full]
 *   open -> full              [the same; segments_close]
 *   open, full -> free        [segments_recycle of its last blob, segments_release]
 *   full -> damaged           [store_compact found headers that aren't what the table says]
 *   damaged -> free           [segments_recycle of its last blob]
 * Of an earlier run:
 *   free -> full, damaged     [segments_adopt]
 *   full -> open              [segments_adopted]
 *
 * All functions but segments_at need the store's lock. */
#ifndef LARDER_STORE_SEGMENTS_H
#define LARDER_STORE_SEGMENTS_H

#include <stdbool.h>
#include <stdint.h>

#include "blobs.h"

enum {
	SEGMENT_SIZE = 1 << 20,
	/* An open segment gets memory in steps of this: of a small store, an open segment's
	 * unused end would be a large part. */
	SEGMENT_STEP = 64 << 10,
	BLOB_VERSION = 1,
};
#define SEGMENT_NONE UINT32_MAX

struct blob_header {
	uint32_t handle;
	uint16_t length;
	uint8_t codec;
	uint8_t version;
	uint64_t checksum;
};

enum segment_state { SEGMENT_FREE, SEGMENT_OPEN, SEGMENT_FULL, SEGMENT_DAMAGED };

struct segment {
	uint32_t have;	/* bytes with memory, from the start */
	uint32_t used;	/* bytes appended; the next blob goes here */
	uint32_t live;	/* bytes of live blobs, with headers and padding */
	uint32_t dying; /* bytes of dying blobs */
	uint32_t next;	/* free: the next free one, SEGMENT_NONE = last */
	enum segment_state state;
};

/* What survives a compaction is older than what is stored anew, so the two aren't mixed: a
 * segment of old blobs stays full for long. It also keeps new blobs out of compaction's
 * reserve. */
enum segment_stream { STREAM_PUT, STREAM_MOVE, STREAM_COUNT };

/* What is packed anew is old, and goes where the survivors go; but it isn't compaction, and
 * leaves the reserve alone. */
enum segment_use { USE_PUT, USE_MOVE, USE_REPACK };

struct segments {
	int fd;		    /* owned */
	struct range file;  /* the mapping of fd */
	struct range table; /* of struct segment, one per segment ever used */
	uint32_t max;	    /* the limit, in segments */
	uint32_t max_move;  /* the same for USE_MOVE: an earlier run may have left more */
	uint32_t top;	    /* segments 0 .. top-1 were in use at some time */
	uint32_t in_use;
	uint32_t free;		     /* head of the free ones */
	uint32_t open[STREAM_COUNT]; /* SEGMENT_NONE = none */
	uint64_t have, live, dying;  /* sums over all segments */
	uint64_t reserve;	     /* bytes of the tmpfs that only USE_MOVE may use */
};

/* -ENOTSUP: the directory isn't on a tmpfs. */
int segments_check_dir(int dirfd);

/* Makes the file in dirfd (borrowed). -EINVAL: the limit is under two segments. -ENOSPC: the
 * tmpfs is too small. */
int segments_init(struct segments *g, int dirfd, const char *name, uint64_t limit);

/* Does the file of an earlier run, if there is one, have anything in it? */
bool segments_any(int dirfd, const char *name);

/* Takes the file that an earlier run has left, as large as it is. Of each row up to top, `used`
 * is how many bytes from its start there are to be read, and the rest as of a free one, until
 * segments_adopt. -ENOENT. -EBADMSG: no file, or none of ours. Else as segments_init. */
int segments_reinit(struct segments *g, int dirfd, const char *name, uint64_t limit);

/* One of them, by what is known of it. live: bytes of live blobs; 0 = nothing in it counts. The
 * file gets memory as invariant 5 says, and zeros after `used`. -ENOSPC. */
int segments_adopt(struct segments *g, uint32_t i, uint32_t used, uint32_t live, bool damaged);

/* When all are: makes the list of free ones, and opens those that have most room. */
void segments_adopted(struct segments *g);

/* Which file it is. */
int segments_identity(const struct segments *g, uint64_t *ret_inode, uint64_t *ret_born);
void segments_done(struct segments *g);

static inline struct segment *segments_row(const struct segments *g, uint32_t i)
{
	return (struct segment *)(void *)g->table.base + i;
}

static inline const unsigned char *segments_at(const struct segments *g, uint64_t offset)
{
	return g->file.base + offset;
}

/* Appends a blob as live. -ENOSPC, -ENOMEM: nothing changed. */
int segments_append(struct segments *g, enum segment_use use, const struct blob_header *h,
	const void *bytes, uint64_t *ret_offset);

/* For one more segment of what is put. */
bool segments_has_room(const struct segments *g);

/* A blob of this size at this place: live -> dying; dying -> gone; moved away. */
void segments_kill(struct segments *g, uint64_t offset, uint32_t size);
void segments_recycle(struct segments *g, uint64_t offset, uint32_t size);
void segments_leave(struct segments *g, uint64_t offset, uint32_t size, bool dying);

/* Gives a segment without live and dying blobs back to the system. */
void segments_release(struct segments *g, uint32_t i);

/* The segment that gives most back for the least copying; SEGMENT_NONE: none is worth it. */
uint32_t segments_victim(const struct segments *g);

/* If it is open: nothing is appended to it any more. */
void segments_close(struct segments *g, uint32_t i);

/* Bytes that compaction could win: not live, not dying, not to be used yet. */
uint64_t segments_waste(const struct segments *g);

#endif
