/* tidy CASE [STAGE]: see tidy.h. */
#include "tidy.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

void say(const char *format, ...)
{
	char line[512];
	va_list ap;

	va_start(ap, format);
	int n = vsnprintf(line, sizeof(line) - 1, format, ap);
	va_end(ap);
	if (n < 0 || (size_t)n > sizeof(line) - 2)
		n = sizeof(line) - 2;
	line[n] = '\n';
	if (write(STDOUT_FILENO, line, (size_t)n + 1) != n + 1)
		_exit(1);
}

void known(const char *name, long number)
{
	say("known %s %ld", name, number);
}

void point(const char *what)
{
	char byte;

	say("point %s", what);
	if (read(STDIN_FILENO, &byte, 1) != 1)
		_exit(1);
}

static uint64_t word_of(size_t i)
{
	return (i + 1) * 0x9e3779b97f4a7c15ULL;
}

void memory_fill(uint8_t *memory)
{
	uint64_t *word = (uint64_t *)(void *)memory;

	for (size_t i = 0; i < TIDY_BYTES / sizeof(*word); i++)
		word[i] = word_of(i);
}

uint8_t *memory_new(void)
{
	/* Between pages of its own, so that it never becomes one mapping with a thread's. */
	uint8_t *p = mmap(NULL, TIDY_BYTES + 2 * TIDY_PAGE, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED ||
		mprotect(p + TIDY_PAGE, TIDY_BYTES, PROT_READ | PROT_WRITE) < 0) {
		say("no memory: %s", strerror(errno));
		_exit(1);
	}
	memory_fill(p + TIDY_PAGE);
	return p + TIDY_PAGE;
}

/* Writes as well: a page that was shared with a forked child can't be taken before. */
static bool memory_right(uint8_t *memory)
{
	volatile uint64_t *word = (volatile uint64_t *)(void *)memory;

	for (size_t i = 0; i < TIDY_BYTES / sizeof(*word); i++) {
		if (word[i] != word_of(i))
			return false;
		if (i % (TIDY_PAGE / sizeof(*word)) == 0)
			word[i] = word_of(i);
	}
	return true;
}

int memory_check(const char *who, uint8_t *memory)
{
	bool right = memory_right(memory);

	say("%s: memory is %s", who, right ? "right" : "WRONG");
	return right ? 0 : 1;
}

int tidy_finish(struct tidy *t)
{
	int code = memory_check("after the act", t->memory);

	point(t->next);
	code |= memory_check("in the end", t->memory);
	say("end");
	return code;
}

long call_result(const char *what, long r)
{
	say("%s: %s", what, r < 0 ? strerror(errno) : "done");
	return r;
}

int child_check(struct tidy *t)
{
	int status;
	pid_t child = fork();

	if (child == 0)
		_exit(memory_check("child", t->memory));
	if (child < 0 || waitpid(child, &status, 0) != child) {
		call_result("fork", -1);
		return 1;
	}
	say("child: status %d", status);
	return status == 0 ? 0 : 1;
}

/* `file` lies where our own executable does; NULL is that itself. */
int exec_image(const struct tidy *t, const char *file, const char *stage)
{
	char path[512];
	const char *slash = strrchr(t->self, '/');

	snprintf(path, sizeof(path), "%.*s/%s", (int)(slash ? slash - t->self : 0), t->self,
		file ? file : slash + 1);
	execl(path, path, t->name, stage, (char *)NULL);
	call_result("exec", -1);
	return 1;
}

long status_number(const char *key)
{
	FILE *f = fopen("/proc/self/status", "re");
	char line[256];
	long number = -1;

	while (f && number < 0 && fgets(line, sizeof(line), f))
		if (strncmp(line, key, strlen(key)) == 0 && line[strlen(key)] == ':')
			number = strtol(line + strlen(key) + 1, NULL, 10);
	if (f)
		fclose(f);
	return number;
}

int skip(const char *why)
{
	say("skip %s", why);
	return 77;
}

static tidy_fn *find_case(const char *name)
{
	static const struct {
		const char *name;
		tidy_fn *fn;
	} cases[] = {
#define X(name, user) {#name, tidy_##name},
		TIDY_CASES(X)
#undef X
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (strcmp(cases[i].name, name) == 0)
			return cases[i].fn;
	return NULL;
}

int main(int argc, char **argv)
{
	struct tidy t = {.self = argv[0], .stage = argc > 2 ? argv[2] : "", .next = POINT_TAKE};
	tidy_fn *fn = argc > 1 ? find_case(argv[1]) : NULL;

	if (!fn) {
		fprintf(stderr, "tidy: no case %s; tidy.h has them\n", argc > 1 ? argv[1] : "");
		return 2;
	}
	t.name = argv[1];
	t.memory = memory_new();
	/* Another image begins with its own memory there; whether it can be taken is its
	 * case's. */
	if (!*t.stage)
		point(POINT_TAKE);
	int code = fn(&t);
	return code ? code : tidy_finish(&t);
}
