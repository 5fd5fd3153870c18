/* What was told about a client, and what was found out about it, since its rows in the index
 * were written last: with both, another worker knows what this one knew (DESIGN rule 10).
 *
 * A ring of entries of the kernel's own form (struct uffd_msg, 32 bytes) in a file beside the
 * store, named by its client's id, so that it outlives the service:
 *
 *   offset 0      4096                              2^n * 32        2^(n+1) * 32
 *          [ head ][ (rings that became too small)  ][ 2^n entries   ]
 *
 *   entries   ... zeros [ begin ............ end )[ room: zeros ] ...
 *                         ^ the rows say all before
 *
 * read(2) of the userfaultfd writes into the room, so there is no moment between the kernel's
 * letting go of an event and its being here. What no event tells is added by us as an entry
 * with an event number of ours. An entry counts from the moment when its first byte, the event,
 * isn't 0; the kernel writes an entry whole before a process that is killed can die.
 *
 * Each entry and each field of the head has a sum: that of an entry lies in the bytes 1 to 3,
 * which the kernel leaves zero, from the moment when we have read it. So of an event that was
 * damaged, or of one that vanished, no page is served (rule 8).
 *
 * Where the file system has no room for it, or none to grow, it goes on in a memfd. That
 * outlives the worker, for the keeper shares its descriptors, but not the service; the file, if
 * there is one, says so.
 *
 * Invariants:
 *  1. entries of [begin, end) have an event; all others of the ring are zeros, but for those of
 *     a trim that was cut short, which lie before begin.
 *  2. there is always room for at least one entry more.
 *
 * A journal is protected by its client's gate. */
#ifndef LARDER_JOURNAL_H
#define LARDER_JOURNAL_H

#include "uffd.h"

#include <stdbool.h>
#include <stdint.h>

enum { JOURNAL_TAKEN_BACK = 2 };

/* arg.reserved.reserved1 to 3 of an entry of ours are its a, b and c, reserved3 its n. */
enum journal_event {
	/* [a, b): n = 1: registered with the client's userfaultfd; 0: it wasn't, and nothing of
	 * it is ours. The kernel's answer, or our own doing. JOURNAL_TAKEN_BACK: registered,
	 * and an UNMAP that was reported for it did not take place. */
	JOURNAL_ANSWER = 0x80,
	/* [a, b) is about to be registered or unregistered: unless an answer for all of it or
	 * JOURNAL_ASKED follows, or it is said to be in doubt, it is to be asked for. */
	JOURNAL_ASK,
	/* The fence was seen down, nothing was in doubt: what was aside is forgotten. */
	JOURNAL_CALM,
	/* The fence was seen down: events that were out of order are applied. */
	JOURNAL_FLUSH,
	/* A FORK with the descriptor a was applied, and made the client b; c of the next are
	 * right before it. n: bits of enum journal_child. In the order in which FORKs are
	 * applied. */
	JOURNAL_CHILD,
	/* At a fork [a, b) had grown in place. */
	JOURNAL_GROWN,
	/* The kernel was asked about a forked child at its birth: a is registered in it (n =
	 * 1), or not (0). */
	JOURNAL_MIDWIFE,
	/* With the last b of these answers, and a of its parent's steps, it was born. (Others
	 * are of a worker that died before it wrote this.) */
	JOURNAL_BORN,
	/* Some page of the client can't be told, or can't be restored: it is failed. */
	JOURNAL_FAILED,
	/* The fence was seen down and nothing is mapped at [a, b): its pages are gone. */
	JOURNAL_GONE,
	/* A MOVE of a's block, pages [b, c), is about to be posted. */
	JOURNAL_ORDER,
	/* Staging is about to be emptied: what earlier orders moved is in rows, or was given
	 * back. An order that comes after it finds it empty. */
	JOURNAL_ZAPPED,
	/* An order of a's block moved the pages of mask c, the first of which is in slot b: the
	 * link has their bytes. For those to whom they belong too, should the owner's memory be
	 * gone. */
	JOURNAL_MOVED,
	/* What is out of [a, b) is about to be put back, in a child without an agent. Unless
	 * the next follows, it is to be done again. */
	JOURNAL_RESTORING,
	/* The child has [a, b), part of that or none. */
	JOURNAL_RESTORED,
	/* What was about to be registered is on record, as far as it is. */
	JOURNAL_ASKED,
	/* [a, b) may be registered or not: it is on record, and in doubt with all else, until
	 * JOURNAL_CALM. */
	JOURNAL_DOUBT,
	/* A FORK with the descriptor a was read just now, and its parent had one thread. */
	JOURNAL_ALONE,
};

enum journal_child {
	CHILD_ALONE = 1, /* its parent had one thread */
	/* Else an older service wrote it, and what had grown comes after it. */
	CHILD_GROWN_BEFORE = 2,
};

struct journal;

/* dir/journal.ID, in place of any that is there; dir NULL: in memory only. 0, -ENOMEM, -EMFILE,
 * ... */
int journal_new(struct journal **ret, const char *dir, uint64_t id);
/* The file of a service that is gone. The descriptor, for journal_adopt; -ENOENT: there is
 * none. -EBADMSG: it isn't this client's journal, or is damaged; -ESTALE: it went on in memory:
 * `why` tells in words. */
enum { JOURNAL_WHY = 160 };
int journal_open(const char *dir, uint64_t id, char why[JOURNAL_WHY]);
/* Are all that are in dir of this version? -EPROTONOSUPPORT: one isn't, and `why` names it. */
int journal_check_all(const char *dir, char *why, size_t size);
void journal_remove(const char *dir, uint64_t id); /* dir NULL is fine */
/* Of files whose client `wanted` doesn't want; NULL: all. */
void journal_remove_others(const char *dir, bool (*wanted)(void *arg, uint64_t id), void *arg);
/* Of a worker that is gone. Takes fd, on success. -EBADMSG: it is none, or damaged. */
int journal_adopt(struct journal **ret, int fd);
void journal_free(struct journal *j); /* closes it; NULL is fine */
int journal_fd(const struct journal *j);

/* Room for *count entries (in: as many as are wanted, 1 or more; out: as many as lie in one
 * piece): zeros, to be read into. Waits for memory. */
struct uffd_msg *journal_room(struct journal *j, unsigned *count);
/* So many entries were read into the room. */
void journal_keep(struct journal *j, unsigned count);
/* The same, and nobody needs them. */
void journal_discard(struct journal *j, unsigned count);

/* Nothing where j is NULL. */
void journal_add(struct journal *j, enum journal_event event, uint64_t a, uint64_t b,
	uint64_t c, uint32_t n);

/* Positions never come again. */
uint64_t journal_begin(const struct journal *j);
uint64_t journal_end(const struct journal *j);
/* The entry at a position in [begin, end). */
const struct uffd_msg *journal_at(const struct journal *j, uint64_t position);
/* A FORK there is about this descriptor from now on. */
void journal_set_fork(struct journal *j, uint64_t position, int ufd);
/* The rows say all before position. */
void journal_trim(struct journal *j, uint64_t position);
/* It became too long, and what it said before begin is lost: until the next trim nothing can be
 * told from it. */
bool journal_lost(const struct journal *j);

#endif
