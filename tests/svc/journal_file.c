/* The journal as a file: another service finds by name what was in it, or is told in words why
 * it can't believe it; and where there is no room it goes on in memory, and the file says so.
 */
#include "full_tmpfs.h"
#include "journal.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static char dir[] = "/tmp/larder-journal.XXXXXX";

static char *path_of(uint64_t id)
{
	static char path[256];
	snprintf(path, sizeof(path), "%s/journal.%llu", dir, (unsigned long long)id);
	return path;
}

static struct journal *some_journal(uint64_t id, unsigned entries)
{
	struct journal *j;

	assert_int_equal(journal_new(&j, dir, id), 0);
	for (uint64_t i = 0; i < entries; i++)
		journal_add(j, JOURNAL_ANSWER, i, ~i, i * 3, (uint32_t)i);
	return j;
}

static void expect_entries(const struct journal *j, unsigned entries)
{
	assert_int_equal(journal_end(j) - journal_begin(j), entries);
	for (uint64_t i = 0; i < entries; i++) {
		const struct uffd_msg *m = journal_at(j, journal_begin(j) + i);
		assert_int_equal(m->event, JOURNAL_ANSWER);
		assert_int_equal(m->arg.reserved.reserved1, i);
		assert_int_equal(m->arg.reserved.reserved2, ~i);
	}
}

static void expect_refused(uint64_t id, int error, const char *word)
{
	char why[JOURNAL_WHY];

	assert_int_equal(journal_open(dir, id, why), error);
	if (!strstr(why, word))
		fail_msg("\"%s\" doesn't say \"%s\"", why, word);
}

static void another_service_finds_it(void **state)
{
	char why[JOURNAL_WHY];
	struct journal *next;

	(void)state;
	for (unsigned entries = 0; entries < 5000; entries = entries * 3 + 1) {
		journal_free(some_journal(7, entries)); /* as when the service is killed */
		int fd = journal_open(dir, 7, why);
		assert_true(fd >= 0);
		assert_int_equal(journal_adopt(&next, fd), 0);
		expect_entries(next, entries);
		journal_free(next);
	}
	journal_remove(dir, 7);
	expect_refused(7, -ENOENT, "");
}

static void write_at(const char *path, off_t at, const void *bytes, size_t n)
{
	int fd = open(path, O_WRONLY);
	assert_int_equal(pwrite(fd, bytes, n, at), n);
	close(fd);
}

static void what_is_not_its_journal_is_refused(void **state)
{
	(void)state;
	journal_free(some_journal(1, 100));
	/* Another client's. */
	assert_int_equal(
		rename(path_of(1), strcat(strcpy((char[256]){0}, dir), "/journal.2")), 0);
	expect_refused(2, -EBADMSG, "another client's");
	/* Cut off: in the head, and in the ring. */
	const off_t cuts[] = {0, 8, 4096, 8191};
	for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
		journal_free(some_journal(3, 100));
		assert_int_equal(truncate(path_of(3), cuts[i]), 0);
		expect_refused(3, -EBADMSG, cuts[i] <= 8 ? "no journal" : "cut off or damaged");
	}
	journal_free(some_journal(3, 1000));
	assert_int_equal(truncate(path_of(3), 32768), 0);
	expect_refused(3, -EBADMSG, "cut off or damaged");
	/* Of something else. */
	journal_free(some_journal(4, 100));
	write_at(path_of(4), 0, "SQLite format 3", 16);
	expect_refused(4, -EBADMSG, "no journal");
	/* A size that it can't have, an event that there isn't. */
	journal_free(some_journal(4, 100));
	write_at(path_of(4), 8, &(uint64_t){60}, 8);
	expect_refused(4, -EBADMSG, "cut off or damaged");
	journal_free(some_journal(4, 100));
	write_at(path_of(4), 4096 + 50 * 32, &(uint8_t){0x77}, 1);
	expect_refused(4, -EBADMSG, "cut off or damaged");
	/* Others could have written to it; or it lies elsewhere. */
	journal_free(some_journal(5, 100));
	assert_int_equal(chmod(path_of(5), 0620), 0);
	expect_refused(5, -EBADMSG, "may write to");
	assert_int_equal(unlink(path_of(5)), 0);
	assert_int_equal(
		symlink(path_of(4), strcat(strcpy((char[256]){0}, dir), "/journal.5")), 0);
	expect_refused(5, -EBADMSG, "symbolic link");
	journal_remove_others(dir, NULL, NULL);
}

static bool is_odd(void *arg, uint64_t id)
{
	(void)arg;
	return id % 2;
}

static void others_are_removed(void **state)
{
	char path[256];

	(void)state;
	for (uint64_t id = 1; id <= 6; id++)
		journal_free(some_journal(id, 1));
	snprintf(path, sizeof(path), "%s/journal.mine", dir);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	journal_remove_others(dir, is_odd, NULL);
	for (uint64_t id = 1; id <= 6; id++)
		assert_int_equal(access(path_of(id), F_OK), id % 2 ? 0 : -1);
	journal_remove_others(dir, NULL, NULL);
	for (uint64_t id = 1; id <= 6; id++)
		assert_int_equal(access(path_of(id), F_OK), -1);
	assert_int_equal(unlink(path), 0); /* not ours */
}

static void without_room_it_goes_on_in_memory(void **state)
{
	struct journal *next;
	struct stat st;

	(void)state;
	struct journal *j = some_journal(1, 100), *second;
	tmpfs_fill(dir);
	int number = journal_fd(j);
	for (uint64_t i = 100; i < 3000; i++)
		journal_add(j, JOURNAL_ANSWER, i, ~i, i * 3, (uint32_t)i);
	expect_entries(j, 3000);
	/* Another worker knows the number alone. */
	assert_int_equal(journal_fd(j), number);
	assert_int_equal(journal_adopt(&next, dup(number)), 0);
	expect_entries(next, 3000);
	journal_free(next);
	/* Another service doesn't take the old entries for all. */
	expect_refused(1, -ESTALE, "went on in memory");
	assert_int_equal(stat(path_of(1), &st), 0);
	assert_true(st.st_blocks <= 8); /* it leaves its room to others */
	tmpfs_fill(dir);
	/* A new one has no file, not even a piece of one. */
	assert_int_equal(journal_new(&second, dir, 2), 0);
	journal_add(second, JOURNAL_ANSWER, 0, ~0ULL, 0, 0);
	expect_entries(second, 1);
	expect_refused(2, -ENOENT, "");
	journal_free(second);
	journal_free(j);
}

int main(void)
{
#define T(f) cmocka_unit_test(f)
	const struct CMUnitTest tests[] = {
		T(another_service_finds_it),
		T(what_is_not_its_journal_is_refused),
		T(others_are_removed),
		T(without_room_it_goes_on_in_memory),
	};
	if (!tmpfs_of(dir, "1m")) {
		fputs("skipped: needs root\n", stderr);
		return getenv("MUST_WORK") ? 1 : 77;
	}
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	tmpfs_remove(dir);
	return failed;
}
