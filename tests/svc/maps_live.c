/* maps_read on real mappings of a real process: the kernel's words for them are as expected. */
#include "kernel.h"
#include "maps.h"
#include "maps_help.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { BYTES = 4 << 20, HUGE = 2 << 20, EDGE = 65536 };

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

typedef void *maker(void);

/* Between pages without access, so that it doesn't merge with a neighbour. */
static void *map_anonymous(int prot, int flags)
{
	char *p = mmap(NULL, BYTES + 2 * EDGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return p;
	return mmap(
		p + EDGE, BYTES, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | flags, -1, 0);
}

static void *make_plain(void)
{
	void *p = map_anonymous(PROT_READ | PROT_WRITE, 0);
	if (p != MAP_FAILED)
		memset(p, 1, BYTES / 2);
	return p;
}

static void *make_advised(int advice)
{
	void *p = map_anonymous(PROT_READ | PROT_WRITE, 0);
	return p != MAP_FAILED && madvise(p, BYTES, advice) == 0 ? p : MAP_FAILED;
}

/* By syscall(2), since sanitizers leave mlock(3) without effect. */
static void *make_locked(void)
{
	void *p = map_anonymous(PROT_READ | PROT_WRITE, 0);
	return p != MAP_FAILED && syscall(SYS_mlock, p, BYTES) == 0 ? p : MAP_FAILED;
}

static void *make_locked_on_fault(void)
{
	void *p = map_anonymous(PROT_READ | PROT_WRITE, 0);
	return p != MAP_FAILED && syscall(SYS_mlock2, p, BYTES, MLOCK_ONFAULT) == 0
		       ? p
		       : MAP_FAILED;
}

static void *make_wipeonfork(void)
{
	return make_advised(MADV_WIPEONFORK);
}

static void *make_dontfork(void)
{
	return make_advised(MADV_DONTFORK);
}

static void *make_dontdump(void)
{
	return make_advised(MADV_DONTDUMP);
}

static void *make_mergeable(void)
{
	return make_advised(MADV_MERGEABLE);
}

static void *make_rwx(void)
{
	return map_anonymous(PROT_READ | PROT_WRITE | PROT_EXEC, 0);
}

static void *make_read_only(void)
{
	return map_anonymous(PROT_READ, 0);
}

static void *make_none(void)
{
	return map_anonymous(PROT_NONE, MAP_NORESERVE);
}

/* As glibc makes the heaps of its arenas. */
static void *make_opened(void)
{
	void *p = map_anonymous(PROT_NONE, MAP_NORESERVE);
	return p != MAP_FAILED && mprotect(p, BYTES, PROT_READ | PROT_WRITE) == 0 ? p
										  : MAP_FAILED;
}

static void *make_growsdown(void)
{
	return map_anonymous(PROT_READ | PROT_WRITE, MAP_GROWSDOWN);
}

static void *make_shared(void)
{
	return mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

static void *make_private_file(void)
{
	int fd = memfd_create("line\nVmFlags: rd", MFD_CLOEXEC);
	void *p = MAP_FAILED;

	if (fd >= 0 && ftruncate(fd, BYTES) == 0)
		p = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	close(fd);
	return p;
}

static void *make_private_zero(void)
{
	int fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
	void *p = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);

	close(fd);
	return p;
}

/* Without a reservation it can be mapped where the pool is empty. */
static void *make_hugetlb(void)
{
	return mmap(NULL, BYTES, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1, 0);
}

static void *make_huge(void)
{
	char *p = map_anonymous(PROT_READ | PROT_WRITE, 0);

	if (p == MAP_FAILED || madvise(p, BYTES, MADV_HUGEPAGE) < 0)
		return MAP_FAILED;
	memset(p, 1, BYTES);
	char *huge = (char *)(((uintptr_t)p + HUGE - 1) & ~(uintptr_t)(HUGE - 1));
	return madvise(huge, HUGE, MADV_COLLAPSE) == 0 ? p : MAP_FAILED;
}

/* The descriptor stays open. */
static void *make_registered(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	void *p = map_anonymous(PROT_READ | PROT_WRITE, 0);
	struct uffdio_register reg = {
		.range = {(uintptr_t)p, BYTES}, .mode = UFFDIO_REGISTER_MODE_MISSING};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

	if (p == MAP_FAILED || fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0 ||
		ioctl(fd, UFFDIO_REGISTER, &reg) < 0)
		return MAP_FAILED;
	return p;
}

static void *make_brk(void)
{
	void *p = sbrk(BYTES);
	return p == (void *)-1 ? MAP_FAILED : p;
}

static void *make_stack(void)
{
	char here;
	void *volatile p = &here; /* an address in the stack is what is wanted */
	return p;
}

static const struct kind {
	const char *name;
	maker *make;
	enum map_refusal refusal;
	bool may_miss; /* needs something that not every machine has */
} kinds[] = {
	{"plain", make_plain, MAPS_OK, false},
	{"locked", make_locked, MAPS_LOCKED, true},
	{"locked on fault", make_locked_on_fault, MAPS_LOCKED, true},
	{"wiped on fork", make_wipeonfork, MAPS_WIPEONFORK, false},
	{"not copied at fork", make_dontfork, MAPS_SPECIAL, false},
	{"not dumped", make_dontdump, MAPS_OK, false},
	{"mergeable", make_mergeable, MAPS_OK, true},
	{"rwx", make_rwx, MAPS_EXEC, true},
	{"read-only", make_read_only, MAPS_PROT, false},
	{"no access", make_none, MAPS_PROT, false},
	{"no access, then opened", make_opened, MAPS_OK, false},
	{"grows down", make_growsdown, MAPS_STACK, false},
	{"shared", make_shared, MAPS_SHARED, false},
	{"private file", make_private_file, MAPS_FILE, false},
	{"private /dev/zero", make_private_zero, MAPS_FILE, false},
	{"hugetlb", make_hugetlb, MAPS_HUGETLB, true},
	{"huge page", make_huge, MAPS_OK, true},
	{"registered", make_registered, MAPS_OK, true},
	{"brk heap", make_brk, MAPS_OK, false},
	{"stack", make_stack, MAPS_STACK, false},
};
enum { KINDS = sizeof(kinds) / sizeof(kinds[0]) };
_Static_assert(KINDS <= (int)BOARD_SLOTS, "a slot for each");

static bool make_all(struct board *b)
{
	for (size_t i = 0; i < KINDS; i++) {
		void *p = kinds[i].make();
		b->at[i] = p == MAP_FAILED ? 0 : (uintptr_t)p;
		b->error[i] = errno;
	}
	return true;
}

struct look_up {
	uint64_t address;
	struct map found; /* start = 0: none */
};

static int look_up(void *arg, const struct map *m)
{
	struct look_up *l = arg;

	if (m->start <= l->address && l->address < m->end)
		l->found = *m;
	return 0;
}

static struct map map_at(const struct specimen *s, size_t kind)
{
	struct look_up l = {.address = s->board->at[kind]};

	assert_int_equal(maps_read(s->procdir, 65536, look_up, &l), 0);
	if (l.found.start == 0)
		fail_msg("%s: not found", kinds[kind].name);
	return l.found;
}

static size_t kind_named(const char *name)
{
	for (size_t i = 0; i < KINDS; i++)
		if (strcmp(kinds[i].name, name) == 0)
			return i;
	fail_msg("no kind %s", name);
	return 0;
}

static void real_mappings(void **state)
{
	(void)state;
	struct specimen s;
	size_t missed = 0;

	specimen_start(&s, make_all);
	for (size_t i = 0; i < KINDS; i++) {
		if (s.board->at[i] == 0) {
			print_message("not made here: %s (%s)\n", kinds[i].name,
				strerror(s.board->error[i]));
			if (!kinds[i].may_miss || getenv("MUST_WORK"))
				missed++;
			continue;
		}
		struct map m = map_at(&s, i);
		if (m.refusal != kinds[i].refusal)
			fail_msg("%s: %s, wanted %s", kinds[i].name,
				map_refusal_text(m.refusal),
				map_refusal_text(kinds[i].refusal));
		bool registered = kinds[i].make == make_registered;
		if (m.uffd != registered)
			fail_msg("%s: uffd is %d", kinds[i].name, m.uffd);
	}
	specimen_end(&s);
	assert_int_equal(missed, 0);
}

static void real_numbers(void **state)
{
	(void)state;
	struct specimen s;
	size_t plain = kind_named("plain"), huge = kind_named("huge page");

	specimen_start(&s, make_all);
	struct map m = map_at(&s, plain);
	assert_int_equal(m.start, s.board->at[plain]);
	assert_int_equal(m.end, m.start + BYTES);
	assert_true(m.anon + m.swap >= BYTES / 2); /* more where huge pages are on for all */
	assert_true(m.rss + m.swap <= BYTES);
	if (s.board->at[huge] != 0)
		assert_true(map_at(&s, huge).anon_huge >= HUGE);
	specimen_end(&s);
}

static int below_end(void *arg, const struct map *m)
{
	uint64_t *end = arg;

	assert_true(*end <= m->start);
	assert_true(m->start < m->end);
	*end = m->end;
	return 0;
}

/* A mapping that only a hole of a few bytes of text would lose: all are there, in order. */
static void own_mappings_in_order(void **state)
{
	(void)state;
	uint64_t end = 0;
	int procdir = open("/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	assert_int_equal(maps_read(procdir, 0, below_end, &end), 0);
	assert_true(end > (uintptr_t)&end);
	close(procdir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(real_mappings),
		cmocka_unit_test(real_numbers),
		cmocka_unit_test(own_mappings_in_order),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
