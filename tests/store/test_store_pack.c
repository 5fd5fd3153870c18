/* Packing: every page comes back as it was, by the codec that its kind calls for. */
#include <errno.h>
#include <string.h>

#include "pack.h"
#include "store_world.h"

static void expect_round_trip(struct store_scratch *x, const unsigned char *page,
	enum store_codec codec, uint32_t *ret_length)
{
	unsigned char again[STORE_PAGE];
	struct store_packed p;

	assert_int_equal(store_pack(x, page, &p), 0);
	assert_int_equal(p.codec, codec);
	assert_int_equal(store_unpack(x, &p, again), 0);
	assert_memory_equal(again, page, STORE_PAGE);
	if (ret_length)
		*ret_length = p.length;
}

static void kinds_find_their_codec(void **state)
{
	static const struct {
		enum page_kind kind;
		enum store_codec codec;
		uint32_t least, most;
	} cases[] = {
		{PAGE_FILL, CODEC_FILL, 8, 8},
		{PAGE_TEXT, CODEC_LZ4, 1000, STORE_RAW_ABOVE},
		{PAGE_NOISE, CODEC_RAW, STORE_PAGE, STORE_PAGE},
	};
	unsigned char page[STORE_PAGE];
	struct store_scratch *x;
	uint32_t length;

	(void)state;
	assert_int_equal(store_scratch_new(&x), 0);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		page_make(page, cases[i].kind, 7 + i);
		expect_round_trip(x, page, cases[i].codec, &length);
		assert_in_range(length, cases[i].least, cases[i].most);
	}
	store_scratch_free(x);
}

static void zeros_are_a_fill(void **state)
{
	static const unsigned char zeros[STORE_PAGE];
	struct store_scratch *x;

	(void)state;
	assert_int_equal(store_scratch_new(&x), 0);
	expect_round_trip(x, zeros, CODEC_FILL, NULL);
	store_scratch_free(x);
}

static void one_other_byte_is_no_fill(void **state)
{
	unsigned char page[STORE_PAGE];
	struct store_scratch *x;

	(void)state;
	assert_int_equal(store_scratch_new(&x), 0);
	for (size_t i = 0; i < STORE_PAGE; i++) {
		memset(page, 0x5a, sizeof(page));
		page[i] ^= 1;
		expect_round_trip(x, page, CODEC_LZ4, NULL);
	}
	store_scratch_free(x);
}

/* Noise with zeros behind it packs to a little more than the noise. */
static void raw_begins_above_the_limit(void **state)
{
	unsigned char page[STORE_PAGE];
	struct store_scratch *x;
	struct store_packed p;
	uint32_t longest = 0, raws = 0;

	(void)state;
	assert_int_equal(store_scratch_new(&x), 0);
	for (size_t noise = STORE_RAW_ABOVE - 100; noise < STORE_RAW_ABOVE + 100; noise++) {
		page_make(page, PAGE_NOISE, 3);
		memset(page + noise, 0, STORE_PAGE - noise);
		assert_int_equal(store_pack(x, page, &p), 0);
		expect_round_trip(x, page, p.codec, NULL);
		if (p.codec == CODEC_RAW) {
			raws++;
			continue;
		}
		assert_int_equal(p.codec, CODEC_LZ4);
		assert_int_equal(raws, 0);
		longest = p.length;
	}
	/* lz4 gives up a few bytes before the room is full. */
	assert_in_range(longest, STORE_RAW_ABOVE - 16, STORE_RAW_ABOVE);
	assert_in_range(raws, 50, 150);
	store_scratch_free(x);
}

static int faulty_unpack(void *state, const void *bytes, size_t length, void *page)
{
	int r = codec_lz4.unpack(state, bytes, length, page);

	((unsigned char *)page)[1234] ^= 1;
	return r;
}

static int refusing_unpack(void *state, const void *bytes, size_t length, void *page)
{
	(void)state, (void)bytes, (void)length, (void)page;
	return -EBADMSG;
}

static void faulty_codec_is_noticed(void **state)
{
	int (*const faults[])(void *, const void *, size_t, void *) = {
		faulty_unpack, refusing_unpack};
	unsigned char page[STORE_PAGE];
	struct store_scratch *x;
	struct store_packed p = {.length = 77};

	(void)state;
	assert_int_equal(store_scratch_new(&x), 0);
	page_make(page, PAGE_TEXT, 1);
	for (size_t i = 0; i < 2; i++) {
		struct codec faulty = codec_lz4;
		faulty.unpack = faults[i];
		const struct codec *table[CODEC_COUNT] = {
			[CODEC_LZ4] = &faulty, [CODEC_RAW] = &codec_raw};
		assert_int_equal(pack_with(x, table, page, &p), -EBADMSG);
		assert_int_equal(p.length, 77);
	}
	store_scratch_free(x);
}

static void packed_page_does_not_follow_the_page(void **state)
{
	unsigned char page[STORE_PAGE], want[STORE_PAGE], got[STORE_PAGE];
	struct store_scratch *x;
	struct store_packed p;

	(void)state;
	assert_int_equal(store_scratch_new(&x), 0);
	page_make(page, PAGE_NOISE, 5);
	memcpy(want, page, STORE_PAGE);
	assert_int_equal(store_pack(x, page, &p), 0);
	memset(page, 0, STORE_PAGE);
	assert_int_equal(store_unpack(x, &p, got), 0);
	assert_memory_equal(got, want, STORE_PAGE);
	store_scratch_free(x);
}

static void unpack_refuses_what_pack_never_gave(void **state)
{
	unsigned char page[STORE_PAGE], got[STORE_PAGE];
	struct store_scratch *x;
	struct store_packed good, p;

	(void)state;
	assert_int_equal(store_scratch_new(&x), 0);
	page_make(page, PAGE_TEXT, 5);
	assert_int_equal(store_pack(x, page, &good), 0);
	for (unsigned codec = 0; codec < 256; codec++) {
		p = good;
		p.codec = (uint8_t)codec;
		assert_int_equal(store_unpack(x, &p, got), codec == CODEC_LZ4 ? 0 : -EBADMSG);
	}
	for (unsigned length = 0; length < good.length; length++) {
		p = good;
		p.length = (uint16_t)length;
		assert_int_equal(store_unpack(x, &p, got), -EBADMSG);
	}
	p = good;
	p.checksum ^= 1;
	assert_int_equal(store_unpack(x, &p, got), -EBADMSG);
	store_scratch_free(x);
}

/* Under the address sanitizer, this is about reads and writes out of bounds. */
static void codecs_survive_any_bytes(void **state)
{
	uint64_t seed = 42;
	unsigned char bytes[STORE_PAGE], page[STORE_PAGE];

	(void)state;
	for (unsigned round = 0; round < 20000; round++) {
		size_t length = 1 + next_random(&seed) % STORE_PAGE;
		for (size_t i = 0; i < length; i++)
			bytes[i] = (unsigned char)next_random(&seed);
		for (unsigned id = 1; id < CODEC_COUNT; id++) {
			int r = codecs[id]->unpack(NULL, bytes, length, page);
			assert_true(r == 0 || r == -EBADMSG);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(kinds_find_their_codec),
		cmocka_unit_test(zeros_are_a_fill),
		cmocka_unit_test(one_other_byte_is_no_fill),
		cmocka_unit_test(raw_begins_above_the_limit),
		cmocka_unit_test(faulty_codec_is_noticed),
		cmocka_unit_test(packed_page_does_not_follow_the_page),
		cmocka_unit_test(unpack_refuses_what_pack_never_gave),
		cmocka_unit_test(codecs_survive_any_bytes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
