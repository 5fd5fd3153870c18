/* Reopening: what an earlier run has left is this one's.
 *
 *   index.db --every row--> rows of the handle table, all lost, with a reference of the store's
 *   warm.seg --store_rescan--> their places; what no row has is gone
 *   the caller reads the index, and takes references for what it keeps
 *   store_reopen_finish: the store's references go; what nobody has taken is dead
 *
 * Nothing is written before the whole index was read and found right. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "must.h"
#include "store_private.h"

struct naming {
	struct store *s;
	char *why;
};

static int name_leaf(void *arg, const struct index_leaf *l)
{
	const struct naming *n = arg;

	for (unsigned i = 0; i < STORE_LEAF_PAGES; i++) {
		const struct index_entry *e = &l->entries[i];
		if (e->blob == BLOB_NONE)
			continue;
		int r = blobs_name(&n->s->blobs, e->blob, e->check);
		if (r == -EBADMSG)
			snprintf(n->why, STORE_WHY,
				"index.db, table leaf, row %llu: its blob %u is another page "
				"in "
				"a row before",
				(unsigned long long)l->id, e->blob);
		if (r < 0)
			return r;
	}
	return 0;
}

static int bad(char why[STORE_WHY], const char *what)
{
	snprintf(why, STORE_WHY, "%s", what);
	return -EBADMSG;
}

static int adopt_segments(struct store *s, const struct store_options *opt, char why[STORE_WHY])
{
	int r = segments_reinit(&s->segments, s->dirfd, STORE_SEGMENTS_FILE, opt->memory_limit);

	if (r == -ENOENT)
		return bad(why, "warm.seg is missing, and index.db is there");
	return r == -EBADMSG ? bad(why, "warm.seg is no file of Larder's") : r;
}

/* -ENODATA: there is no index yet. */
static int adopt(struct store *s, const struct store_options *opt, char why[STORE_WHY])
{
	struct naming naming = {s, why};
	struct index_segments id;

	int r = blobs_init(&s->blobs);
	if (r == 0)
		r = adopt_segments(s, opt, why);
	if (r == 0)
		r = store_identify(s, &id);
	if (r == 0)
		r = index_reopen(&s->index, s->dirfd, opt->dir, &id, name_leaf, &naming, why);
	if (r == 0)
		r = store_rescan(s, opt->stamp);
	if (r < 0)
		return r;
	s->adopted = atomic_load(&s->blobs.top);
	s->adopting = true;
	return 0;
}

static void drop_parts(struct store *s)
{
	index_close(s->index);
	s->index = NULL;
	segments_done(&s->segments);
	blobs_done(&s->blobs);
}

static int reopen(struct store *s, const struct store_options *opt, char why[STORE_WHY])
{
	enum index_left left = index_left(s->dirfd);

	if (left == INDEX_THERE) {
		int r = adopt(s, opt, why);
		if (r != -ENODATA)
			return r;
		drop_parts(s);
	}
	if (left == INDEX_CUT)
		return bad(why, "index.db is missing or empty, and index.db-wal is there");
	if (left != INDEX_GONE && segments_any(s->dirfd, STORE_SEGMENTS_FILE))
		return bad(why, "index.db is missing or empty, and warm.seg isn't");
	int r = store_make(s, opt);
	s->adopting = r == 0;
	return r;
}

int store_reopen(struct store **ret, const struct store_options *opt, char why[STORE_WHY])
{
	struct store *s;

	must(opt->stamp < STORE_STAMP_MAX);
	why[0] = '\0';
	int r = store_new(&s, opt);
	if (r < 0)
		return r;
	r = reopen(s, opt, why);
	if (r < 0) {
		if (r != -EBADMSG)
			why[0] = '\0';
		store_leave(s);
		return r;
	}
	*ret = s;
	return 0;
}

/* So many rows are looked at before the lock is free for others once. */
enum { FINISH_BATCH = 1024 };

static void finish_some_locked(struct store *s, blob_t from, blob_t to)
{
	for (blob_t b = from; b <= to; b++) {
		if (blobs_locate(&s->blobs, b) == WHERE_NONE)
			blob_list_push(&s->blobs, &s->blobs.free, b);
		else
			blobs_unref(&s->blobs, b);
	}
}

void store_reopen_finish(struct store *s)
{
	if (!s->adopting)
		return;
	uint32_t adopted = s->adopted;
	for (blob_t b = 1; b <= adopted; b += FINISH_BATCH) {
		pthread_mutex_lock(&s->lock);
		finish_some_locked(
			s, b, adopted - b < FINISH_BATCH ? adopted : b + FINISH_BATCH - 1);
		pthread_mutex_unlock(&s->lock);
	}
	s->adopted = 0;
	s->adopting = false;
}

int store_files(const char *dir, struct store_file ret[STORE_FILES])
{
	const char *name = STORE_SEGMENTS_FILE;
	struct stat st;
	int n = 0;

	int dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dirfd < 0)
		return -errno;
	for (unsigned i = 0; name && n < STORE_FILES; name = index_file_name(i++))
		if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
			ret[n++] = (struct store_file){st.st_dev, st.st_ino};
	close(dirfd);
	return n;
}

bool store_is_lost(const struct store *s, blob_t b)
{
	return (blobs_locate(&s->blobs, b) & WHERE_LOST) != 0;
}

/* ---- reading the index ---- */

int store_each_client(struct store *s, store_client_fn *found, void *arg, char why[STORE_WHY])
{
	why[0] = '\0';
	return index_each_client(s->index, found, arg, why);
}

int store_each_block(
	struct store *s, uint64_t client, store_block_fn *found, void *arg, char why[STORE_WHY])
{
	why[0] = '\0';
	return index_each_block(s->index, client, found, arg, why);
}

struct leaves {
	struct naming naming;
	store_leaf_fn *found;
	void *arg;
};

static int pass_leaf(void *arg, const struct index_leaf *l)
{
	const struct leaves *to = arg;
	const struct store *s = to->naming.s;
	blob_t entries[STORE_LEAF_PAGES];

	for (unsigned i = 0; i < STORE_LEAF_PAGES; i++) {
		entries[i] = l->entries[i].blob;
		/* Somebody has written to the index since. */
		if (entries[i] != BLOB_NONE &&
			blobs_locate(&s->blobs, entries[i]) == WHERE_NONE) {
			snprintf(to->naming.why, STORE_WHY,
				"index.db, table leaf, row %llu: there is no blob %u",
				(unsigned long long)l->id, entries[i]);
			return -EBADMSG;
		}
	}
	const struct store_leaf leaf = {
		.id = l->id, .clock = l->clock, .pages = l->pages, .entries = entries};
	return to->found(to->arg, &leaf);
}

int store_each_leaf(struct store *s, store_leaf_fn *found, void *arg, char why[STORE_WHY])
{
	struct leaves to = {{s, why}, found, arg};

	why[0] = '\0';
	return s->adopting ? index_each_leaf(s->index, pass_leaf, &to, why) : -EINVAL;
}

int store_find_leaf(
	struct store *s, uint64_t leaf, store_leaf_fn *found, void *arg, char why[STORE_WHY])
{
	struct leaves to = {{s, why}, found, arg};

	why[0] = '\0';
	return s->adopting ? index_find_leaf(s->index, leaf, pass_leaf, &to, why) : -EINVAL;
}

void store_last_ids(struct store *s, uint64_t *ret_client, uint64_t *ret_leaf)
{
	index_last_ids(s->index, ret_client, ret_leaf);
}
