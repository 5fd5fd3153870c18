/* What another service makes of clients that nobody has a userfaultfd of, and of FORKs whose
 * descriptors died with the one before: they are as those of a program that has just ended, no
 * number means another client's, and what was told stays told. */
#include "comeback.h"
#include "fdstore.h"
#include "full_tmpfs.h"
#include "journal.h"
#include "process.h"
#include "state.h"
#include "uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include <cmocka.h>

enum { PARENT = 1, TOLD = 2, UNTOLD = 3, GONE = 4, OTHER = 5 };

static char dir[] = "/tmp/larder-comeback.XXXXXX";
static int device;

static struct journal *add_client(struct state *s, uint64_t id, uint64_t parent, int uffd)
{
	struct state_record r = {.parent = parent, .uffd = uffd, .journal = 1000 + (int)id};
	struct journal *j;

	atomic_init(&r.id, id);
	assert_non_null(state_add(s, &r));
	assert_int_equal(journal_new(&j, dir, id), 0);
	return j;
}

static void read_fork(struct journal *j, int ufd)
{
	unsigned count = 1;
	struct uffd_msg *m = journal_room(j, &count);

	m->arg.fork.ufd = (__u32)ufd;
	m->event = UFFD_EVENT_FORK;
	journal_keep(j, 1);
}

static struct state_record *find(struct state *s, uint64_t id)
{
	for (uint32_t i = 0; i < atomic_load(&s->top); i++)
		if (atomic_load(&s->record[i].id) == id)
			return &s->record[i];
	return NULL;
}

static void expect_dead(int fd)
{
	assert_true(uffd_is_one(fd));
	assert_false(uffd_alive(fd));
}

/* As its end was told: FORKs of 51 and 52 that were applied, and more that weren't. */
static struct fdstore none; /* nothing was kept */

static void leave(void)
{
	struct state *s;
	bool left = true;

	assert_int_equal(comeback_open(&s, dir, false, &none, &left), 0);
	assert_false(left);
	struct journal *j = add_client(s, PARENT, 0, 50);
	read_fork(j, 51);
	read_fork(j, 52);
	/* Applied in another order than read. */
	journal_add(j, JOURNAL_CHILD, 52, GONE, 0, 0);
	journal_add(j, JOURNAL_CHILD, 51, TOLD, 0, 1);
	journal_free(add_client(s, TOLD, PARENT, 51));
	read_fork(j, 53); /* recorded, and not told of */
	journal_free(add_client(s, UNTOLD, PARENT, 53));
	read_fork(j, 52); /* the number of GONE again */
	read_fork(j, 54);
	/* The same number, of another client's child. */
	journal_free(add_client(s, OTHER, TOLD, 53));
	journal_free(j);
	/* Of one that was never recorded. */
	assert_int_equal(journal_new(&j, dir, 99), 0);
	journal_free(j);
	state_unmap(s);
}

static int fork_at(const struct journal *j, uint64_t position)
{
	assert_int_equal(journal_at(j, position)->event, UFFD_EVENT_FORK);
	return (int)journal_at(j, position)->arg.fork.ufd;
}

static int kept_uffd(struct state_record *r)
{
	int fd = (int)ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);

	assert_true(fd >= 0);
	assert_int_equal(uffd_api(fd), 0);
	r->uffd_inode = descriptor_inode(fd);
	return fd;
}

/* A child that was told of, one that another file was kept of, and one that is gone. */
static void what_was_kept_is_taken(void **state)
{
	struct fdstore kept = {.item = calloc(3, sizeof(*kept.item)), .count = 3};
	char why[STATE_WHY];
	struct state *s;

	(void)state;
	leave();
	assert_int_equal(state_load(&s, dir, why), 0);
	int told = kept_uffd(find(s, TOLD)), other = kept_uffd(find(s, OTHER));
	find(s, OTHER)->uffd_inode++;
	int gone = dup(told);
	kept.item[0] = (struct fdstore_item){TOLD, told};
	kept.item[1] = (struct fdstore_item){OTHER, other};
	kept.item[2] = (struct fdstore_item){GONE, gone};
	atomic_store(&s->numbers_gone, 1);
	comeback_forget_numbers(s);
	assert_int_equal(comeback_fetch(s, dir, device, &kept), 0);

	assert_int_equal(find(s, TOLD)->uffd, told);
	assert_true(uffd_alive(told));
	expect_dead(find(s, OTHER)->uffd);
	assert_int_equal(fcntl(other, F_GETFD), -1);
	assert_int_equal(fcntl(gone, F_GETFD), -1);
	assert_int_equal(kept.count, 0);
	close(told);
	state_unmap(s);
}

static void what_had_no_agent_is_as_if_it_had_ended(void **state)
{
	char why[STATE_WHY], path[256];
	struct state *s;
	struct journal *j;

	(void)state;
	leave();
	assert_int_equal(state_load(&s, dir, why), 0);
	atomic_store(&s->numbers_gone, 1);
	comeback_forget_numbers(s);
	assert_int_equal(comeback_fetch(s, dir, device, &none), 0);
	assert_int_equal(atomic_load(&s->numbers_gone), 0);

	const uint64_t kept[] = {PARENT, TOLD, OTHER};
	for (size_t i = 0; i < 3; i++) {
		expect_dead(find(s, kept[i])->uffd);
		for (size_t k = 0; k < i; k++)
			assert_int_not_equal(find(s, kept[i])->uffd, find(s, kept[k])->uffd);
	}
	/* Nothing could ever tell what it was forked with, and nobody asks. */
	assert_null(find(s, UNTOLD));
	snprintf(path, sizeof(path), "%s/journal.%d", dir, (int)UNTOLD);
	assert_int_equal(access(path, F_OK), -1);
	snprintf(path, sizeof(path), "%s/journal.99", dir);
	assert_int_equal(access(path, F_OK), -1);

	assert_int_equal(journal_adopt(&j, dup(find(s, PARENT)->journal)), 0);
	assert_int_equal(journal_end(j) - journal_begin(j), 7);
	assert_int_equal(fork_at(j, 0), 51); /* told of: the pair is still one */
	assert_int_equal(fork_at(j, 1), 52);
	for (uint64_t at = 4; at < 7; at++) {
		expect_dead(fork_at(j, at));
		assert_false(state_has_fd(s, fork_at(j, at)));
	}
	journal_free(j);
	state_unmap(s);
}

/* A table whose clients are all gone: begun afresh, and with the mount that it was about. */
static void nobody_to_go_on_with(void **state)
{
	char path[256];
	struct state *s;
	bool left = true;

	(void)state;
	leave();
	char why[STATE_WHY];
	assert_int_equal(state_load(&s, dir, why), 0);
	s->mounted = 1;
	state_unmap(s);
	assert_int_equal(comeback_open(&s, dir, false, &none, &left), 0);
	assert_false(left);
	assert_false(state_any(s));
	assert_int_equal(s->mounted, 1);
	snprintf(path, sizeof(path), "%s/journal.%d", dir, (int)PARENT);
	assert_int_equal(access(path, F_OK), -1);
	comeback_close(s, dir);
	snprintf(path, sizeof(path), "%s/" STATE_FILE, dir);
	assert_int_equal(access(path, F_OK), -1);
}

int main(void)
{
#define T(f) cmocka_unit_test(f)
	const struct CMUnitTest tests[] = {
		T(what_was_kept_is_taken),
		T(what_had_no_agent_is_as_if_it_had_ended),
		T(nobody_to_go_on_with),
	};
	device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (device < 0 || !tmpfs_of(dir, "4m")) {
		fputs("skipped: needs root, and userfaultfd\n", stderr);
		return getenv("MUST_WORK") ? 1 : 77;
	}
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	tmpfs_remove(dir);
	return failed;
}
