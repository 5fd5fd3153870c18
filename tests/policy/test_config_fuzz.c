/* No text may harm: it gives a config that dumps and reads back the same, or an error with line
 * and message. The seed is printed; LARDER_SEED repeats a run. */
#include "test_cmocka.h"

#include "config_text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDS	 20000
#define TEXT_MAX 1024

static uint64_t seed;

static uint64_t next(void)
{
	/* xorshift64 */
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static size_t below(size_t n)
{
	return (size_t)(next() % n);
}

/* Pieces that get far into the parser. */
static const char *const pieces[] = {"[service]\n", "[store]\n", "[policy ", "]\n",
	"default]\n", "a]\n", "b]\n", "\n", "\n", "\n", " = ", "=", ":", " ", "\t", ",", ";",
	" ;", "#", "*", "allow-user", "allow-group", "readers", "memory-limit", "match-exe",
	"match-user", "manage", "inherit", "min-age", "cold-after", "stall-budget", "codec",
	"level", "recompress-after", "owner-limit", "lz4", "zstd", "never", "codec = zstd\n",
	"level = 3\n", "yes", "no", "0", "1", "7", "1.5", "999", "K", "M", "GiB", "T", "ms",
	"s", "m", "h", "d", "%", "/opt/x", "redis*", "\xc3\xa9", "\r\n", "\xef\xbb\xbf", "0.1%",
	"10m", "1G", "readers = 1\n", "memory-limit = 1G\n", "match-exe = a,b\n"};

static size_t make_pieces(char *text)
{
	size_t size = 0, count = below(40);
	for (size_t i = 0; i < count; i++) {
		const char *piece = pieces[below(sizeof(pieces) / sizeof(pieces[0]))];
		if (size + strlen(piece) > TEXT_MAX)
			break;
		memcpy(text + size, piece, strlen(piece));
		size += strlen(piece);
	}
	return size;
}

static size_t make_bytes(char *text)
{
	size_t size = below(TEXT_MAX);
	for (size_t i = 0; i < size; i++)
		text[i] = (char)next();
	return size;
}

static size_t make_text(char *text)
{
	size_t size = below(8) == 0 ? make_bytes(text) : make_pieces(text);
	for (size_t flips = below(4) == 0 ? below(4) : 0; size > 0 && flips > 0; flips--)
		text[below(size)] = (char)next();
	return size;
}

static void check_round_trip(const struct config *c)
{
	char *text = config_text(c);
	struct config *again = config_of(text);
	char *text_again = config_text(again);
	assert_string_equal(text, text_again);
	free(text);
	free(text_again);
	config_free(again);
}

static size_t count_lines(const char *text, size_t size)
{
	size_t n = 1;
	for (size_t i = 0; i < size; i++)
		n += text[i] == '\n';
	return n;
}

static void no_text_harms(void **state)
{
	(void)state;
	const char *given = getenv("LARDER_SEED");
	seed = given ? strtoull(given, NULL, 0) : 0x1a9d2e7c5b3f8041ull;
	print_message("LARDER_SEED=%llu\n", (unsigned long long)seed);
	unsigned taken = 0, refused = 0;
	for (int round = 0; round < ROUNDS; round++) {
		/* Exactly as long as the text, so that the sanitizer sees each byte beyond. */
		char buffer[TEXT_MAX];
		size_t size = make_text(buffer);
		char *text = malloc(size ? size : 1);
		memcpy(text, buffer, size);
		struct config *c = NULL;
		struct config_error err = {0};
		int r = config_of_bytes(text, size, &c, &err);
		if (r == 0) {
			check_round_trip(c);
			taken++;
		} else {
			assert_int_equal(r, -EINVAL);
			assert_null(c);
			assert_in_range(err.line, 1, count_lines(text, size));
			assert_in_range(strlen(err.message), 1, sizeof(err.message) - 1);
			refused++;
		}
		config_free(c);
		free(text);
	}
	/* A generator that only makes one kind would test nothing. */
	assert_true(taken > ROUNDS / 100);
	assert_true(refused > ROUNDS / 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(no_text_harms)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
