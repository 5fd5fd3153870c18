#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static enum log_level log_max = LOG_INFO;
static int log_prefix;

void log_setup(enum log_level max)
{
	log_max = max;
	log_prefix = getenv("JOURNAL_STREAM") != NULL;
}

void log_line(enum log_level level, const char *format, ...)
{
	int saved = errno;
	char line[1024];
	size_t n = 0;
	va_list ap;

	if (level > log_max)
		return;
	if (log_prefix)
		n = (size_t)snprintf(line, sizeof(line), "<%d>", (int)level);
	va_start(ap, format);
	int r = vsnprintf(line + n, sizeof(line) - n - 1, format, ap);
	va_end(ap);
	n += r < 0 ? 0 : (size_t)r;
	if (n > sizeof(line) - 2)
		n = sizeof(line) - 2;
	line[n++] = '\n';
	/* A log that can't be written must not stop the service. */
	ssize_t written = write(STDERR_FILENO, line, n);
	(void)written;
	errno = saved;
}
