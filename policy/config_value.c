/* Numbers of every type are read and printed as whole multiples of a smallest unit (bytes,
 * milliseconds, millionths of a percent) with integer arithmetic: independent of the locale,
 * and what is printed reads back as exactly the same value. */
#include "config_value.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

struct unit {
	const char *text;
	uint64_t scale;
};

/* From small to large; where a factor has several spellings, the first is the one we print. */
static const struct unit size_units[] = {
	{"", 1},
	{"B", 1},
	{"K", 1ull << 10},
	{"k", 1ull << 10},
	{"KiB", 1ull << 10},
	{"M", 1ull << 20},
	{"m", 1ull << 20},
	{"MiB", 1ull << 20},
	{"G", 1ull << 30},
	{"g", 1ull << 30},
	{"GiB", 1ull << 30},
	{"T", 1ull << 40},
	{"t", 1ull << 40},
	{"TiB", 1ull << 40},
	{NULL, 0},
};
static const struct unit duration_units[] = {
	{"ms", 1},
	{"s", 1000},
	{"m", 60000},
	{"h", 3600000},
	{"d", 86400000},
	{NULL, 0},
};
static const struct unit percent_units[] = {{"%", 1000000}, {NULL, 0}};
static const struct unit unsigned_units[] = {{"", 1}, {NULL, 0}};

/* Millionths of a percent in 1.0, the field's unit. */
#define PERCENT_ONE 100000000.0

static const struct type {
	const char *name;
	const struct unit *units; /* NULL: not a number */
	const char *wanted;
} types[] = {
	[VALUE_BOOL] = {"yes or no", NULL, "yes or no"},
	[VALUE_UNSIGNED] = {"number", unsigned_units, "a whole number"},
	[VALUE_SIZE] = {"size (bytes, K, M, G, T)", size_units, "a size such as 512M or 4GiB"},
	[VALUE_DURATION] = {"duration (ms, s, m, h, d)", duration_units,
		"a duration such as 500ms, 90s, 10m, 1h or 2d"},
	[VALUE_PERCENT] = {"percentage", percent_units, "a percentage such as 0.1%"},
	[VALUE_LIST] = {"list, separated by commas or spaces", NULL, "a list"},
	[VALUE_CHOICE] = {"choice", NULL, "one of its choices"},
};

const char *value_type_name(enum value_type type)
{
	return types[type].name;
}

__attribute__((format(printf, 3, 4))) static int invalid(
	char *why, size_t why_size, const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	vsnprintf(why, why_size, format, ap);
	va_end(ap);
	return -EINVAL;
}

/* Numbers */

static uint64_t number_load(enum value_type type, const void *field)
{
	if (type == VALUE_BOOL)
		return *(const bool *)field;
	if (type == VALUE_UNSIGNED || type == VALUE_CHOICE)
		return *(const unsigned *)field;
	if (type == VALUE_PERCENT)
		return (uint64_t)(*(const double *)field * PERCENT_ONE + 0.5);
	return *(const uint64_t *)field;
}

static void number_store(enum value_type type, uint64_t n, void *field)
{
	if (type == VALUE_BOOL)
		*(bool *)field = n != 0;
	else if (type == VALUE_UNSIGNED || type == VALUE_CHOICE)
		*(unsigned *)field = (unsigned)n; /* its key's range is checked */
	else if (type == VALUE_PERCENT)
		*(double *)field = (double)n / PERCENT_ONE;
	else
		*(uint64_t *)field = n;
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Reads digits at *text and moves it behind them. *ret_scale is 10 to the number of digits.
 * -ERANGE: too large, or more than max_digits. -EINVAL: none. */
static int scan_digits(const char **text, int max_digits, uint64_t *ret, uint64_t *ret_scale)
{
	uint64_t n = 0, scale = 1;
	int digits = 0;
	for (; is_digit(**text); (*text)++, digits++) {
		if (digits >= max_digits)
			return -ERANGE;
		n = n * 10 + (uint64_t)(**text - '0');
		scale *= 10;
	}
	if (digits == 0)
		return -EINVAL;
	*ret = n;
	*ret_scale = scale;
	return 0;
}

/* A number with a unit, in the smallest unit of its type; parts of that are cut off. -EINVAL:
 * not such a number. -ERANGE: more than fits. -EDOM: the unit is missing. */
static int number_scan(const struct unit *units, const char *text, uint64_t *ret)
{
	uint64_t whole, fraction = 0, scale = 1;
	/* 18 digits fit 64 bits; 6 keep fraction * unit (at most 2^40) within them. */
	int r = scan_digits(&text, 18, &whole, &scale);
	if (r == 0 && *text == '.') {
		text++;
		r = scan_digits(&text, 6, &fraction, &scale);
		r = r < 0 ? -EINVAL : 0;
	} else {
		scale = 1;
	}
	if (r < 0)
		return r;
	text += strspn(text, " \t");

	const struct unit *u = units;
	while (u->text && strcmp(u->text, text) != 0)
		u++;
	if (!u->text && *text == '\0' && whole == 0 && fraction == 0)
		u = units; /* nothing is nothing in any unit */
	if (!u->text)
		return *text ? -EINVAL : -EDOM;
	if (fraction != 0 && u->scale == 1)
		return -EINVAL;
	if (whole > (UINT64_MAX >> 1) / u->scale)
		return -ERANGE;
	*ret = whole * u->scale + fraction * u->scale / scale;
	return 0;
}

static const char never[] = "never";

static int number_parse(
	const struct config_key *key, const char *text, void *field, char *why, size_t why_size)
{
	const struct type *type = &types[key->type];
	uint64_t n, min = 0, max = UINT64_MAX;
	if (key->never && strcmp(text, never) == 0) {
		number_store(key->type, 0, field);
		return 0;
	}
	int r = number_scan(type->units, text, &n);
	if (r == -EDOM)
		return invalid(why, why_size, "\"%s\" lacks a unit: it must be %s", text,
			type->wanted);
	if (r == -EINVAL)
		return invalid(why, why_size, "\"%s\" is not %s", text, type->wanted);
	if (key->min)
		number_scan(type->units, key->min, &min);
	if (key->max)
		number_scan(type->units, key->max, &max);
	bool zero = r == 0 && n == 0 && key->or_zero;
	if (r == -ERANGE || ((n < min || n > max) && !zero))
		return invalid(why, why_size, "%s is out of range: %sfrom %s to %s%s", text,
			key->or_zero ? "0, or " : "", key->min, key->max,
			key->never ? ", or never" : "");
	number_store(key->type, n, field);
	return 0;
}

static void number_print(const struct config_key *key, const void *field, FILE *f)
{
	uint64_t n = number_load(key->type, field);
	const struct unit *best = types[key->type].units;
	if (key->never && n == 0) {
		fputs(never, f);
		return;
	}
	if (key->type == VALUE_PERCENT) {
		char digits[8];
		int used = 6;
		snprintf(digits, sizeof(digits), "%06u", (unsigned)(n % 1000000));
		while (used > 0 && digits[used - 1] == '0')
			used--;
		fprintf(f, "%llu%s%.*s%%", (unsigned long long)(n / 1000000), used ? "." : "",
			used, digits);
		return;
	}
	for (const struct unit *u = best; u->text; u++)
		if (u->scale > best->scale && n % u->scale == 0)
			best = u;
	fprintf(f, "%llu%s", (unsigned long long)(n / best->scale), n == 0 ? "" : best->text);
}

/* Yes and no */

static const struct {
	const char *text;
	bool value;
} bools[] = {
	{"yes", true},
	{"no", false},
	{"true", true},
	{"false", false},
	{"on", true},
	{"off", false},
	{"1", true},
	{"0", false},
};

static int bool_parse(const char *text, bool *field, char *why, size_t why_size)
{
	for (size_t i = 0; i < sizeof(bools) / sizeof(bools[0]); i++) {
		if (strcmp(bools[i].text, text) == 0) {
			*field = bools[i].value;
			return 0;
		}
	}
	return invalid(why, why_size, "\"%s\" is not yes or no", text);
}

/* Choices */

void value_choices(const struct config_key *key, char *text, size_t size)
{
	size_t length = 0;
	text[0] = '\0';
	for (const char *const *c = key->choices; *c && length < size; c++)
		length += (size_t)snprintf(text + length, size - length, "%s%s",
			c == key->choices ? "" : " or ", *c);
}

static int choice_parse(const struct config_key *key, const char *text, unsigned *field,
	char *why, size_t why_size)
{
	char choices[64];
	for (unsigned i = 0; key->choices[i]; i++) {
		if (strcmp(key->choices[i], text) == 0) {
			*field = i;
			return 0;
		}
	}
	value_choices(key, choices, sizeof(choices));
	return invalid(why, why_size, "\"%s\" is not %s", text, choices);
}

/* Lists */

#define LIST_SEPARATORS ", \t"

static void list_done(struct policy_list *l)
{
	for (size_t i = 0; i < l->count; i++)
		free(l->item[i]);
	free(l->item);
	*l = (struct policy_list){0};
}

static int list_add(struct policy_list *l, const char *text, size_t length)
{
	char **item = reallocarray(l->item, l->count + 1, sizeof(*item));
	if (!item)
		return -ENOMEM;
	l->item = item;
	item[l->count] = strndup(text, length);
	if (!item[l->count])
		return -ENOMEM;
	l->count++;
	return 0;
}

/* Quotes don't group, and after a comma ; and # don't start a comment: whoever writes these
 * means something that we would not do. */
static int item_check(const char *item, char *why, size_t why_size)
{
	if (*item == '"' || *item == '\'')
		return invalid(why, why_size, "quotes have no meaning here, leave them out");
	if (*item == '#' || *item == ';')
		return invalid(why, why_size,
			"%c inside a list: a comment starts the line, or follows a space and "
			"is ;",
			*item);
	return 0;
}

static int list_parse(const struct config_key *key, const char *text, struct policy_list *field,
	char *why, size_t why_size)
{
	struct policy_list l = {0};
	int r = 0;
	for (const char *p = text + strspn(text, LIST_SEPARATORS); r == 0 && *p;) {
		size_t length = strcspn(p, LIST_SEPARATORS);
		r = item_check(p, why, why_size);
		if (r == 0)
			r = list_add(&l, p, length);
		p += length;
		p += strspn(p, LIST_SEPARATORS);
	}
	if (r == 0 && l.count == 0 && !key->may_be_empty)
		r = invalid(why, why_size,
			"the list is empty: leave the key out, or write * for all");
	if (r < 0) {
		list_done(&l);
		return r;
	}
	list_done(field);
	*field = l;
	return 0;
}

static int list_copy(const struct policy_list *from, struct policy_list *to)
{
	struct policy_list l = {0};
	for (size_t i = 0; i < from->count; i++) {
		int r = list_add(&l, from->item[i], strlen(from->item[i]));
		if (r < 0) {
			list_done(&l);
			return r;
		}
	}
	list_done(to);
	*to = l;
	return 0;
}

static bool list_equal(const struct policy_list *a, const struct policy_list *b)
{
	if (a->count != b->count)
		return false;
	for (size_t i = 0; i < a->count; i++)
		if (strcmp(a->item[i], b->item[i]) != 0)
			return false;
	return true;
}

/* Any type */

int value_parse(
	const struct config_key *key, const char *text, void *field, char *why, size_t why_size)
{
	if (strlen(text) > CONFIG_VALUE_MAX)
		return invalid(
			why, why_size, "the value is longer than %d bytes", CONFIG_VALUE_MAX);
	if (key->type == VALUE_LIST)
		return list_parse(key, text, field, why, why_size);
	if (key->type == VALUE_CHOICE)
		return choice_parse(key, text, field, why, why_size);
	if (*text == '\0')
		return invalid(why, why_size, "the value is missing: it must be %s",
			types[key->type].wanted);
	if (key->type == VALUE_BOOL)
		return bool_parse(text, field, why, why_size);
	return number_parse(key, text, field, why, why_size);
}

void value_print(const struct config_key *key, const void *field, FILE *f)
{
	if (key->type == VALUE_LIST) {
		const struct policy_list *l = field;
		for (size_t i = 0; i < l->count; i++)
			fprintf(f, "%s%s", i ? " " : "", l->item[i]);
	} else if (key->type == VALUE_BOOL) {
		fputs(*(const bool *)field ? "yes" : "no", f);
	} else if (key->type == VALUE_CHOICE) {
		fputs(key->choices[*(const unsigned *)field], f);
	} else {
		number_print(key, field, f);
	}
}

bool value_equal(const struct config_key *key, const void *a, const void *b)
{
	if (key->type == VALUE_LIST)
		return list_equal(a, b);
	return number_load(key->type, a) == number_load(key->type, b);
}

int value_copy(const struct config_key *key, const void *from, void *to)
{
	if (key->type == VALUE_LIST)
		return list_copy(from, to);
	number_store(key->type, number_load(key->type, from), to);
	return 0;
}

void value_done(const struct config_key *key, void *field)
{
	if (key->type == VALUE_LIST)
		list_done(field);
}
