/* From INI text to a config.
 *
 *	FILE ── next_line ──▶ inih ── set_key ──▶ struct config
 *	        counts, checks,       one key, found in the
 *	        sees sections         table, at reader.line
 *
 * inih cuts lines that are too long, gives no line number, cuts names of sections at 49 bytes,
 *says nothing of sections without keys, takes an indented line for the rest of the value above,
 *and goes on after errors. So its lines come from a reader of ours, which counts them, refuses
 *what is not text, takes indentation away, handles the section headers, and ends the text at
 *the first error. What is left to inih is the grammar of one line. */
#include "config_key.h"
#include "config_make.h"
#include "config_value.h"
#include "utf8.h"

#include <errno.h>
#include <ini.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* Fits a label, a path, and inih's 49 bytes of "policy NAME". */
#define POLICY_NAME_MAX 40

/* Where a policy was written, for messages. */
struct policy_place {
	unsigned header;		/* line of [policy NAME] */
	unsigned key[CONFIG_KEYS_MAX]; /* line of each of its keys, 0 = not given */
};

struct reader {
	FILE *f; /* borrowed */
	struct config *config;
	struct config_error *err;
	int r;	       /* the first error, and nothing more is read */
	unsigned line; /* of the text being handled, from 1 */

	bool in_section;
	enum config_section section;
	unsigned section_line[SECTION_POLICY]; /* where it began, 0 = not yet */
	unsigned seen[CONFIG_KEYS_MAX]; /* line of each key of config_keys in this section */
	struct policy_place *places;	 /* owned; as many as the config has policies */
};

__attribute__((format(printf, 3, 4))) static int fail_at(
	struct reader *rd, unsigned line, const char *format, ...)
{
	if (rd->r < 0)
		return rd->r;
	va_list ap;
	va_start(ap, format);
	vsnprintf(rd->err->message, sizeof(rd->err->message), format, ap);
	va_end(ap);
	rd->err->line = line;
	rd->r = -EINVAL;
	return rd->r;
}

#define fail(rd, ...) fail_at(rd, (rd)->line, __VA_ARGS__)

/* Sections */

static void forget_keys(struct reader *rd)
{
	memset(rd->seen, 0, sizeof(rd->seen));
}

static int begin_single(struct reader *rd, enum config_section section)
{
	if (rd->section_line[section] != 0)
		return fail(rd, "a second [%s]: the first is in line %u",
			config_section_name(section), rd->section_line[section]);
	rd->section_line[section] = rd->line;
	rd->section = section;
	rd->in_section = true;
	forget_keys(rd);
	return 0;
}

static int policy_name_check(struct reader *rd, const char *name)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				      "0123456789._-";
	if (*name == '\0')
		return fail(rd, "a policy needs a name: [policy NAME]");
	if (strlen(name) > POLICY_NAME_MAX)
		return fail(rd, "the policy's name is longer than %d bytes", POLICY_NAME_MAX);
	if (name[strspn(name, allowed)] != '\0')
		return fail(rd, "a policy's name has only letters, digits, '.', '_' and '-'");
	return 0;
}

static int begin_policy(struct reader *rd, const char *name)
{
	struct config *c = rd->config;
	if (policy_name_check(rd, name) < 0)
		return rd->r;
	for (size_t i = 0; i < c->policy_count; i++)
		if (strcmp(c->policies[i].name, name) == 0)
			return fail(rd, "a second [policy %s]: the first is in line %u", name,
				rd->places[i].header);

	struct policy_place *places =
		reallocarray(rd->places, c->policy_count + 1, sizeof(*places));
	if (places)
		rd->places = places;
	rd->r = places ? config_add_policy(c, name) : -ENOMEM;
	if (rd->r < 0)
		return rd->r;
	places[c->policy_count - 1] = (struct policy_place){.header = rd->line};
	rd->section = SECTION_POLICY;
	rd->in_section = true;
	forget_keys(rd);
	return 0;
}

static int begin_section(struct reader *rd, char *name)
{
	const char *policy = config_section_name(SECTION_POLICY);
	size_t word = strcspn(name, " \t");
	char *rest = name + word;
	rest += strspn(rest, " \t");
	name[word] = '\0';

	if (strcmp(name, policy) == 0)
		return begin_policy(rd, rest);
	for (int s = 0; s < SECTION_POLICY && *rest == '\0'; s++)
		if (strcmp(name, config_section_name((enum config_section)s)) == 0)
			return begin_single(rd, (enum config_section)s);

	const char *near = config_section_near(name);
	if (near)
		return fail(rd, "unknown section [%s%s%s], did you mean [%s%s]?", name,
			*rest ? " " : "", rest, near, near == policy ? " NAME" : "");
	return fail(rd,
		"unknown section [%s%s%s]: there are [service], [store] and [policy NAME]",
		name, *rest ? " " : "", rest);
}

/* text begins with '['. */
static int section_header(struct reader *rd, const char *text)
{
	char name[256];
	size_t length = strcspn(text + 1, "]");
	const char *after = text + 1 + length;
	if (*after == '\0')
		return fail(rd, "the section's ] is missing");
	after++;
	after += strspn(after, " \t\r");
	if (*after && *after != ';' && *after != '#')
		return fail(rd, "text after the section's ]");
	while (length > 0 && (text[length] == ' ' || text[length] == '\t'))
		length--;
	snprintf(name, sizeof(name), "%.*s", (int)length, text + 1);
	return begin_section(rd, name);
}

/* Lines */

/* After a read that failed; stdio leaves its errno. EISDIR of a directory is one. */
static int read_error(void)
{
	return errno > 0 ? -errno : -EIO;
}

/* Reads a line without its end into text. -ENODATA: there is none. */
static int read_line(struct reader *rd, char *text, size_t size, size_t *ret_length)
{
	size_t length = 0;
	int c = getc(rd->f);
	if (c == EOF)
		return ferror(rd->f) ? read_error() : -ENODATA;
	rd->line++;
	for (; c != EOF && c != '\n'; c = getc(rd->f)) {
		if (length + 1 >= size)
			return fail(rd, "the line is longer than %zu bytes", size - 1);
		text[length++] = (char)c;
	}
	if (ferror(rd->f))
		return read_error();
	text[length] = '\0';
	*ret_length = length;
	return 0;
}

static int check_bytes(struct reader *rd, const char *text, size_t length)
{
	if (memchr(text, '\0', length))
		return fail(rd, "a NUL byte: this is not a text file");
	size_t valid = utf8_span(text, length);
	if (valid < length)
		return fail(rd, "byte 0x%02x is not UTF-8 text", (unsigned char)text[valid]);
	for (size_t i = 0; i < length; i++) {
		unsigned char c = (unsigned char)text[i];
		bool line_end = c == '\r' && i + 1 == length;
		if ((c < ' ' && c != '\t' && !line_end) || c == 0x7f)
			return fail(rd, "control character 0x%02x", c);
	}
	return 0;
}

/* inih's reader: like fgets, NULL at the end or after an error. */
static char *next_line(char *buffer, int size, void *arg)
{
	static const char bom[] = "\xef\xbb\xbf";
	struct reader *rd = arg;
	size_t length = 0;
	if (rd->r < 0)
		return NULL;
	/* inih takes a line that fills its buffer for part of a longer one. */
	int r = read_line(rd, buffer, (size_t)size - 2, &length);
	if (r == -ENODATA)
		return NULL;
	if (r == 0)
		r = check_bytes(rd, buffer, length);
	if (r < 0) {
		rd->r = r;
		return NULL;
	}
	const char *text = buffer;
	if (rd->line == 1 && strncmp(text, bom, strlen(bom)) == 0)
		text += strlen(bom);
	text += strspn(text, " \t");
	memmove(buffer, text, strlen(text) + 1);
	if (*buffer == '[' && section_header(rd, buffer) < 0)
		return NULL;
	return buffer;
}

/* Keys */

static int unknown_key(struct reader *rd, const char *name)
{
	const char *section = config_section_name(rd->section);
	for (int s = 0; s < SECTION_COUNT; s++)
		if (config_key_find((enum config_section)s, name))
			return fail(rd, "%s does not belong into [%s] but into [%s%s]", name,
				section, config_section_name((enum config_section)s),
				s == SECTION_POLICY ? " NAME" : "");
	const char *near = config_key_near(rd->section, name);
	if (near)
		return fail(
			rd, "unknown key %s in [%s], did you mean %s?", name, section, near);
	return fail(rd, "unknown key %s in [%s]", *name ? name : "\"\"", section);
}

/* What a key needs beyond its table entry. */
static int check_key(struct reader *rd, const struct config_key *key, size_t policy_index)
{
	if (key->section != SECTION_POLICY)
		return 0;
	if (key->match && strcmp(rd->config->policies[policy_index].name, POLICY_DEFAULT) == 0)
		return fail(rd, "%s in [policy %s]: that policy takes what no other matches",
			key->name, POLICY_DEFAULT);
	rd->places[policy_index].key[key - config_keys] = rd->line;
	return 0;
}

static int set_key(struct reader *rd, const char *name, const char *value)
{
	if (!rd->in_section)
		return fail(rd,
			"%s stands before any section: begin with [service], [store] or "
			"[policy NAME]",
			name);
	const struct config_key *key = config_key_find(rd->section, name);
	if (!key)
		return unknown_key(rd, name);
	unsigned *seen = &rd->seen[key - config_keys];
	if (*seen != 0)
		return fail(rd, "a second %s: the first is in line %u", name, *seen);
	*seen = rd->line;

	size_t policy_index = rd->config->policy_count - 1; /* the last begun */
	if (check_key(rd, key, policy_index) < 0)
		return rd->r;
	char why[200];
	void *field = config_key_field(key, rd->config, policy_index);
	int r = value_parse(key, value, field, why, sizeof(why));
	if (r == -EINVAL)
		return fail(rd, "%s: %s", name, why);
	rd->r = r;
	return r;
}

/* inih's handler: 1 = fine. The section is the one that our reader saw. */
static int handle_key(void *arg, const char *section, const char *name, const char *value)
{
	struct reader *rd = arg;
	(void)section;
	return rd->r == 0 && set_key(rd, name, value) == 0;
}

/* The whole */

/* Where a policy's key was written. */
static unsigned line_of(const struct policy_place *place, const char *name)
{
	return place->key[config_key_find(SECTION_POLICY, name) - config_keys];
}

static int check_codec(struct reader *rd, const struct policy *p, const struct policy_place *at)
{
	if (p->codec == POLICY_ZSTD && p->recompress_after_ms != 0)
		return fail_at(rd, line_of(at, "recompress-after"),
			"recompress-after of policy %s: its pages are packed by zstd from the "
			"start; leave it out, or set codec = lz4",
			p->name);
	if (p->level != 0 && p->codec == POLICY_LZ4 && p->recompress_after_ms == 0)
		return fail_at(rd, line_of(at, "level"),
			"level of policy %s: lz4 has no levels; leave it out, or set codec = "
			"zstd or recompress-after",
			p->name);
	return 0;
}

static int check_contradictions(struct reader *rd)
{
	const struct config *c = rd->config;
	for (size_t i = 0; i < c->policy_count; i++) {
		const struct policy *p = &c->policies[i];
		if (c->store_limit != 0 && p->memory_limit > c->store_limit)
			return fail_at(rd, line_of(&rd->places[i], "memory-limit"),
				"memory-limit of policy %s is larger than that of [store], "
				"which all "
				"programs share",
				p->name);
		int r = check_codec(rd, p, &rd->places[i]);
		if (r < 0)
			return r;
	}
	return 0;
}

static int add_default(struct config *c)
{
	for (size_t i = 0; i < c->policy_count; i++)
		if (strcmp(c->policies[i].name, POLICY_DEFAULT) == 0)
			return 0;
	return config_add_policy(c, POLICY_DEFAULT);
}

static int read_all(struct reader *rd)
{
	int wrong_line = ini_parse_stream(next_line, rd, handle_key, rd);
	/* What inih itself found (no = in a line) may lie before what we found. */
	if (wrong_line > 0 &&
		(rd->r == 0 || (rd->r == -EINVAL && (unsigned)wrong_line < rd->line))) {
		rd->r = 0;
		fail_at(rd, (unsigned)wrong_line,
			"this is no section, no comment and no KEY = VALUE");
	}
	if (rd->r == 0 && wrong_line < 0)
		rd->r = -ENOMEM;
	if (rd->r == 0)
		check_contradictions(rd);
	if (rd->r == 0)
		rd->r = add_default(rd->config);
	return rd->r;
}

int config_read(FILE *f, struct config **ret, struct config_error *err)
{
	struct config_error first = {0};
	struct reader rd = {.f = f, .err = &first};
	int r = config_new(&rd.config);
	if (r < 0)
		return r;
	r = read_all(&rd);
	free(rd.places);
	if (r < 0) {
		config_free(rd.config);
		if (r == -EINVAL)
			*err = first;
		return r;
	}
	*ret = rd.config;
	return 0;
}
