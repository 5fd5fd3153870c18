/* A tmpfs that is full: clean errors, no signal, and a way back. It is a small one of our own,
 * in a mount namespace of our own. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "segments.h"
#include "store_world.h"

enum { TMPFS_SIZE = 16 << 20, MAX = TMPFS_SIZE / STORE_PAGE };

static char mount_point[64];

static void open_in_small_tmpfs(struct world *w)
{
	struct store_options opt = {.dir = mount_point};

	strcpy(w->dir, mount_point);
	assert_int_equal(store_open(&w->s, &opt), 0);
	assert_int_equal(store_scratch_new(&w->x), 0);
}

static void close_world(struct world *w)
{
	store_check(w->s);
	store_close(w->s);
	store_scratch_free(w->x);
}

/* Takes all that is left of the tmpfs. */
static void take_the_rest(void)
{
	static const char block[STORE_PAGE] = {1};
	char path[128];

	snprintf(path, sizeof(path), "%s/ballast", mount_point);
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	while (write(fd, block, sizeof(block)) > 0)
		;
	assert_int_equal(errno, ENOSPC);
	close(fd);
}

static void give_it_back(void)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/ballast", mount_point);
	assert_int_equal(unlink(path), 0);
}

static int commit_leaf(struct world *w, uint64_t leaf, const blob_t *entries)
{
	int r = store_txn_begin(w->s);

	if (r < 0)
		return r;
	(void)store_index_leaf(w->s, leaf, 1, entries); /* its error decides the commit */
	return store_txn_commit(w->s);
}

static void puts_stop_while_the_index_can_still_commit(void **state)
{
	static blob_t b[MAX];
	struct world w;
	unsigned n = 0;
	int r;

	(void)state;
	open_in_small_tmpfs(&w);
	while (n < MAX && (r = world_try_put(&w, PAGE_NOISE, n, &b[n])) == 0)
		n++;
	assert_int_equal(r, -ENOSPC);
	assert_in_range(n, MAX / 2, MAX - 1);
	for (unsigned i = 0; i + STORE_LEAF_PAGES <= n; i += STORE_LEAF_PAGES)
		assert_int_equal(commit_leaf(&w, 1 + i, b + i), 0);

	/* And from there the way back is open. */
	for (unsigned i = 0; i < n; i++)
		if (i % 2)
			store_unref(w.s, b[i]);
	world_commit_nothing(&w);
	assert_int_equal(store_compact(w.s, 5, UINT64_MAX), 0);
	for (unsigned i = 0; i < n; i += 2)
		world_expect(&w, b[i], PAGE_NOISE, i);
	assert_int_equal(world_try_put(&w, PAGE_NOISE, 1, &b[1]), 0);
	close_world(&w);
}

static void others_can_fill_it_without_a_signal(void **state)
{
	static blob_t b[MAX];
	struct world w;
	unsigned n;

	(void)state;
	open_in_small_tmpfs(&w);
	b[0] = world_put(&w, PAGE_NOISE, 0);
	take_the_rest();
	/* The open segment's step has its memory; the next one hasn't. */
	for (n = 1; n < MAX && world_try_put(&w, PAGE_NOISE, n, &b[n]) == 0; n++)
		;
	assert_int_equal(n, SEGMENT_STEP / (BLOB_HEADER + STORE_PAGE));
	for (unsigned i = 0; i < n; i++)
		world_expect(&w, b[i], PAGE_NOISE, i);
	give_it_back();
	b[n] = world_put(&w, PAGE_NOISE, n);
	close_world(&w);
}

static void failed_commit_is_rolled_back_and_heals(void **state)
{
	static blob_t entries[STORE_LEAF_PAGES];
	struct world w;
	int r = 0;

	(void)state;
	open_in_small_tmpfs(&w);
	for (unsigned i = 0; i < STORE_LEAF_PAGES; i++)
		entries[i] = world_put(&w, PAGE_FILL, i);
	blob_t dead = world_put(&w, PAGE_NOISE, 1);
	uint64_t before = world_stats(&w).segment_bytes;
	store_unref(w.s, dead);
	take_the_rest();
	for (uint64_t leaf = 1; leaf < 1000 && r == 0; leaf++) {
		r = commit_leaf(&w, leaf, entries);
		if (r == 0) /* the log had a block left: leave another blob to free */
			store_unref(w.s, world_put(&w, PAGE_FILL, 1));
	}
	assert_int_equal(r, -ENOSPC);
	store_check(w.s);
	assert_int_equal(world_stats(&w).segment_bytes, before);

	give_it_back();
	for (uint64_t leaf = 1; leaf < 10; leaf++)
		assert_int_equal(commit_leaf(&w, leaf, entries), 0);
	for (unsigned i = 0; i < STORE_LEAF_PAGES; i++)
		world_expect(&w, entries[i], PAGE_FILL, i);
	close_world(&w);
}

static void too_small_a_tmpfs_is_refused(void **state)
{
	struct store_options opt = {.dir = mount_point};
	struct store *s = NULL;

	(void)state;
	assert_int_equal(mount("larder-test", mount_point, "tmpfs", 0, "size=4M"), 0);
	assert_int_equal(store_open(&s, &opt), -ENOSPC);
	assert_null(s);
	assert_int_equal(umount(mount_point), 0);
}

static int skip_all(const char *why)
{
	printf("skipped: %s: %s\n", why, strerror(errno));
	return getenv("MUST_WORK") ? 1 : 77;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(puts_stop_while_the_index_can_still_commit),
		cmocka_unit_test(others_can_fill_it_without_a_signal),
		cmocka_unit_test(failed_commit_is_rolled_back_and_heals),
		cmocka_unit_test(too_small_a_tmpfs_is_refused),
	};
	char size[32];

	if (unshare(geteuid() == 0 ? CLONE_NEWNS : CLONE_NEWUSER | CLONE_NEWNS) < 0)
		return skip_all("unshare");
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return skip_all("making mounts private");
	strcpy(mount_point, "/dev/shm/larder-test-XXXXXX");
	if (!mkdtemp(mount_point))
		return skip_all("mkdtemp");
	snprintf(size, sizeof(size), "size=%d", TMPFS_SIZE);
	int r = 1;
	if (mount("larder-test", mount_point, "tmpfs", 0, size) < 0)
		r = skip_all("mounting a tmpfs");
	else
		r = cmocka_run_group_tests(tests, NULL, NULL);
	(void)umount(mount_point);
	(void)rmdir(mount_point);
	return r;
}
