/* Reader of /proc/PID/smaps, and the choice of the mappings that may be managed.
 *
 *   7f0000000000-7f0000200000 rw-p 00000000 00:00 0     [anon:name]    <- header: a new mapping
 *   Rss:                2048 kB                                        <- field, in any order
 *   VmFlags: rd wr mr mw me sd                                         <- flag field
 *
 * Invariants:
 * 1. A mapping is MAPS_OK only if its header, every field of `fields` and its flags were read
 * whole. A line that can't be understood spoils the mapping it stands in, whatever the line
 * was.
 * 2. Reported mappings are ascending and don't overlap (the kernel promises the same).
 * 3. Memory use is fixed: the text comes in pieces, and a line is cut at LINE_BYTES. Only a
 * name may be cut, since of it the beginning is enough. */
#include "maps.h"

#include "cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum {
	LINE_BYTES =
		512, /* flags take 3 bytes each, of 64 possible ones; a header 74 and a name */
	PIECE_BYTES = 4096, /* seq_file gives no more at once, and holds mmap_lock meanwhile */
	PAGE_MASK = 4095,
};

#define WHY(id) (1u << MAPS_##id)

const char *map_refusal_text(enum map_refusal r)
{
	static const char *const texts[] = {
#define X(id, text) text,
		MAP_REFUSALS(X)
#undef X
	};
	return (unsigned)r < MAP_REFUSAL_COUNT ? texts[r] : "unknown";
}

/* ---- lines ---- */

struct lines {
	int fd; /* borrowed */
	size_t at, have;
	size_t length;
	bool cut; /* the line was longer than it is here, or the text ended within it */
	char line[LINE_BYTES];
	char piece[PIECE_BYTES];
};

/* 1: piece[at] is there. 0: end of the text. */
static int lines_fill(struct lines *l)
{
	if (l->at < l->have)
		return 1;
	ssize_t n;
	do
		n = read(l->fd, l->piece, sizeof(l->piece));
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	l->at = 0;
	l->have = (size_t)n;
	return n > 0;
}

/* 1: a line is in l->line, without its newline. 0: end of the text. */
static int lines_next(struct lines *l)
{
	bool any = false, ended = false;
	int r = 0;

	l->length = 0;
	l->cut = false;
	while (!ended && (r = lines_fill(l)) > 0) {
		char *from = l->piece + l->at;
		size_t left = l->have - l->at;
		char *newline = memchr(from, '\n', left);
		size_t n = newline ? (size_t)(newline - from) : left;
		size_t room = LINE_BYTES - 1 - l->length;
		size_t take = n < room ? n : room;

		memcpy(l->line + l->length, from, take);
		l->length += take;
		l->cut |= take < n;
		l->at += n + (newline != NULL);
		any = true;
		ended = newline != NULL;
	}
	if (r < 0)
		return r;
	l->line[l->length] = '\0';
	l->cut |= !ended || strlen(l->line) != l->length;
	return any;
}

/* ---- numbers ---- */

static int digit_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return 16;
}

/* Reads a number and the byte `after` behind it. NULL when they aren't there. */
static const char *take_number(const char *s, int base, char after, uint64_t *ret)
{
	uint64_t value = 0;
	const char *from = s;

	for (; digit_value(*s) < base; s++)
		if (__builtin_mul_overflow(value, (uint64_t)base, &value) ||
			__builtin_add_overflow(value, (uint64_t)digit_value(*s), &value))
			return NULL;
	if (s == from || *s != after)
		return NULL;
	*ret = value;
	return s + 1;
}

/* ---- one mapping ---- */

/* Fields that a mapping must have to be managed. */
static const struct field {
	const char *key;
	size_t at; /* in struct map */
} fields[] = {
	{"Rss:", offsetof(struct map, rss)},
	{"Anonymous:", offsetof(struct map, anon)},
	{"AnonHugePages:", offsetof(struct map, anon_huge)},
	{"Swap:", offsetof(struct map, swap)},
};
enum {
	FIELD_COUNT = sizeof(fields) / sizeof(fields[0]),
	SEEN_FLAGS = 1u << FIELD_COUNT,
	SEEN_ALL = (SEEN_FLAGS << 1) - 1,
};

/* Flags without which a mapping isn't readable and writable, now or ever. */
static const char flags_wanted[][3] = {"rd", "wr", "mr", "mw"};
enum { FLAGS_WANTED = sizeof(flags_wanted) / sizeof(flags_wanted[0]) };

static const struct flag_refusal {
	char flag[3];
	uint32_t why;
} flags_refused[] = {
	{"sh", WHY(SHARED)}, {"ms", WHY(SHARED)}, {"ex", WHY(EXEC)}, {"ht", WHY(HUGETLB)},
	{"lo", WHY(LOCKED)}, {"lf", WHY(LOCKED)}, {"gd", WHY(STACK)}, {"wf", WHY(WIPEONFORK)},
	{"io", WHY(SPECIAL)}, {"pf", WHY(SPECIAL)}, {"mm", WHY(SPECIAL)},
	{"dc", WHY(SPECIAL)}, /* not copied at fork, as our staging */
	{"dp", WHY(SPECIAL)}, /* droppable: its pages vanish without an event */
	{"gu", WHY(SPECIAL)}, /* has guard pages, which a restore would destroy */
	{"mt", WHY(SPECIAL)}, /* memory tags aren't moved out with a page */
	{"ss", WHY(SPECIAL)}, /* shadow stack */
};

struct parser {
	uint64_t min_bytes;
	maps_fn *fn;
	void *arg;
	uint64_t last_end; /* of the mapping before */
	bool open;	   /* `map` has a header and isn't reported yet */
	unsigned seen;	   /* bit per index in `fields`, SEEN_FLAGS */
	unsigned wanted;   /* bit per index in `flags_wanted` */
	uint32_t why;	   /* WHY bits */
	struct map map;
};

static uint32_t why_name(const char *name, uint64_t device, uint64_t inode)
{
	if (strncmp(name, "[stack", 6) == 0)
		return WHY(STACK);
	if (device != 0 || inode != 0)
		return WHY(FILE);
	if (*name == '\0' || strcmp(name, "[heap]") == 0 || strncmp(name, "[anon:", 6) == 0)
		return 0;
	return *name == '[' ? WHY(SPECIAL) : WHY(FILE);
}

/* Takes "rwxp "; NULL when it is something else. */
static const char *take_permissions(const char *s, uint32_t *why)
{
	static const char allowed[4][3] = {"r-", "w-", "x-", "ps"};

	for (size_t i = 0; i < 4; i++)
		if (s[i] == '\0' || !strchr(allowed[i], s[i]))
			return NULL;
	if (s[4] != ' ')
		return NULL;
	if (s[0] != 'r' || s[1] != 'w')
		*why |= WHY(PROT);
	if (s[2] == 'x')
		*why |= WHY(EXEC);
	if (s[3] == 's')
		*why |= WHY(SHARED);
	return s + 5;
}

/* Takes "start-end rw-p offset major:minor inode   name" into p. False: it is none, p is
 * unchanged. */
static bool take_header(struct parser *p, const char *s)
{
	uint64_t start, end, offset, major, minor, inode;
	uint32_t why = 0;

	if (!(s = take_number(s, 16, '-', &start)) || !(s = take_number(s, 16, ' ', &end)) ||
		!(s = take_permissions(s, &why)) || !(s = take_number(s, 16, ' ', &offset)) ||
		!(s = take_number(s, 16, ':', &major)) ||
		!(s = take_number(s, 16, ' ', &minor)))
		return false;
	const char *name = take_number(s, 10, ' ', &inode);
	if (!name && !(name = take_number(s, 10, '\0', &inode)))
		return false;
	if (start >= end || start < p->last_end || ((start | end) & PAGE_MASK) != 0)
		return false;

	/* Without a name the line ends behind the inode, at once or after a space. */
	name = name[-1] == '\0' ? name - 1 : name + strspn(name, " ");
	p->map = (struct map){.start = start, .end = end};
	p->last_end = end;
	p->seen = p->wanted = 0;
	p->why = why | why_name(name, major | minor, inode);
	p->open = true;
	return true;
}

static void take_flag(struct parser *p, const char flag[2])
{
	for (size_t i = 0; i < FLAGS_WANTED; i++)
		if (memcmp(flag, flags_wanted[i], 2) == 0)
			p->wanted |= 1u << i;
	for (size_t i = 0; i < sizeof(flags_refused) / sizeof(flags_refused[0]); i++)
		if (memcmp(flag, flags_refused[i].flag, 2) == 0)
			p->why |= flags_refused[i].why;
	if (memcmp(flag, "um", 2) == 0 || memcmp(flag, "uw", 2) == 0 ||
		memcmp(flag, "ui", 2) == 0)
		p->map.uffd = true;
}

/* Takes " rd wr mr mw", words of two bytes each. */
static bool take_flags(struct parser *p, const char *s)
{
	for (;;) {
		s += strspn(s, " ");
		size_t n = strcspn(s, " ");
		if (n == 0)
			break;
		if (n != 2)
			return false;
		take_flag(p, s);
		s += n;
	}
	p->seen |= SEEN_FLAGS;
	return true;
}

static bool take_kilobytes(struct parser *p, size_t field, const char *s)
{
	uint64_t kilobytes, bytes;

	s = take_number(s + strspn(s, " "), 10, ' ', &kilobytes);
	if (!s || strcmp(s, "kB") != 0 ||
		__builtin_mul_overflow(kilobytes, (uint64_t)1024, &bytes))
		return false;
	memcpy((char *)&p->map + fields[field].at, &bytes, sizeof(bytes));
	p->seen |= 1u << field;
	return true;
}

/* Takes "Key: value". Keys that we have no use for are fine. */
static bool take_field(struct parser *p, const char *s)
{
	if (*s < 'A' || *s > 'Z' || !strchr(s, ':'))
		return false;
	if (strncmp(s, "VmFlags:", 8) == 0)
		return take_flags(p, s + 8);
	for (size_t i = 0; i < FIELD_COUNT; i++) {
		size_t n = strlen(fields[i].key);
		if (strncmp(s, fields[i].key, n) == 0)
			return take_kilobytes(p, i, s + n);
	}
	return true;
}

/* The reason that says most comes first. */
static enum map_refusal most_telling(uint32_t why)
{
	static const enum map_refusal order[] = {MAPS_SPECIAL, MAPS_STACK, MAPS_HUGETLB,
		MAPS_SHARED, MAPS_FILE, MAPS_EXEC, MAPS_PROT, MAPS_LOCKED, MAPS_WIPEONFORK,
		MAPS_SMALL};

	for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++)
		if (why & (1u << order[i]))
			return order[i];
	return MAPS_OK;
}

static int report(struct parser *p)
{
	if (!p->open)
		return 0;
	p->open = false;
	if (p->seen != SEEN_ALL)
		p->why |= WHY(SPECIAL);
	if (p->wanted != (1u << FLAGS_WANTED) - 1)
		p->why |= WHY(PROT);
	if (p->map.end - p->map.start < p->min_bytes)
		p->why |= WHY(SMALL);
	p->map.refusal = most_telling(p->why);
	return p->fn(p->arg, &p->map);
}

static int parse_line(struct parser *p, const struct lines *l)
{
	bool is_header = digit_value(l->line[0]) < 16;

	/* The start of a header ends the mapping before, so that one is reported first. */
	if (is_header) {
		struct parser next = *p;
		if (take_header(&next, l->line)) {
			int r = report(p);
			*p = next;
			return r;
		}
	} else if (!l->cut && take_field(p, l->line)) {
		return 0;
	}
	p->why |= WHY(SPECIAL);
	return 0;
}

int maps_read(int procdir, uint64_t min_bytes, maps_fn *fn, void *arg)
{
	struct parser p = {.min_bytes = min_bytes, .fn = fn, .arg = arg};
	_cleanup_fd_ int fd = openat(procdir, "smaps", O_RDONLY | O_CLOEXEC);
	struct lines l = {.fd = fd};
	int r;

	if (fd < 0)
		return -errno;
	while ((r = lines_next(&l)) > 0)
		if ((r = parse_line(&p, &l)) != 0)
			break;
	return r == 0 ? report(&p) : r;
}
