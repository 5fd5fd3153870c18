/* maps_read on texts: what is managed, what is refused and why, and that odd text never makes a
 * mapping manageable. */
#include "maps.h"
#include "maps_help.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 64 };

struct found {
	struct map map[MOST];
	size_t count;
	int stop_at; /* the callback's result is 7 at this index; -1: never */
};

static int keep(void *arg, const struct map *m)
{
	struct found *f = arg;

	assert_true(f->count < MOST);
	f->map[f->count++] = *m;
	return f->stop_at == (int)f->count - 1 ? 7 : 0;
}

static int read_text(const char *text, uint64_t min_bytes, struct found *ret)
{
	struct fake_proc f;

	*ret = (struct found){.stop_at = -1};
	fake_proc_init(&f);
	fake_proc_write(&f, "smaps", text);
	int r = maps_read(f.fd, min_bytes, keep, ret);
	fake_proc_done(&f);
	return r;
}

#define FIELDS                                                                                 \
	"Size:               2048 kB\nKernelPageSize:        4 kB\nMMUPageSize:           4 "  \
	"kB\n"                                                                                 \
	"Rss:                1024 kB\nPss:                1024 kB\nReferenced:         1024 "  \
	"kB\n"                                                                                 \
	"Anonymous:          1020 kB\nAnonHugePages:         0 kB\nSwap:                 12 "  \
	"kB\n"                                                                                 \
	"SwapPss:              12 kB\nLocked:                0 kB\nTHPeligible:           0\n"
#define HEAD	 "7f0000000000-7f0000200000 rw-p 00000000 00:00 0 \n"
#define RW_FLAGS "VmFlags: rd wr mr mw me ac sd \n"

static const struct one {
	const char *header, *flags;
	enum map_refusal refusal;
	bool uffd;
} ones[] = {
	/* managed */
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 0 ", "rd wr mr mw me", MAPS_OK, false},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 0", "rd wr mr mw me", MAPS_OK, false},
	{"55550000-55750000 rw-p 00000000 00:00 0        [heap]", "rd wr mr mw me ac", MAPS_OK,
		false},
	{"7f0000000000-7f0000200000 rw-p 7f0000000 00:00 0   [anon:my pool]", "rd wr mr mw",
		MAPS_OK, false},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 0 ", "rd wr mr mw me nr dd mg hg nh sd",
		MAPS_OK, false},
	/* registered with a userfaultfd */
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 0 ", "rd wr mr mw um", MAPS_OK, true},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 0 ", "rd wr mr mw uw", MAPS_OK, true},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 0 ", "rd wr mr mw ui", MAPS_OK, true},
	/* by name, device or inode */
	{"7f0000000000-7f0000200000 rw-p 00000000 fe:00 12   /usr/lib/x.so", "rd wr mr mw",
		MAPS_FILE, false},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:05 4    /dev/zero", "rd wr mr mw",
		MAPS_FILE, false},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:01 9    [heap]", "rd wr mr mw", MAPS_FILE,
		false},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 9 ", "rd wr mr mw", MAPS_FILE, false},
	{"7f0000000000-7f0000200000 rw-p 00000000 fe:00 0 ", "rd wr mr mw", MAPS_FILE, false},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 0    /odd", "rd wr mr mw", MAPS_FILE,
		false},
	{"7f0000000000-7f0000200000 rw-p 00000000 fe:00 3    /tmp/a\\012VmFlags: b",
		"rd wr mr mw", MAPS_FILE, false},
	{"7ffc00000000-7ffc00200000 rw-p 00000000 00:00 0    [stack]", "rd wr mr mw me gd ac",
		MAPS_STACK, false},
	{"7ffc00000000-7ffc00200000 rw-p 00000000 00:00 0    [stack:12]", "rd wr mr mw",
		MAPS_STACK, false},
	{"7ffc00000000-7ffc00002000 r-xp 00000000 00:00 0    [vdso]", "rd ex mr mw me de sd",
		MAPS_SPECIAL, false},
	{"7ffc00000000-7ffc00002000 r--p 00000000 00:00 0    [vvar]", "rd mr pf io de dd sd",
		MAPS_SPECIAL, false},
	{"7ffc00000000-7ffc00002000 rw-p 00000000 00:00 0    [heap]x", "rd wr mr mw",
		MAPS_SPECIAL, false},
	/* by permission */
	{"7f0000000000-7f0000200000 rw-s 00000000 00:01 7    /dev/zero (deleted)",
		"rd wr sh mr mw me ms", MAPS_SHARED, false},
	{"7f0000000000-7f0000200000 rw-s 00000000 00:00 0 ", "rd wr mr mw", MAPS_SHARED, false},
	{"7f0000000000-7f0000200000 rwxp 00000000 00:00 0 ", "rd wr ex mr mw me", MAPS_EXEC,
		false},
	{"7f0000000000-7f0000200000 r--p 00000000 00:00 0 ", "rd mr mw me", MAPS_PROT, false},
	{"7f0000000000-7f0000200000 ---p 00000000 00:00 0 ", "mr mw me", MAPS_PROT, false},
	{"7f0000000000-7f0000200000 -w-p 00000000 00:00 0 ", "wr mr mw me", MAPS_PROT, false},
	/* by flag */
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 0 ", "wr mr mw", MAPS_PROT, false},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 0 ", "rd mr mw", MAPS_PROT, false},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 0 ", "rd wr mw", MAPS_PROT, false},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 0 ", "rd wr mr", MAPS_PROT, false},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 0 ", "rd wr mr mw ex", MAPS_EXEC,
		false},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 0 ", "rd wr mr mw sh", MAPS_SHARED,
		false},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 0 ", "rd wr mr mw ms", MAPS_SHARED,
		false},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 0 ", "rd wr mr mw lo", MAPS_LOCKED,
		false},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 0 ", "rd wr mr mw lf", MAPS_LOCKED,
		false},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:0f 5    /anon_hugepage (deleted)",
		"rd wr mr mw de ht", MAPS_HUGETLB, false},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 0 ", "rd wr mr mw gd", MAPS_STACK,
		false},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 0 ", "rd wr mr mw wf", MAPS_WIPEONFORK,
		false},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 0 ", "rd wr mr mw io", MAPS_SPECIAL,
		false},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 0 ", "rd wr mr mw pf", MAPS_SPECIAL,
		false},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 0 ", "rd wr mr mw mm", MAPS_SPECIAL,
		false},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 0 ", "rd wr mr mw dc", MAPS_SPECIAL,
		false},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 0 ", "rd wr mr mw dp wf", MAPS_SPECIAL,
		false},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 0 ", "rd wr mr mw gu", MAPS_SPECIAL,
		false},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 0 ", "rd wr mr mw mt", MAPS_SPECIAL,
		false},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 0 ", "rd wr mr mw ss", MAPS_SPECIAL,
		false},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 0 ", "rd wr mr mw uw dc", MAPS_SPECIAL,
		true},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 0 ", "rd wr mr mw xyz", MAPS_SPECIAL,
		false},
	{"7f0000000000-7f0000200000 rw-p 00000000 00:00 0 ", "", MAPS_PROT, false},
	/* too small, which is the least of reasons */
	{"7f0000000000-7f0000100000 rw-p 00000000 00:00 0 ", "rd wr mr mw", MAPS_SMALL, false},
	{"7f0000000000-7f0000100000 rw-p 00000000 00:00 0 ", "rd wr mr mw lo", MAPS_LOCKED,
		false},
};

static void each_kind_of_mapping(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(ones) / sizeof(ones[0]); i++) {
		const struct one *c = &ones[i];
		struct found found;
		char text[2048];

		snprintf(text, sizeof(text), "%s\n" FIELDS "VmFlags: %s \n", c->header,
			c->flags);
		assert_int_equal(read_text(text, 2 << 20, &found), 0);
		/* The two small special ones are smaller than min_bytes as well. */
		if (found.count != 1 || found.map[0].refusal != c->refusal ||
			found.map[0].uffd != c->uffd)
			fail_msg("%s | %s: %zu found, %s, wanted %s", c->header, c->flags,
				found.count, map_refusal_text(found.map[0].refusal),
				map_refusal_text(c->refusal));
	}
}

/* Texts of two mappings at most, of which `count` are reported; none may be managed but those
 * in `good` (bit per index). */
static const struct odd {
	const char *what, *text;
	size_t count;
	unsigned good;
} odds[] = {
	{"nothing (a zombie)", "", 0, 0},
	{"only a header", HEAD, 1, 0},
	{"no flags", HEAD FIELDS, 1, 0},
	{"no fields", HEAD RW_FLAGS, 1, 0},
	{"one field missing", HEAD "Rss: 4 kB\nAnonymous: 4 kB\nAnonHugePages: 0 kB\n" RW_FLAGS,
		1, 0},
	{"flags before fields", HEAD RW_FLAGS FIELDS, 1, 1},
	{"an unknown field", HEAD FIELDS "Brandnew:  yes, 12 of them\n" RW_FLAGS, 1, 1},
	{"cut within the flags", HEAD FIELDS "VmFlags: rd wr mr mw", 1, 0},
	{"cut within a field", HEAD RW_FLAGS FIELDS "Rss:  1", 1, 0},
	{"a second line of flags", HEAD FIELDS RW_FLAGS "VmFlags: lo \n", 1, 0},
	{"a number that isn't one", HEAD FIELDS "Rss:    many kB\n" RW_FLAGS, 1, 0},
	{"a negative number", HEAD FIELDS "Rss:    -4 kB\n" RW_FLAGS, 1, 0},
	{"a number too large", HEAD FIELDS "Rss:  99999999999999999999 kB\n" RW_FLAGS, 1, 0},
	{"kilobytes too many", HEAD FIELDS "Rss:  18446744073709551615 kB\n" RW_FLAGS, 1, 0},
	{"another unit", HEAD FIELDS "Rss:    4 MB\n" RW_FLAGS, 1, 0},
	{"a line of rubbish", HEAD FIELDS "?? what\n" RW_FLAGS, 1, 0},
	{"an empty line", HEAD FIELDS "\n" RW_FLAGS, 1, 0},
	{"rubbish first", "what\n" HEAD FIELDS RW_FLAGS, 1, 1},
	{"fields first", FIELDS RW_FLAGS HEAD, 1, 0},
	{"flags are not inherited",
		HEAD FIELDS RW_FLAGS
		"7f0000400000-7f0000600000 rw-p 00000000 00:00 0 \n" FIELDS,
		2, 1},
	{"fields are not inherited",
		HEAD FIELDS RW_FLAGS
		"7f0000400000-7f0000600000 rw-p 00000000 00:00 0 \n" RW_FLAGS,
		2, 1},
	{"two good ones",
		HEAD FIELDS RW_FLAGS
		"7f0000200000-7f0000600000 rw-p 00000000 00:00 0 \n" FIELDS RW_FLAGS,
		2, 3},
	{"overlapping",
		HEAD FIELDS RW_FLAGS
		"7f0000100000-7f0000600000 rw-p 00000000 00:00 0 \n" FIELDS RW_FLAGS,
		1, 0},
	{"twice the same", HEAD FIELDS RW_FLAGS HEAD FIELDS RW_FLAGS, 1, 0},
	{"backwards", "7f0000200000-7f0000000000 rw-p 00000000 00:00 0 \n" FIELDS RW_FLAGS, 0,
		0},
	{"empty", "7f0000200000-7f0000200000 rw-p 00000000 00:00 0 \n" FIELDS RW_FLAGS, 0, 0},
	{"not page aligned",
		"7f0000000001-7f0000200000 rw-p 00000000 00:00 0 \n" FIELDS RW_FLAGS, 0, 0},
	{"address too long",
		"17f0000000000000000-7f0000200000 rw-p 00000000 00:00 0 \n" FIELDS RW_FLAGS, 0,
		0},
	{"permissions cut", "7f0000000000-7f0000200000 rw- 00000000 00:00 0 \n" FIELDS RW_FLAGS,
		0, 0},
	{"odd permissions",
		"7f0000000000-7f0000200000 rw?p 00000000 00:00 0 \n" FIELDS RW_FLAGS, 0, 0},
	{"no inode", "7f0000000000-7f0000200000 rw-p 00000000 00:00\n" FIELDS RW_FLAGS, 0, 0},
	{"header spoils the one before", HEAD FIELDS RW_FLAGS "7f00-\n", 1, 0},
};

static void odd_text_is_not_managed(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(odds) / sizeof(odds[0]); i++) {
		struct found found;
		unsigned good = 0;

		assert_int_equal(read_text(odds[i].text, 0, &found), 0);
		for (size_t k = 0; k < found.count; k++)
			good |= (unsigned)(found.map[k].refusal == MAPS_OK) << k;
		if (found.count != odds[i].count || good != odds[i].good)
			fail_msg("%s: %zu found (wanted %zu), good %x (wanted %x)",
				odds[i].what, found.count, odds[i].count, good, odds[i].good);
	}
}

/* A name longer than any buffer, with what looks like flags in it, and a good mapping behind.
 */
static void long_names(void **state)
{
	(void)state;
	for (size_t length = 1; length < 20000; length += length / 2 + 1) {
		struct found found;
		size_t size = length + 4096;
		char *text = malloc(size), *name = malloc(length + 1);

		assert_non_null(text);
		assert_non_null(name);
		for (size_t i = 0; i < length; i++)
			name[i] = "\\012VmFlags: rd wr "[i % 18];
		name[length] = '\0';
		snprintf(text, size,
			"7e0000000000-7e0000200000 rw-p 00000000 fe:00 3 /%s\n" FIELDS RW_FLAGS
				HEAD FIELDS RW_FLAGS,
			name);
		assert_int_equal(read_text(text, 0, &found), 0);
		assert_int_equal(found.count, 2);
		assert_int_equal(found.map[0].refusal, MAPS_FILE);
		assert_int_equal(found.map[1].refusal, MAPS_OK);
		free(text);
		free(name);
	}
}

/* Flags longer than any buffer could hide a refusal in their end, wherever they are cut. */
static void endless_flags(void **state)
{
	(void)state;
	for (int padding = 1; padding <= 3; padding++) {
		struct found found;
		char flags[2048], text[4096];

		snprintf(flags, sizeof(flags), "VmFlags:%*srd wr mr mw", padding, "");
		while (strlen(flags) < 1500)
			strcat(flags, " sd");
		snprintf(text, sizeof(text), HEAD FIELDS "%s lo \n", flags);
		assert_int_equal(read_text(text, 0, &found), 0);
		assert_int_equal(found.count, 1);
		assert_int_not_equal(found.map[0].refusal, MAPS_OK);
	}
}

static void numbers_are_bytes(void **state)
{
	(void)state;
	struct found found;

	assert_int_equal(read_text("7f0000000000-7f0000400000 rw-p 00000000 00:00 0 \n"
				   "Rss:               3072 kB\nAnonymous:         3068 kB\n"
				   "AnonHugePages:     2048 kB\nSwap:                16 kB\n"
				   "SwapPss:              1 kB\n" RW_FLAGS,
				 0, &found),
		0);
	assert_int_equal(found.count, 1);
	assert_int_equal(found.map[0].start, 0x7f0000000000);
	assert_int_equal(found.map[0].end, 0x7f0000400000);
	assert_int_equal(found.map[0].rss, 3072 << 10);
	assert_int_equal(found.map[0].anon, 3068 << 10);
	assert_int_equal(found.map[0].anon_huge, 2048 << 10);
	assert_int_equal(found.map[0].swap, 16 << 10);
}

static void callback_stops(void **state)
{
	(void)state;
	struct found found = {.stop_at = 0};
	struct fake_proc f;

	fake_proc_init(&f);
	fake_proc_write(&f, "smaps",
		HEAD FIELDS RW_FLAGS
		"7f0000200000-7f0000600000 rw-p 00000000 00:00 0 \n" FIELDS RW_FLAGS);
	assert_int_equal(maps_read(f.fd, 0, keep, &found), 7);
	assert_int_equal(found.count, 1);
	found = (struct found){
		.stop_at = 1}; /* the last, which is reported at the end of the text */
	assert_int_equal(maps_read(f.fd, 0, keep, &found), 7);
	assert_int_equal(found.count, 2);
	fake_proc_done(&f);
}

static void no_file(void **state)
{
	(void)state;
	struct found found = {.stop_at = -1};
	struct fake_proc f;

	fake_proc_init(&f);
	assert_int_equal(maps_read(f.fd, 0, keep, &found), -ENOENT);
	assert_int_equal(found.count, 0);
	fake_proc_done(&f);
}

static void every_refusal_has_a_text(void **state)
{
	(void)state;
	for (unsigned r = 0; r < MAP_REFUSAL_COUNT; r++) {
		assert_non_null(map_refusal_text((enum map_refusal)r));
		for (unsigned other = 0; other < r; other++)
			assert_string_not_equal(map_refusal_text((enum map_refusal)r),
				map_refusal_text((enum map_refusal)other));
	}
	assert_string_equal(map_refusal_text((enum map_refusal)99), "unknown");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_kind_of_mapping),
		cmocka_unit_test(odd_text_is_not_managed),
		cmocka_unit_test(long_names),
		cmocka_unit_test(endless_flags),
		cmocka_unit_test(numbers_are_bytes),
		cmocka_unit_test(callback_stops),
		cmocka_unit_test(no_file),
		cmocka_unit_test(every_refusal_has_a_text),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
