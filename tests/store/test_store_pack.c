/* Packing: every page comes back as it was, by the codec that its kind calls for. */
#include <errno.h>
#include <malloc.h>
#include <string.h>

#include "pack.h"
#include "store_world.h"

static void expect_round_trip(struct store_scratch *x, const struct store_method *how,
	const unsigned char *page, enum store_codec codec, uint32_t *ret_length)
{
	unsigned char again[STORE_PAGE];
	struct store_packed p;

	assert_int_equal(store_pack(x, how, page, &p), 0);
	assert_int_equal(p.codec, codec);
	assert_int_equal(store_unpack(x, &p, again), 0);
	assert_memory_equal(again, page, STORE_PAGE);
	if (ret_length)
		*ret_length = p.length;
}

static const struct store_method zstd = {.codec = CODEC_ZSTD};

static void kinds_find_their_codec(void **state)
{
	static const struct {
		const struct store_method *how;
		enum page_kind kind;
		enum store_codec codec;
		uint32_t least, most;
	} cases[] = {
		{NULL, PAGE_FILL, CODEC_FILL, 8, 8},
		{NULL, PAGE_TEXT, CODEC_LZ4, 1000, STORE_RAW_ABOVE},
		{NULL, PAGE_NOISE, CODEC_RAW, STORE_PAGE, STORE_PAGE},
		{&zstd, PAGE_FILL, CODEC_FILL, 8, 8},
		{&zstd, PAGE_TEXT, CODEC_ZSTD, 1000, STORE_RAW_ABOVE},
		{&zstd, PAGE_NOISE, CODEC_RAW, STORE_PAGE, STORE_PAGE},
	};
	unsigned char page[STORE_PAGE];
	struct store_scratch *x;
	uint32_t length;

	(void)state;
	assert_int_equal(store_scratch_new(&x), 0);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		page_make(page, cases[i].kind, 7 + i);
		expect_round_trip(x, cases[i].how, page, cases[i].codec, &length);
		assert_in_range(length, cases[i].least, cases[i].most);
	}
	store_scratch_free(x);
}

/* Words of few letters: something for zstd's entropy coder, and matches for both. */
static void make_words(unsigned char page[STORE_PAGE], uint64_t seed)
{
	static const char *const words[] = {"user", "name", "address", "city", "1984", "true",
		"null", "\":{\"", "\",\"", "seven", "letters", "mail"};

	for (size_t i = 0; i < STORE_PAGE;) {
		const char *w = words[next_random(&seed) % (sizeof(words) / sizeof(words[0]))];
		for (; *w && i < STORE_PAGE; w++)
			page[i++] = (unsigned char)*w;
	}
}

static void every_level_round_trips(void **state)
{
	unsigned char page[STORE_PAGE];
	struct store_scratch *x;

	(void)state;
	assert_int_equal(store_scratch_new(&x), 0);
	for (int level = 0; level <= STORE_ZSTD_LEVEL_MAX; level++) {
		struct store_method how = {.codec = CODEC_ZSTD, .level = level};
		assert_true(store_method_valid(&how));
		make_words(page, (uint64_t)level);
		expect_round_trip(x, &how, page, CODEC_ZSTD, NULL);
	}
	store_scratch_free(x);
}

static void zstd_is_denser_than_lz4_and_high_levels_than_low(void **state)
{
	static const struct store_method methods[] = {
		{CODEC_LZ4, 0}, {CODEC_ZSTD, 1}, {CODEC_ZSTD, STORE_ZSTD_LEVEL_MAX}};
	uint64_t bytes[3] = {0};
	unsigned char page[STORE_PAGE];
	struct store_scratch *x;
	struct store_packed p;

	(void)state;
	assert_int_equal(store_scratch_new(&x), 0);
	for (uint64_t seed = 0; seed < 50; seed++) {
		make_words(page, seed);
		for (unsigned m = 0; m < 3; m++) {
			assert_int_equal(store_pack(x, &methods[m], page, &p), 0);
			bytes[m] += p.length;
		}
	}
	assert_true(bytes[1] < bytes[0]);
	assert_true(bytes[2] < bytes[1]);
	store_scratch_free(x);
}

static void methods_without_meaning_are_invalid(void **state)
{
	static const struct store_method bad[] = {{CODEC_LZ4, 1}, {CODEC_LZ4, -1},
		{CODEC_ZSTD, -1}, {CODEC_ZSTD, STORE_ZSTD_LEVEL_MAX + 1}, {CODEC_FILL, 0},
		{CODEC_RAW, 0}, {(enum store_codec)0, 0}, {(enum store_codec)STORE_CODECS, 0}};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_false(store_method_valid(&bad[i]));
}

/* A fault unpacks, and waits for no memory. (The address sanitizer counts nothing here.) */
static void unpacking_allocates_nothing(void **state)
{
	unsigned char page[STORE_PAGE], got[STORE_PAGE];
	struct store_scratch *packer, *fresh;
	struct store_packed p;

	(void)state;
	assert_int_equal(store_scratch_new(&packer), 0);
	make_words(page, 1);
	assert_int_equal(store_pack(packer, &zstd, page, &p), 0);
	assert_int_equal(store_scratch_new(&fresh), 0);
	struct mallinfo2 before = mallinfo2();
	assert_int_equal(store_unpack(fresh, &p, got), 0);
	struct mallinfo2 after = mallinfo2();
	assert_memory_equal(got, page, STORE_PAGE);
	assert_int_equal(after.uordblks, before.uordblks);
	assert_int_equal(after.hblkhd, before.hblkhd);
	store_scratch_free(fresh);
	store_scratch_free(packer);
}

static void zeros_are_a_fill(void **state)
{
	static const unsigned char zeros[STORE_PAGE];
	struct store_scratch *x;

	(void)state;
	assert_int_equal(store_scratch_new(&x), 0);
	expect_round_trip(x, NULL, zeros, CODEC_FILL, NULL);
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
		expect_round_trip(x, NULL, page, CODEC_LZ4, NULL);
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
		assert_int_equal(store_pack(x, NULL, page, &p), 0);
		expect_round_trip(x, NULL, page, p.codec, NULL);
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

static int faulty_unpack(void *context, const void *bytes, size_t length, void *page)
{
	int r = codec_lz4.unpack(context, bytes, length, page);

	((unsigned char *)page)[1234] ^= 1;
	return r;
}

static int refusing_unpack(void *context, const void *bytes, size_t length, void *page)
{
	(void)context, (void)bytes, (void)length, (void)page;
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
		assert_int_equal(pack_with(x, table, NULL, page, &p), -EBADMSG);
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
	assert_int_equal(store_pack(x, NULL, page, &p), 0);
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
	assert_int_equal(store_pack(x, NULL, page, &good), 0);
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

static void refuse_or_unpack(struct store_scratch *x, const struct store_packed *p)
{
	unsigned char page[STORE_PAGE];

	assert_int_equal(store_unpack(x, p, page), -EBADMSG);
}

/* Under the address sanitizer, this is about reads and writes out of bounds. Noise, and good
 * bytes of which some were changed: these get further. */
static void codecs_survive_any_bytes(void **state)
{
	uint64_t seed = 42;
	unsigned char noise[STORE_PAGE], page[STORE_PAGE], spoilt[STORE_PAGE];
	struct store_scratch *x;
	struct store_packed good, p;

	(void)state;
	assert_int_equal(store_scratch_new(&x), 0);
	make_words(page, 1);
	page_make(noise, PAGE_NOISE, 2);
	for (unsigned round = 0; round < 10000; round++) {
		for (uint8_t id = 1; id < CODEC_COUNT; id++) {
			p = (struct store_packed){.bytes = noise + next_random(&seed) % 64,
				.length = (uint16_t)(1 + next_random(&seed) % 4000),
				.codec = id};
			refuse_or_unpack(x, &p);
		}
		assert_int_equal(store_pack(x, &zstd, page, &good), 0);
		memcpy(spoilt, good.bytes, good.length);
		for (unsigned n = 0; n < 3; n++)
			spoilt[next_random(&seed) % good.length] ^=
				(unsigned char)(1 + next_random(&seed) % 255);
		p = good;
		p.bytes = spoilt;
		p.checksum ^= memcmp(spoilt, good.bytes, good.length) == 0; /* by chance */
		refuse_or_unpack(x, &p);
	}
	store_scratch_free(x);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(kinds_find_their_codec),
		cmocka_unit_test(every_level_round_trips),
		cmocka_unit_test(zstd_is_denser_than_lz4_and_high_levels_than_low),
		cmocka_unit_test(methods_without_meaning_are_invalid),
		cmocka_unit_test(unpacking_allocates_nothing),
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
