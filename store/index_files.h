/* The index as files, without SQLite: which there are, whose they are, in what order they go.
 *
 *   index.db       the database           index.db-wal      its log
 *   index.db-shm   the log's own index    index.db-journal  while the database is made
 *   index.run      a page that is mapped: the run's number, and how much it has committed
 *   index.db-gone  index.db, once it is given up
 *
 * A damaged database doesn't always show: SQLite ends a log at its first damaged frame, and so
 * finds, without an error, what was true some transactions ago. So index.run has what no
 * transaction can roll back, and says which segments the index names. */
#ifndef LARDER_STORE_INDEX_FILES_H
#define LARDER_STORE_INDEX_FILES_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "store.h"

#define INDEX_FILE "index.db"

/* The segment file: no other one has both, in any run in this tmpfs. */
struct index_segments {
	uint64_t inode, born; /* born: nanoseconds */
};

/* What index.run holds. Only `commits` changes: it is stored after each commit, so the database
 * has as many, or, if a kill came in between, one more. */
struct index_run {
	char magic[8];
	uint64_t id;
	struct index_segments segments;
	_Atomic uint64_t commits;
};

/* Makes index.run for a new run, in place of one that is there. dirfd: borrowed. */
int index_run_new(int dirfd, const struct index_segments *g, struct index_run **ret);
/* Maps the one that is there. -ENOENT; -EBADMSG: it is none. */
int index_run_map(int dirfd, struct index_run **ret);
void index_run_unmap(struct index_run *run); /* NULL is fine */

/* Is what lies in the index's place, if anything, of an earlier run and so to be replaced? 0:
 * yes. -EISDIR: a directory. -EEXIST: no index of ours. -EPROTONOSUPPORT: of a newer version.
 * Another error: it can't be read. */
int index_check(int dirfd);

/* Of an earlier run, after index_check: INDEX_GONE: given up, and not all removed yet.
 * INDEX_CUT: index.db is missing or empty, but what goes with it is not. */
enum index_left { INDEX_NONE, INDEX_GONE, INDEX_CUT, INDEX_THERE };
enum index_left index_left(int dirfd);

/* The files of an earlier run, in two steps: once index_give_up has returned, a process killed
 * at any instruction leaves what index_left knows as given up, until index_remove is through.
 * Between them, the segments are removed. */
void index_give_up(int dirfd);
void index_remove(int dirfd);

/* Makes SQLite build the log's index anew from the log, whose frames have checksums, even if
 * another process has it open. No connection of this process may be open. */
void index_distrust_shm(int dirfd);

/* The name of each of the index's files, NULL = no more. */
const char *index_file_name(unsigned i);

#endif
