/* The journal against a list: whatever was in it when its worker died is in it for the next
 * one, and nothing else. */
#include "journal.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { STEPS = 200000, LIST = 1 << 20 };

static struct uffd_msg list[LIST]; /* by position, from 0 on */
static uint64_t begin, end;
static uint64_t random_state;

static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	return random_state ^= random_state << 17;
}

static struct uffd_msg some_message(uint64_t position)
{
	struct uffd_msg m;

	memset(&m, 0, sizeof(m));
	m.event = UFFD_EVENT_REMOVE;
	m.arg.remove.start = position;
	m.arg.remove.end = ~position;
	return m;
}

static void check(const struct journal *j)
{
	assert_int_equal(journal_begin(j), begin);
	assert_int_equal(journal_end(j), end);
	for (uint64_t at = begin; at < end; at++) {
		struct uffd_msg m = *journal_at(j, at);
		m.reserved1 = 0; /* these two are its sum */
		m.reserved2 = 0;
		assert_memory_equal(&m, &list[at], sizeof(list[at]));
	}
}

/* Another worker, by the descriptor alone. */
static void check_successor(const struct journal *j)
{
	struct journal *next;

	assert_int_equal(journal_adopt(&next, dup(journal_fd(j))), 0);
	check(next);
	/* What isn't an entry is room. */
	unsigned count = 16;
	const struct uffd_msg *room = journal_room(next, &count);
	const struct uffd_msg zero = {0};
	for (unsigned i = 0; i < count; i++)
		assert_memory_equal(&room[i], &zero, sizeof(zero));
	journal_free(next);
}

static void read_some(struct journal *j, bool faults)
{
	unsigned want = 1 + (unsigned)(next_random() % 16), room = want;
	struct uffd_msg *to = journal_room(j, &room);

	assert_true(room >= 1 && room <= want);
	for (unsigned i = 0; i < room; i++) {
		assert_int_equal(to[i].event, 0);
		to[i] = some_message(end + i);
		if (!faults)
			list[end + i] = to[i];
	}
	if (faults) {
		journal_discard(j, room);
		return;
	}
	journal_keep(j, room);
	end += room;
}

static void add_one(struct journal *j)
{
	uint64_t a = next_random(), b = next_random(), c = next_random();
	struct uffd_msg m = {.event = JOURNAL_ANSWER, .reserved3 = (__u32)a};

	m.arg.reserved.reserved1 = a;
	m.arg.reserved.reserved2 = b;
	m.arg.reserved.reserved3 = c;
	journal_add(j, JOURNAL_ANSWER, a, b, c, (uint32_t)a);
	list[end++] = m;
}

static void one_step(struct journal *j, unsigned how_full)
{
	switch (next_random() % 8) {
	case 0:
		read_some(j, true);
		break;
	case 1:
	case 2:
		read_some(j, false);
		break;
	case 3:
		if (next_random() % how_full == 0 && begin < end) {
			begin += next_random() % (end - begin + 1);
			journal_trim(j, begin);
		}
		break;
	default:
		add_one(j);
		break;
	}
}

static void the_next_one_finds_what_was_there(void **state)
{
	const char *seed = getenv("SEED");
	struct journal *j;

	(void)state;
	random_state = seed ? strtoull(seed, NULL, 0) : 88172645463325252ULL;
	for (unsigned how_full = 1; how_full <= 64; how_full *= 8) {
		begin = end = 0;
		assert_int_equal(journal_new(&j, NULL, 1), 0);
		for (int i = 0; i < STEPS && end < LIST - 16; i++) {
			one_step(j, how_full);
			if (i % 1000 == 0)
				check(j);
			if (i % 1000 == 0)
				check_successor(j);
		}
		check(j);
		check_successor(j);
		assert_false(journal_lost(j));
		journal_free(j);
	}
}

/* A worker that is killed in the middle of anything. It counts the entries that it knows to be
 * in. */
static void work_till_killed(struct journal *j, volatile uint64_t *known)
{
	for (;;) {
		for (int i = 0; i < 5; i++) {
			uint64_t at = journal_end(j);
			journal_add(j, JOURNAL_ANSWER, at, ~at, at * 3, (uint32_t)at);
			known[1] = at + 1;
		}
		uint64_t from = journal_begin(j), to = journal_end(j);
		if (known[1] % 7 == 0)
			known[0] = from + (to - from) / 2, journal_trim(j, known[0]);
	}
}

static void a_kill_leaves_whole_entries(void **state)
{
	volatile uint64_t *known =
		mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	(void)state;
	for (int round = 0; round < 300; round++) {
		struct journal *j, *next;
		assert_int_equal(journal_new(&j, NULL, 1), 0);
		known[0] = known[1] = 0;
		pid_t pid = fork();
		if (pid == 0)
			work_till_killed(j, known);
		usleep((useconds_t)(round * 37 % 3000));
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		assert_int_equal(journal_adopt(&next, dup(journal_fd(j))), 0);
		/* One more than it came to count; one trim that it announced and didn't do. */
		assert_in_range(journal_end(next), known[1], known[1] + 1);
		assert_true(journal_begin(next) <= known[0]);
		for (uint64_t at = journal_begin(next); at < journal_end(next); at++) {
			const struct uffd_msg *m = journal_at(next, at);
			assert_int_equal(m->event, JOURNAL_ANSWER);
			assert_int_equal(m->arg.reserved.reserved1, at);
			assert_int_equal(m->arg.reserved.reserved2, ~at);
			assert_int_equal(m->arg.reserved.reserved3, at * 3);
		}
		journal_free(next);
		journal_free(j);
	}
	munmap((void *)(uintptr_t)known, 4096);
}

static void too_long_is_said_and_made_up_for(void **state)
{
	struct journal *j;

	(void)state;
	assert_int_equal(journal_new(&j, NULL, 1), 0);
	for (uint64_t i = 0; i < (1u << 20) - 1; i++)
		journal_add(j, JOURNAL_ANSWER, i, 0, 0, 0);
	assert_false(journal_lost(j));
	journal_add(j, JOURNAL_ANSWER, 0, 0, 0, 0);
	assert_true(journal_lost(j));
	uint64_t lost_at = journal_begin(j);
	journal_trim(j, lost_at - 1); /* rows that are older */
	assert_true(journal_lost(j));
	journal_trim(j, journal_end(j));
	assert_false(journal_lost(j));
	journal_free(j);
}

/* ---- damage ---- */

/* Any bit of the head that is used, of the entries and of the room: it is refused, or what is
 * read is what was written. */
static bool is_same(int journal, uint64_t from, uint64_t to, unsigned *refused)
{
	int fd = dup(journal);
	struct journal *j;

	assert_true(fd >= 0);
	if (journal_adopt(&j, fd) < 0) {
		close(fd);
		++*refused;
		return true;
	}
	bool same = journal_begin(j) == from && journal_end(j) == to;
	for (uint64_t at = from; at < to && same; at++) {
		const struct uffd_msg *m = journal_at(j, at);
		same = m->event == (at % 3 ? JOURNAL_ANSWER : UFFD_EVENT_REMOVE) &&
		       m->arg.reserved.reserved1 == at && m->arg.reserved.reserved2 == ~at;
	}
	journal_free(j);
	return same;
}

static void fill(struct journal *j, unsigned count)
{
	for (uint64_t at = journal_end(j), to = at + count; at < to; at++) {
		unsigned one = 1;
		if (at % 3)
			journal_add(j, JOURNAL_ANSWER, at, ~at, at * 3, 1);
		else
			*journal_room(j, &one) = some_message(at), journal_keep(j, 1);
	}
}

static void no_flipped_bit_is_believed(void **state)
{
	static uint8_t before[8192], after[8192];
	unsigned refused = 0;
	struct journal *j;

	(void)state;
	assert_int_equal(journal_new(&j, NULL, 1), 0);
	fill(j, 100);
	journal_trim(j, 90);
	fill(j, 40); /* over the edge of the ring */
	assert_int_equal(pread(journal_fd(j), before, sizeof(before), 0), sizeof(before));
	for (unsigned bit = 0; bit < sizeof(before) * 8; bit++) {
		if (bit / 8 >= 32 && bit / 8 < 4096)
			continue; /* nothing of the head */
		memcpy(after, before, sizeof(after));
		after[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(pwrite(journal_fd(j), after, sizeof(after), 0), sizeof(after));
		if (!is_same(journal_fd(j), 90, 140, &refused))
			fail_msg("bit %u of byte %u is believed", bit % 8, bit / 8);
	}
	/* Nearly all: what is left is where the worker may have begun something. */
	assert_true(refused > 100 * 32 * 8);
	assert_int_equal(pwrite(journal_fd(j), before, sizeof(before), 0), sizeof(before));
	unsigned before_that = refused;
	assert_true(is_same(journal_fd(j), 90, 140, &refused));
	assert_int_equal(refused, before_that);
	journal_free(j);
}

/* What the kernel wrote just before the worker died has none yet. */
static void what_was_just_read_counts_without_a_sum(void **state)
{
	struct journal *j, *next;
	unsigned count = 16;

	(void)state;
	assert_int_equal(journal_new(&j, NULL, 1), 0);
	fill(j, 20);
	struct uffd_msg *to = journal_room(j, &count);
	assert_int_equal(count, 16);
	for (unsigned i = 0; i < count; i++)
		to[i] = some_message(20 + i);
	assert_int_equal(journal_adopt(&next, dup(journal_fd(j))), 0);
	assert_int_equal(journal_end(next), 36);
	for (uint64_t at = 20; at < 36; at++)
		assert_int_equal(journal_at(next, at)->arg.remove.start, at);
	journal_free(next);
	journal_free(j);
}

static void what_is_no_journal_is_refused(void **state)
{
	struct journal *j;
	int fd = memfd_create("no-journal", MFD_CLOEXEC);

	(void)state;
	assert_int_equal(journal_adopt(&j, fd), -EBADMSG);
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	assert_int_equal(journal_adopt(&j, fd), -EBADMSG);
	assert_int_equal(close(fd), 0); /* it is the caller's still */
}

int main(void)
{
#define T(f) cmocka_unit_test(f)
	const struct CMUnitTest tests[] = {
		T(the_next_one_finds_what_was_there),
		T(a_kill_leaves_whole_entries),
		T(too_long_is_said_and_made_up_for),
		T(no_flipped_bit_is_believed),
		T(what_was_just_read_counts_without_a_sum),
		T(what_is_no_journal_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
