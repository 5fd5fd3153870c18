/* Points by name at which a test can make the service wait, so that a race that is narrow on
 * any real machine becomes wide. Chosen by the environment of larderd, for tests only:
 *
 *   LARDER_POINTS=NAME=MICROSECONDS[:ONE_IN][,...]
 *
 * At NAME the thread sleeps so long, each time or one in so many times at random. Or
 *
 *   LARDER_POINTS=NAME=/PATH[,...]
 *
 * While there is a file PATH, the next thread that comes to NAME renames it to PATH.at, and
 * waits there until that file is removed: so a test knows that the service is at this point,
 * and decides for how long. All others pass.
 *
 *   LARDER_POINTS=kill=/DIR[,...]
 *
 * While there is a symbolic link DIR/NAME to a number N, the thread that passes NAME as the
 * N-th since then in this process renames it to NAME.at, and the process is killed. The next
 * worker finds no link, and lives. (A link, since looking at one takes no descriptor: the table
 * of these is the keeper's too.)
 *
 * Where nothing is chosen a point costs a load and a branch. Set once, before any thread
 * starts. */
#ifndef LARDER_POINTS_H
#define LARDER_POINTS_H

#include <stdbool.h>

#define POINTS(X)                                                                              \
	/* attach */                                                                           \
	X(accepted, "a connection was accepted")                                               \
	X(hello, "HELLO was read, nothing is answered")                                        \
	X(welcomed, "WELCOME was sent")                                                        \
	X(ready, "READY was read: the userfaultfd is ours, its program isn't")                 \
	X(proved, "whose memory it is was proved, the program isn't on record")                \
	X(recorded, "a program is on record, nobody looks after it")                           \
	X(attached, "a program was taken over")                                                \
	X(join, "a forked child's agent is ready, its child isn't searched")                   \
	X(joined, "a forked child's agent is on record, it isn't told")                        \
	X(joined_told, "and was told")                                                         \
	/* evict */                                                                            \
	X(adopt, "a program's mappings were read, none is registered yet")                     \
	X(registered, "a mapping was registered, and isn't on record")                         \
	X(opened, "staging takes pages, none was ordered")                                     \
	X(move, "a MOVE order is about to be posted")                                          \
	X(order_told, "a MOVE order is in the journal, and isn't posted")                      \
	X(posted, "an order was posted, its agent isn't woken")                                \
	X(order_posted, "a MOVE order was posted, and isn't answered")                         \
	X(revoked, "a late MOVE order was revoked, nothing is known of its pages")             \
	X(moved, "a MOVE order was answered, its pages aren't on record yet")                  \
	X(held, "pages are HELD, the gate isn't free")                                         \
	X(unshare, "an order to unshare was answered")                                         \
	X(hold, "pages are HELD, the gate is free, nothing is packed")                         \
	X(packed, "a page was packed, and isn't in the store")                                 \
	X(put, "a page is in the store, and nothing names it")                                 \
	X(stored, "a block's pages are in the store, no row names them")                       \
	X(commit, "rows are committed, nothing is published")                                  \
	X(published, "pages are STORED in one client")                                         \
	X(returned, "a page that could not be stored was given back")                          \
	X(zap, "pages are STORED, staging is not zapped yet")                                  \
	X(zap_told, "the journal says that staging is done with, no ZAP was posted")           \
	X(zap_posted, "a ZAP order was posted, and isn't answered")                            \
	X(zapped, "staging is empty")                                                          \
	/* refault */                                                                          \
	X(read, "messages were read, none is applied yet")                                     \
	X(answer, "a fault is about to be answered")                                           \
	X(fetch, "a page was looked up and decoded, and isn't copied yet")                     \
	X(copied, "a page was copied, and isn't RESIDENT yet")                                 \
	X(zeroed, "a hole was filled with zeros, and isn't RESIDENT yet")                      \
	/* events */                                                                           \
	X(read_fork, "a FORK was read, and nothing was done about it")                         \
	X(read_remap, "a REMAP was read")                                                      \
	X(read_remove, "a REMOVE was read")                                                    \
	X(read_unmap, "an UNMAP was read")                                                     \
	X(remap, "a REMAP is about to be applied")                                             \
	X(remapped, "a REMAP was applied")                                                     \
	X(remove, "a REMOVE is about to be applied")                                           \
	X(removed, "a REMOVE was applied")                                                     \
	X(unmap, "an UNMAP is about to be applied")                                            \
	X(unmapped, "an UNMAP was applied")                                                    \
	X(fork, "a FORK was read, the child has no pages on record yet")                       \
	X(fork_recorded, "the child is on record, the journal doesn't say whose it is")        \
	X(fork_told, "the journal says whose it is")                                           \
	X(fork_copied, "the child has its parent's pages, and nobody looks after it")          \
	X(kept, "the service manager has a child's userfaultfd, nobody looks after the child") \
	X(forked, "a FORK was applied")                                                        \
	X(apply, "an event was applied")                                                       \
	X(waits, "an event was read that waits for another")                                   \
	X(flush_told, "the journal says that what waits is applied; it isn't")                 \
	X(calm_told, "the journal says that what was aside is forgotten; it isn't")            \
	X(settle, "the kernel is about to be asked what an address is")                        \
	X(settle_told, "the kernel's answer is in the journal, and isn't applied")             \
	X(gone_told, "the journal says that a page is gone; it isn't")                         \
	X(birth, "a forked child is about to be asked where it has its pages")                 \
	X(loop, "the main loop is about to look at an event")                                  \
	X(birth_asked, "a forked child was asked; some of its answers are in the journal")     \
	X(born, "its birth is in the journal; what was read before isn't applied")             \
	/* journal */                                                                          \
	X(entry, "an entry of ours was filled, and doesn't count yet")                         \
	X(grow, "a journal's larger ring was filled, and isn't the ring yet")                  \
	X(trim, "a journal begins later, what was before isn't zeros yet")                     \
	/* index */                                                                            \
	X(begun, "a transaction has begun")                                                    \
	X(rows, "a block's rows were written")                                                 \
	X(client_row, "all rows of a client were written")                                     \
	X(written, "all rows were written, nothing is committed")                              \
	X(committed, "a transaction is committed, what it let go of isn't free")               \
	X(recycled, "what it let go of is free, no journal is trimmed")                        \
	X(trimmed, "a client's journal was trimmed, others' aren't")                           \
	X(buried, "a dead leaf's row is gone, the leaf isn't")                                 \
	X(shrink, "unused pages of the index were given up, the file is as long")              \
	X(shrunk, "the index's file was cut")                                                  \
	/* store */                                                                            \
	X(compact_moved, "a segment's blobs were moved, readers may look at the old ones")     \
	X(compact_quiet, "nobody looks at them, the segment isn't given back")                 \
	X(compacted, "the segment was given back")                                             \
	X(repacked, "a blob was packed anew, its old bytes are there")                         \
	X(repack_done, "the old bytes are free")                                               \
	X(scrub, "pages are about to be looked at")                                            \
	X(scrubbed, "pages were looked at")                                                    \
	/* the end of a program */                                                             \
	X(ended, "a program has ended, it is on record")                                       \
	X(forget, "its record is gone, its descriptors are open")                              \
	X(forgotten, "its rows are gone")                                                      \
	/* giving back */                                                                      \
	X(release, "a program is released, its record doesn't say so")                         \
	X(released, "its record says so, nothing is back")                                     \
	X(ask, "a region is about to be unregistered, the journal says so")                    \
	X(unregistered, "it was unregistered, the journal doesn't say so")                     \
	X(rung, "a shim's request is about to be answered")                                    \
	X(replied, "a shim's request was answered, it may not go on yet")                      \
	X(reopened, "it went on, its bell isn't closed again")                                 \
	X(evict_again, "a released program is taken again, its record doesn't say so")         \
	/* the end of the service */                                                           \
	X(end, "it was told to end, nobody else knows")                                        \
	X(end_told, "the state says so, and nothing is back")                                  \
	X(all_back, "everything was given back")                                               \
	X(goodbye, "a client was told that the service ends")                                  \
	X(closing, "no client is on record, the store is there")                               \
	X(closed, "the store is removed")                                                      \
	/* an upgrade in place: of the keeper, but for leave_* */                              \
	X(upgrade, "it was asked for, nothing was looked at")                                  \
	X(upgrade_checked, "the other binary can take over, the worker doesn't know")          \
	X(leave, "the worker was told to leave")                                               \
	X(leave_flushed, "its rows are written, it serves")                                    \
	X(leave_now, "it accepts nobody, and is about to end")                                 \
	X(upgrade_alone, "the worker is gone, nothing is executed")                            \
	X(upgrade_open, "descriptors outlive an exec from now on")                             \
	X(upgrade_begun, "the other binary runs, and has looked at nothing")                   \
	X(upgrade_taken, "it has the state, and no worker yet")                                \
	/* recovery */                                                                         \
	X(recover, "strange descriptors were closed, the store isn't open")                    \
	X(recover_store, "the store is open")                                                  \
	X(recover_clients, "the clients were found")                                           \
	X(recover_rows, "the rows of one client were read")                                    \
	X(recover_all_rows, "the rows of all were read, no journal was")                       \
	X(recover_closed, "a client's late MOVEs fail from now on")                            \
	X(recover_entry, "an entry of a journal was applied again")                            \
	X(recover_journal, "a journal was applied again")                                      \
	X(recover_seen, "what a client has was looked at")                                     \
	X(recover_dead, "what nobody has is dead, its rows are there")                         \
	X(recover_clean, "rows that nobody needs are gone")                                    \
	X(recover_threads, "the threads run, nobody is woken")                                 \
	X(recover_wake, "a client is watched, whoever waits in it isn't woken")                \
	X(recover_woken, "whoever waits in a client was woken")                                \
	X(recover_serves, "all are woken, the keeper doesn't know that we serve")

enum point {
#define X(name, help) POINT_##name,
	POINTS(X)
#undef X
		POINT_COUNT
};

/* -EINVAL: names the place in `message`. NULL or "": nothing is chosen. */
int points_choose(const char *text, char *message, unsigned size);

extern bool points_chosen; /* read-only after the start */
void points_act(enum point p);

static inline void point(enum point p)
{
	if (__builtin_expect(points_chosen, false))
		points_act(p);
}

#endif
