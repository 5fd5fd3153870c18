#include "cli.h"

#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define RUNTIME_DIR_DEFAULT "/run/larder"

void cli_error(const char *format, ...)
{
	va_list ap;
	fputs("larder: ", stderr);
	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fputc('\n', stderr);
}

const char *cli_runtime_dir(const struct cli *cli)
{
	const char *env = getenv("LARDER_RUNTIME_DIR");
	if (cli->runtime_dir)
		return cli->runtime_dir;
	return env && *env ? env : RUNTIME_DIR_DEFAULT;
}

bool cli_parse_pid(const char *text, pid_t *ret)
{
	long n = 0;
	size_t length = strlen(text);
	if (length == 0 || length > 10 || strspn(text, "0123456789") != length)
		return false;
	for (; *text; text++)
		n = n * 10 + (*text - '0');
	if (n < 1 || n > INT_MAX)
		return false;
	*ret = (pid_t)n;
	return true;
}

/* Three digits, as far as they mean something. */
static void three_digits(double n, const char *unit, char *text, size_t size)
{
	snprintf(text, size, "%.*f %s", n < 9.995 ? 2 : n < 99.95 ? 1 : 0, n, unit);
}

char *cli_bytes(int64_t bytes, char *text, size_t size)
{
	static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB"};
	double n = (bytes < 0 ? -(double)bytes : (double)bytes) / 1024;
	size_t unit = 0, sign = 0;
	if (bytes < 0 && size > 1) {
		text[0] = '-';
		sign = 1;
	}
	if (n < 1) {
		snprintf(text, size, "%" PRId64 " B", bytes);
		return text;
	}
	/* 1023.5 would be printed with four digits */
	while (n >= 1023.5 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		n /= 1024;
		unit++;
	}
	three_digits(n, units[unit], text + sign, size - sign);
	return text;
}

char *cli_micros(uint64_t us, char *text, size_t size)
{
	if (us < 1000)
		snprintf(text, size, "%" PRIu64 " us", us);
	else if (us < 999500)
		three_digits((double)us / 1e3, "ms", text, size);
	else
		three_digits((double)us / 1e6, "s", text, size);
	return text;
}

char *cli_seconds(uint64_t seconds, char *text, size_t size)
{
	uint64_t minutes = seconds / 60, hours = minutes / 60, days = hours / 24;
	if (days > 0)
		snprintf(text, size, "%" PRIu64 "d %" PRIu64 "h", days, hours % 24);
	else if (hours > 0)
		snprintf(text, size, "%" PRIu64 "h %" PRIu64 "m", hours, minutes % 60);
	else if (minutes > 0)
		snprintf(text, size, "%" PRIu64 "m %" PRIu64 "s", minutes, seconds % 60);
	else
		snprintf(text, size, "%" PRIu64 "s", seconds);
	return text;
}

char *cli_ratio(uint64_t a, uint64_t b, char *text, size_t size)
{
	if (b == 0)
		snprintf(text, size, "-");
	else
		snprintf(text, size, "%.1f:1", (double)a / (double)b);
	return text;
}

char *cli_clean(const char *from, char *text, size_t size)
{
	size_t n = 0;
	for (; *from && n + 1 < size; from++) {
		unsigned char c = (unsigned char)*from;
		/* 0xc2 begins the control characters U+0080 to U+009F, besides much else */
		bool c1 = c == 0xc2 && (unsigned char)from[1] < 0xa0;
		text[n++] = c < ' ' || c == 0x7f || c1 ? '?' : *from;
		if (c1 && from[1])
			from++;
	}
	text[n] = '\0';
	return text;
}
