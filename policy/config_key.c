#include "config_key.h"

#include <string.h>

#define SERVICE_KEY(field) SECTION_SERVICE, .offset = offsetof(struct config, field)
#define STORE_KEY(field)   SECTION_STORE, .offset = offsetof(struct config, field)
#define POLICY_KEY(field)  SECTION_POLICY, .offset = offsetof(struct policy, field)

static const char *const codec_choices[] = {
	[POLICY_LZ4] = "lz4", [POLICY_ZSTD] = "zstd", [POLICY_ZSTD + 1] = NULL};

static const char *const unshare_choices[] = {[POLICY_UNSHARE_AUTO] = "auto",
	[POLICY_UNSHARE_NEVER] = "never",
	[POLICY_UNSHARE_ALWAYS] = "always",
	[POLICY_UNSHARE_ALWAYS + 1] = NULL};

/* clang-format off: a table is read in columns */
const struct config_key config_keys[] = {
	{SERVICE_KEY(allow_user), .name = "allow-user", .type = VALUE_LIST, .fallback = "root",
		.may_be_empty = true, .reload = true,
		.help = "who may have programs taken over: names or numbers; * is everyone, "
			"root always may"},
	{SERVICE_KEY(allow_group), .name = "allow-group", .type = VALUE_LIST,
		.fallback = "larder", .may_be_empty = true, .reload = true,
		.help = "who may by group, any of the program's groups; * is everyone"},
	{SERVICE_KEY(user_clients), .name = "clients-per-user", .type = VALUE_UNSIGNED,
		.fallback = "4096", .min = "1", .max = "1000000", .reload = true,
		.help = "most programs of one user that are taken over at a time; root's are "
			"not counted"},
	{SERVICE_KEY(readers), .name = "readers", .type = VALUE_UNSIGNED, .fallback = "0",
		.min = "0", .max = "1024",
		.help = "threads that answer page faults; 0 is one per CPU"},
	{SERVICE_KEY(watchdog_ms), .name = "watchdog", .type = VALUE_DURATION,
		.fallback = "30s", .min = "1s", .max = "1d", .or_zero = true, .reload = true,
		.help = "when the service hangs for this long, so that programs wait for it, "
			"its worker is ended and another takes over; 0: never"},

	{STORE_KEY(store_limit), .name = "memory-limit", .type = VALUE_SIZE, .fallback = "0",
		.min = "8M", .max = "1024T", .or_zero = true,
		.help = "most that the packed pages of all programs may take; 0 is half of the "
			"machine's memory"},

	{STORE_KEY(owner_limit), .name = "owner-limit", .type = VALUE_PERCENT,
		.fallback = "50%", .min = "1%", .max = "100%", .reload = true,
		.help = "most of the memory-limit that the packed pages of one user's programs "
			"may take"},

	{STORE_KEY(scrub_every_ms), .name = "scrub-every", .type = VALUE_DURATION,
		.fallback = "1d", .min = "1s", .max = "3650d", .never = true, .reload = true,
		.help = "all packed pages are looked at once in this time, whether they can "
			"still be unpacked to what they were; or never"},

	{POLICY_KEY(match_exe), .name = "match-exe", .type = VALUE_LIST, .fallback = "",
		.match = true, .reload = true,
		.help = "executables, as globs; with a slash the whole path is compared (* "
			"spans slashes), else its last part"},
	{POLICY_KEY(match_user), .name = "match-user", .type = VALUE_LIST, .fallback = "",
		.match = true, .reload = true,
		.help = "owners of the program: names or numbers, * is everyone; with "
			"match-exe both must fit"},
	{POLICY_KEY(manage), .name = "manage", .type = VALUE_BOOL, .fallback = "yes",
		.reload = true,
		.help = "whether programs of this policy are taken over at all"},
	{POLICY_KEY(inherit), .name = "inherit", .type = VALUE_BOOL, .fallback = "yes",
		.reload = true, .help = "whether children are taken over too"},
	{POLICY_KEY(min_age_ms), .name = "min-age", .type = VALUE_DURATION, .fallback = "0",
		.min = "0", .max = "3650d", .reload = true,
		.help = "a program younger than this is left alone"},
	{POLICY_KEY(brief_age_ms), .name = "brief-age", .type = VALUE_DURATION,
		.fallback = "10s", .min = "0", .max = "3650d", .reload = true,
		.help = "executables that start often and keep ending before this age, as "
			"compilers do, are not taken over; 0: all are"},
	{POLICY_KEY(cold_after_ms), .name = "cold-after", .type = VALUE_DURATION,
		.fallback = "0", .min = "0", .max = "3650d", .reload = true,
		.help = "a page unused for this long leaves; 0 is only by order (larder "
			"evict)"},
	{POLICY_KEY(stall_budget), .name = "stall-budget", .type = VALUE_PERCENT,
		.fallback = "0.1%", .min = "0%", .max = "100%", .reload = true,
		.help = "share of its time that a program may wait for its pages"},
	{POLICY_KEY(codec), .name = "codec", .type = VALUE_CHOICE, .fallback = "lz4",
		.choices = codec_choices, .reload = true,
		.help = "how pages are packed: lz4 is fast, zstd denser and some microseconds "
			"slower to unpack"},
	{POLICY_KEY(level), .name = "level", .type = VALUE_UNSIGNED, .fallback = "0",
		.min = "0", .max = "19", .reload = true,
		.help = "how hard zstd tries, from 1 to 19; 0 is its own choice; lz4 has no "
			"levels"},
	{POLICY_KEY(recompress_after_ms), .name = "recompress-after", .type = VALUE_DURATION,
		.fallback = "never", .min = "1s", .max = "3650d", .never = true, .reload = true,
		.help = "pages that have been out for this long are packed again, from lz4 to "
			"zstd, when there is nothing else to do; or never"},
	{POLICY_KEY(unshare), .name = "unshare", .type = VALUE_CHOICE, .fallback = "auto",
		.choices = unshare_choices, .reload = true,
		.help = "whether pages that a fork made shared leave: auto, when nobody else "
			"has them any more; always, also when each process then has its own "
			"in the store"},
	{POLICY_KEY(keep_huge), .name = "keep-huge", .type = VALUE_BOOL, .fallback = "no",
		.reload = true,
		.help = "whether what left as a huge page becomes one again when all of it is "
			"back; the program waits some 1 ms for each when it uses it or "
			"changes its mappings just then"},
	{POLICY_KEY(memory_limit), .name = "memory-limit", .type = VALUE_SIZE, .fallback = "0",
		.min = "0", .max = "1024T", .reload = true,
		.help = "most that the packed pages of one program may take; 0 is no limit but "
			"the store's"},
};
/* clang-format on */
const size_t config_key_count = sizeof(config_keys) / sizeof(config_keys[0]);
_Static_assert(sizeof(config_keys) <= CONFIG_KEYS_MAX * sizeof(config_keys[0]),
	"config_read and config_dump keep something for each key");

static const char *const section_names[SECTION_COUNT] = {
	[SECTION_SERVICE] = "service",
	[SECTION_STORE] = "store",
	[SECTION_POLICY] = "policy",
};

const char *config_section_name(enum config_section s)
{
	return section_names[s];
}

const struct config_key *config_key_find(enum config_section s, const char *name)
{
	for (size_t i = 0; i < config_key_count; i++)
		if (config_keys[i].section == s && strcmp(config_keys[i].name, name) == 0)
			return &config_keys[i];
	return NULL;
}

/* Longer names are no misspelling of a key of ours. */
#define NEAR_MAX 31

static size_t min3(size_t a, size_t b, size_t c)
{
	size_t ab = a < b ? a : b;
	return ab < c ? ab : c;
}

/* Edits (insert, delete, replace a byte) that turn a into b: Levenshtein's distance, one row of
 * his matrix at a time. */
static size_t distance(const char *a, const char *b)
{
	size_t na = strlen(a), nb = strlen(b), row[NEAR_MAX + 1];
	if (na > NEAR_MAX || nb > NEAR_MAX)
		return SIZE_MAX;
	for (size_t j = 0; j <= nb; j++)
		row[j] = j;
	for (size_t i = 1; i <= na; i++) {
		size_t diagonal = row[0];
		row[0] = i;
		for (size_t j = 1; j <= nb; j++) {
			size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
			diagonal = row[j];
			row[j] = min3(replaced, row[j] + 1, row[j - 1] + 1);
		}
	}
	return row[nb];
}

/* Takes candidate as *best if it is nearer. A third of the letters may be wrong, or two: more,
 * and the suggestion would be a guess. */
static void consider(
	const char *name, const char *candidate, const char **best, size_t *best_at)
{
	size_t d = distance(name, candidate), third = strlen(candidate) / 3;
	if (d < *best_at && d <= (third > 2 ? third : 2)) {
		*best = candidate;
		*best_at = d;
	}
}

const char *config_key_near(enum config_section s, const char *name)
{
	const char *best = NULL;
	size_t best_at = SIZE_MAX;
	for (size_t i = 0; i < config_key_count; i++)
		if (config_keys[i].section == s)
			consider(name, config_keys[i].name, &best, &best_at);
	return best;
}

const char *config_section_near(const char *name)
{
	const char *best = NULL;
	size_t best_at = SIZE_MAX;
	for (size_t i = 0; i < SECTION_COUNT; i++)
		consider(name, section_names[i], &best, &best_at);
	return best;
}

void *config_key_field(const struct config_key *key, struct config *c, size_t policy_index)
{
	char *base =
		key->section == SECTION_POLICY ? (char *)&c->policies[policy_index] : (char *)c;
	return base + key->offset;
}

const void *config_key_value(
	const struct config_key *key, const struct config *c, size_t policy_index)
{
	const char *base = key->section == SECTION_POLICY
				   ? (const char *)&c->policies[policy_index]
				   : (const char *)c;
	return base + key->offset;
}
