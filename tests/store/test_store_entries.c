/* The packed entries of an index row: round trips, density, and any bytes whatever. */
#include <errno.h>
#include <string.h>

#include "entries.h"
#include "store_world.h"

static void expect_round_trip(const struct index_entry e[STORE_LEAF_PAGES], size_t *ret_length)
{
	struct index_entry got[STORE_LEAF_PAGES];
	unsigned char bytes[ENTRIES_MAX];
	size_t n = index_pack(e, bytes);

	assert_in_range(n, 1 + STORE_LEAF_PAGES / 8, ENTRIES_MAX);
	assert_int_equal(index_unpack(bytes, n, got), 0);
	for (unsigned i = 0; i < STORE_LEAF_PAGES; i++) {
		assert_int_equal(got[i].blob, e[i].blob);
		assert_int_equal(got[i].check, e[i].check);
	}
	if (ret_length)
		*ret_length = n;
}

static void random_entries(struct index_entry e[STORE_LEAF_PAGES], uint64_t *seed)
{
	uint64_t share = next_random(seed) % 9, range = 1 + next_random(seed) % BLOB_MAX;

	for (unsigned i = 0; i < STORE_LEAF_PAGES; i++) {
		e[i] = (struct index_entry){0};
		if (next_random(seed) % 8 >= share)
			continue;
		e[i].blob = (blob_t)(1 + next_random(seed) % range);
		e[i].check = (uint32_t)next_random(seed);
	}
}

static void entries_round_trip(void **state)
{
	struct index_entry e[STORE_LEAF_PAGES];
	uint64_t seed = 1;

	(void)state;
	for (unsigned round = 0; round < 2000; round++) {
		random_entries(e, &seed);
		expect_round_trip(e, NULL);
	}
}

static void extremes_round_trip(void **state)
{
	struct index_entry e[STORE_LEAF_PAGES] = {0};

	(void)state;
	expect_round_trip(e, NULL);
	for (unsigned i = 0; i < STORE_LEAF_PAGES; i++)
		e[i] = (struct index_entry){.blob = i % 2 ? 1 : BLOB_MAX, .check = UINT32_MAX};
	expect_round_trip(e, NULL);
}

static void pages_put_in_order_take_five_bytes(void **state)
{
	struct index_entry e[STORE_LEAF_PAGES];
	size_t n;

	(void)state;
	for (unsigned i = 0; i < STORE_LEAF_PAGES; i++)
		e[i] = (struct index_entry){.blob = 200000000 + i, .check = i};
	expect_round_trip(e, &n);
	assert_in_range(n, 1, 65 + 5 * STORE_LEAF_PAGES + 4);
}

static void cut_or_longer_bytes_are_refused(void **state)
{
	struct index_entry e[STORE_LEAF_PAGES], got[STORE_LEAF_PAGES];
	unsigned char bytes[ENTRIES_MAX + 1] = {0};
	uint64_t seed = 5;

	(void)state;
	random_entries(e, &seed);
	memset(got, 0x77, sizeof(got));
	size_t n = index_pack(e, bytes);
	for (size_t cut = 0; cut < n; cut++)
		assert_int_equal(index_unpack(bytes, cut, got), -EBADMSG);
	assert_int_equal(index_unpack(bytes, n + 1, got), -EBADMSG);
	assert_int_equal(got[0].blob, 0x77777777); /* untouched on failure */
}

static void other_versions_are_refused(void **state)
{
	struct index_entry e[STORE_LEAF_PAGES] = {{.blob = 1}}, got[STORE_LEAF_PAGES];
	unsigned char bytes[ENTRIES_MAX];

	(void)state;
	size_t n = index_pack(e, bytes);
	for (unsigned v = 0; v < 256; v++) {
		bytes[0] = (unsigned char)v;
		assert_int_equal(
			index_unpack(bytes, n, got), v == ENTRIES_VERSION ? 0 : -EBADMSG);
	}
}

/* One page's entry, with these bytes for the handle. */
static int unpack_handle(const char *handle, size_t length)
{
	struct index_entry got[STORE_LEAF_PAGES];
	unsigned char bytes[ENTRIES_MAX] = {ENTRIES_VERSION, 1};

	memcpy(bytes + 65, handle, length);
	return index_unpack(bytes, 65 + length + 4, got);
}

static void bad_handles_are_refused(void **state)
{
	static const struct {
		const char *bytes;
		size_t length;
		int r;
	} cases[] = {
		{"\x02", 1, 0},				   /* 1 */
		{"\x00", 1, -EBADMSG},			   /* 0 is no blob */
		{"\x01", 1, -EBADMSG},			   /* -1 */
		{"\x82\x00", 2, -EBADMSG},		   /* 1 with a superfluous byte */
		{"\xfe\xff\xff\xff\x01", 5, 0},		   /* BLOB_MAX */
		{"\x80\x80\x80\x80\x02", 5, -EBADMSG},	   /* BLOB_MAX + 1 */
		{"\xfe\xff\xff\xff\x7f", 5, -EBADMSG},	   /* beyond 32 bits */
		{"\x82\x80\x80\x80\x80\x00", 6, -EBADMSG}, /* too long */
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_int_equal(unpack_handle(cases[i].bytes, cases[i].length), cases[i].r);
}

/* What is accepted is canonical: packed again, it is the same bytes. */
static void mutated_bytes_are_refused_or_canonical(void **state)
{
	struct index_entry e[STORE_LEAF_PAGES], got[STORE_LEAF_PAGES];
	unsigned char bytes[ENTRIES_MAX], again[ENTRIES_MAX];
	uint64_t seed = 99;
	unsigned refused = 0;

	(void)state;
	for (unsigned round = 0; round < 20000; round++) {
		random_entries(e, &seed);
		size_t n = index_pack(e, bytes);
		for (uint64_t k = next_random(&seed) % 4 + 1; k > 0; k--)
			bytes[next_random(&seed) % n] = (unsigned char)next_random(&seed);
		int r = index_unpack(bytes, n, got);
		if (r < 0) {
			assert_int_equal(r, -EBADMSG);
			refused++;
			continue;
		}
		assert_int_equal(index_pack(got, again), n);
		assert_memory_equal(again, bytes, n);
	}
	assert_in_range(refused, 100, 19900);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(entries_round_trip),
		cmocka_unit_test(extremes_round_trip),
		cmocka_unit_test(pages_put_in_order_take_five_bytes),
		cmocka_unit_test(cut_or_longer_bytes_are_refused),
		cmocka_unit_test(other_versions_are_refused),
		cmocka_unit_test(bad_handles_are_refused),
		cmocka_unit_test(mutated_bytes_are_refused_or_canonical),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
