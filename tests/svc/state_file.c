/* The table of clients as a file: another service finds every record whole, whenever the one
 * before was killed, or is told in words why it can't believe it. */
#include "full_tmpfs.h"
#include "state.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

static char dir[] = "/tmp/larder-state.XXXXXX";
static char path[256];

static struct state_record some_record(uint64_t id, bool joined)
{
	struct state_record r = {.parent = id / 2,
		.family = id / 3,
		.uffd = (int)id + 100,
		.journal = (int)id + 200,
		.pid = (int)id + 1000,
		.agent_pid = (int)id + 2000,
		.agent_inode = id * 7,
		.staging = id << 21};

	atomic_init(&r.id, id);
	atomic_init(&r.joined, joined);
	snprintf(r.exe, sizeof(r.exe), "/usr/bin/program-%llu", (unsigned long long)id);
	return r;
}

static void expect_record(const struct state_record *r, uint64_t id)
{
	const struct state_record want = some_record(id, true);

	assert_int_equal(atomic_load(&r->id), id);
	assert_int_equal(r->parent, want.parent);
	assert_int_equal(r->uffd, want.uffd);
	if (!atomic_load(&r->joined))
		return;
	assert_int_equal(r->pid, want.pid);
	assert_int_equal(r->agent_inode, want.agent_inode);
	assert_string_equal(r->exe, want.exe);
}

static struct state *new_with(unsigned records)
{
	struct state *s;

	assert_int_equal(state_new(&s, dir), 0);
	for (uint64_t id = 1; id <= records; id++) {
		const struct state_record r = some_record(id, id % 2);
		assert_non_null(state_add(s, &r));
	}
	return s;
}

static void expect_refused(int error, const char *word)
{
	char why[STATE_WHY];
	struct state *s;

	assert_int_equal(state_load(&s, dir, why), error);
	if (!strstr(why, word))
		fail_msg("\"%s\" doesn't say \"%s\"", why, word);
}

static void another_service_finds_it(void **state)
{
	char why[STATE_WHY];
	struct state *s;

	(void)state;
	unlink(path);
	expect_refused(-ENOENT, "");
	s = new_with(1000);
	assert_true(state_any(s));
	for (unsigned i = 0; i < 1000; i += 3)
		state_remove(&s->record[i]);
	state_unmap(s);
	assert_int_equal(state_load(&s, dir, why), 0);
	assert_int_equal(atomic_load(&s->top), 1000);
	for (unsigned i = 0; i < 1000; i++)
		if (i % 3)
			expect_record(&s->record[i], i + 1);
		else
			assert_int_equal(atomic_load(&s->record[i].id), 0);
	state_unmap(s);
	/* A new one is empty. */
	s = new_with(0);
	assert_false(state_any(s));
	state_unmap(s);
	assert_int_equal(state_load(&s, dir, why), 0);
	assert_false(state_any(s));
	state_unmap(s);
}

static void write_at(off_t at, const void *bytes, size_t n)
{
	int fd = open(path, O_WRONLY);
	assert_int_equal(pwrite(fd, bytes, n, at), n);
	close(fd);
}

/* Each field of a record that another service goes by, and those that nobody may change. */
static void a_damaged_record_is_named(void **state)
{
	const struct field {
		const char *name;
		size_t at, bytes;
	} fields[] = {
#define FIELD(f) {#f, offsetof(struct state_record, f), sizeof(((struct state_record *)0)->f)}
		FIELD(id), FIELD(parent), FIELD(family), FIELD(pid), FIELD(agent_pid),
		FIELD(uid), FIELD(pid_inode), FIELD(agent_inode), FIELD(uffd_inode),
		FIELD(link_inode), FIELD(doorbell_inode), FIELD(staging), FIELD(bell),
		FIELD(born_ms), FIELD(exe), FIELD(policy), FIELD(join_check),
		FIELD(birth_check)};

	(void)state;
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		for (size_t byte = 0; byte < fields[i].bytes; byte += 1 + byte / 8) {
			state_unmap(new_with(9));
			off_t at =
				(off_t)(offsetof(struct state, record) +
					4 * sizeof(struct state_record) + fields[i].at + byte);
			uint8_t other = 0xa5;
			write_at(at, &other, 1);
			expect_refused(-EBADMSG, "record 4");
		}
	/* Of one that has no agent yet, the rest isn't there. */
	struct state *s = new_with(9);
	s->record[1].pid = 77;
	state_unmap(s);
	char why[STATE_WHY];
	assert_int_equal(state_load(&s, dir, why), 0);
	state_unmap(s);
}

static void what_is_no_table_is_refused(void **state)
{
	char other[300];

	(void)state;
	const off_t cuts[] = {0, 4, 512, 4096, sizeof(struct state) - 1};
	for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
		state_unmap(new_with(9));
		assert_int_equal(truncate(path, cuts[i]), 0);
		expect_refused(-EBADMSG, cuts[i] < 16 ? "no file of Larder's" : "cut off");
	}
	state_unmap(new_with(9));
	write_at(0, "SQLite format 3", 16);
	expect_refused(-EBADMSG, "no file of Larder's");
	state_unmap(new_with(9));
	write_at(offsetof(struct state, version), &(uint32_t){STATE_VERSION + 1}, 4);
	expect_refused(-EPROTONOSUPPORT, "another version");
	state_unmap(new_with(9));
	write_at(offsetof(struct state, top), &(uint32_t){STATE_RECORDS + 1}, 4);
	expect_refused(-EBADMSG, "head");
	state_unmap(new_with(9));
	assert_int_equal(chmod(path, 0606), 0);
	expect_refused(-EBADMSG, "may write to");
	state_unmap(new_with(9));
	snprintf(other, sizeof(other), "%s.other", path);
	assert_int_equal(rename(path, other), 0);
	assert_int_equal(symlink(other, path), 0);
	expect_refused(-EBADMSG, "symbolic link");
	unlink(path);
	unlink(other);
	mkdir(path, 0700);
	struct state *s;
	char why[STATE_WHY];
	assert_true(state_load(&s, dir, why) < 0);
	rmdir(path);
}

static void work_till_killed(struct state *s)
{
	for (uint64_t id = 1;; id++) {
		const struct state_record r = some_record(id, id % 3 == 0),
					  more = some_record(id, true);
		struct state_record *in = state_add(s, &r);
		if (!atomic_load(&r.joined))
			state_join(in, &more);
		if (id % 5)
			state_remove(in);
		if (id % 500 == 0)
			for (uint32_t i = 0; i < atomic_load(&s->top); i++)
				state_remove(&s->record[i]);
	}
}

static void a_kill_leaves_whole_records(void **state)
{
	unsigned found = 0;

	(void)state;
	for (int round = 0; round < 300; round++) {
		char why[STATE_WHY];
		struct state *s = new_with(0);
		pid_t pid = fork();
		if (pid == 0)
			work_till_killed(s);
		usleep((useconds_t)(round * 37 % 3000));
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		state_unmap(s);
		int r = state_load(&s, dir, why);
		if (r < 0)
			fail_msg("round %d: %s", round, why);
		for (uint32_t i = 0; i < atomic_load(&s->top); i++) {
			uint64_t id = atomic_load(&s->record[i].id);
			found += id != 0;
			if (id != 0)
				expect_record(&s->record[i], id);
		}
		state_unmap(s);
	}
	assert_true(found > 300);
}

static void without_room_a_record_is_refused(void **state)
{
	struct state *s = new_with(10);
	unsigned added = 0;

	(void)state;
	tmpfs_fill(dir);
	for (uint64_t id = 11; id < 5000; id++) {
		const struct state_record r = some_record(id, true);
		added += state_add(s, &r) != NULL;
	}
	assert_true(added >= 54 && added < 4000);
	for (unsigned i = 0; i < 10 + added; i++)
		expect_record(&s->record[i], i + 1);
	/* One that goes makes room. */
	state_remove(&s->record[3]);
	const struct state_record r = some_record(6000, true);
	assert_ptr_equal(state_add(s, &r), &s->record[3]);
	state_unmap(s);
	assert_true(state_new(&s, dir) < 0);
}

int main(void)
{
#define T(f) cmocka_unit_test(f)
	const struct CMUnitTest tests[] = {
		T(another_service_finds_it),
		T(a_damaged_record_is_named),
		T(what_is_no_table_is_refused),
		T(a_kill_leaves_whole_records),
		T(without_room_a_record_is_refused),
	};
	if (!tmpfs_of(dir, "1m")) {
		fputs("skipped: needs root\n", stderr);
		return getenv("MUST_WORK") ? 1 : 77;
	}
	snprintf(path, sizeof(path), "%s/" STATE_FILE, dir);
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	tmpfs_remove(dir);
	return failed;
}
