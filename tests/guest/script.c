/* Scripts: one step a line, as text, so that a list of steps can be kept, cut short and run
 * again.
 *
 *   options threads 2 mb 64 child-steps 24 seed 7
 *   0 mmap 0badcafe                  who, operation, seed of the step
 *   # 0 5ca1ab1e: 0 + 12 of 64       what it did with which area: a remark
 *
 * A line is written before its step begins, by one write to a file in append mode, so that the
 * lines of all processes stay whole and the last one of each is the step that it was in. */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- reading ---- */

static _Noreturn void bad_script(const char *path, size_t number, const char *what)
{
	fprintf(stderr, "larder-guest: %s:%zu: %s\n", path, number, what);
	exit(2);
}

static bool read_op(const char *name, enum op *ret)
{
	for (unsigned op = 0; op < OP_COUNT; op++)
		if (strcmp(op_names[op], name) == 0) {
			*ret = (enum op)op;
			return true;
		}
	return false;
}

static bool read_step(struct options *o, const char *text)
{
	struct line line;
	char name[32];

	if (sscanf(text, "%63s %31s %8" SCNx32, line.who, name, &line.seed) != 3 ||
		!read_op(name, &line.op))
		return false;
	if (o->line_count % 1024 == 0)
		o->lines = realloc(o->lines, (o->line_count + 1024) * sizeof(line));
	if (!o->lines)
		exit(2);
	o->lines[o->line_count++] = line;
	return true;
}

static bool read_options(struct options *o, const char *text)
{
	return sscanf(text,
		       "options threads %" SCNu64 " mb %" SCNu64 " child-steps %" SCNu64
		       " seed %" SCNu64,
		       &o->threads, &o->megabytes, &o->child_steps, &o->seed) == 4 &&
	       o->threads >= 1 && o->threads <= THREADS_MAX && o->megabytes >= 1;
}

void script_read(struct options *o, const char *path)
{
	FILE *file = fopen(path, "re");
	char text[256];
	size_t number = 0;
	bool begun = false;

	if (!file)
		bad_script(path, 0, strerror(errno));
	while (fgets(text, sizeof(text), file)) {
		number++;
		if (text[0] == '#' || text[0] == '\n')
			continue;
		if (!begun && !read_options(o, text))
			bad_script(path, number, "no options");
		if (begun && !read_step(o, text))
			bad_script(path, number, "no step");
		begun = true;
	}
	fclose(file);
	if (o->line_count == 0)
		bad_script(path, number, "no steps");
}

/* ---- writing ---- */

static void put(int fd, const char *text, int length)
{
	if (write(fd, text, (size_t)length) == length)
		return;
	dprintf(2, "guest: the trace can't be written: %s\n", strerror(errno));
	_exit(2);
}

void trace_open(struct options *o, const char *path)
{
	char text[160];

	o->trace = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
	if (o->trace < 0) {
		fprintf(stderr, "larder-guest: %s: %s\n", path, strerror(errno));
		exit(2);
	}
	put(o->trace, text,
		snprintf(text, sizeof(text),
			"options threads %" PRIu64 " mb %" PRIu64 " child-steps %" PRIu64
			" seed %" PRIu64 "\n",
			o->threads, o->megabytes, o->child_steps, o->seed));
}

void trace_step(const struct worker *w, enum op op)
{
	char text[WHO_MAX + 64];

	if (w->options->trace >= 0)
		put(w->options->trace, text,
			snprintf(text, sizeof(text), "%s %s %08x\n", w->who, op_names[op],
				w->seed));
}

void trace_area(const struct worker *w, const struct area *a, size_t first, size_t count)
{
	char text[WHO_MAX + 128];

	if (w->options->trace >= 0)
		put(w->options->trace, text,
			snprintf(text, sizeof(text), "# %s %08x: %zu + %zu of %zu\n", w->who,
				a->number, first, count, a->pages));
}
