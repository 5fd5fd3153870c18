/* Options, threads, and the report. */
#include "guest.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <malloc.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static const char usage[] =
	"usage: larder-guest [--seconds N] [--steps N] [--threads N] [--mb N] [--seed N]\n"
	"                    [--ops LIST] [--also LIST] [--child-steps N] [--swarm] [--pause]\n"
	"                    [--trace FILE] [--quiet]\n"
	"       larder-guest --replay FILE [--seconds N] [--pause] [--quiet] [--trace FILE]\n"
	"Works on its own memory in every way there is, and verifies it: exit code 1 when a "
	"byte\n"
	"is wrong. It goes for 10 seconds, or for a number of steps of each thread. A child "
	"takes\n"
	"24 steps unless told otherwise. --swarm does some kinds of them more often and others "
	"not at\n"
	"all, as the seed says. --trace writes each step as a line; --replay takes "
	"these\n"
	"steps and no others, once, or again and again for a number of seconds. --pause waits "
	"now\n"
	"and then between two steps. LIST is a comma-separated list of:\n"
#define X(name, weight, in_child, help) "  " #name ": " help "\n"
	GUEST_OPS(X)
#undef X
		"Not done unless asked for:"
#define X(name) " " #name
	GUEST_OFF(X)
#undef X
		"\n";

static _Noreturn void usage_error(const char *what, const char *value)
{
	fprintf(stderr, "larder-guest: %s: %s\n%s", what, value, usage);
	exit(2);
}

static uint64_t parse_number(const char *name, const char *text, uint64_t least, uint64_t most)
{
	char *end;

	errno = 0;
	unsigned long long value = strtoull(text, &end, 0);
	if (errno != 0 || end == text || *end != '\0' || value < least || value > most)
		usage_error(name, text);
	return value;
}

static enum op parse_op(const char *name)
{
	for (unsigned op = 0; op < OP_COUNT; op++)
		if (strcmp(op_names[op], name) == 0)
			return (enum op)op;
	usage_error("no such operation", name);
}

static void parse_ops(struct options *o, char *list)
{
	char *rest;

	for (char *name = strtok_r(list, ",", &rest); name; name = strtok_r(NULL, ",", &rest))
		o->enabled[parse_op(name)] = true;
}

static void parse_only(struct options *o, char *list)
{
	memset(o->enabled, 0, sizeof(o->enabled));
	o->chosen = true;
	parse_ops(o, list);
}

static void parse_amount(struct options *o, int key, const char *value)
{
	static const struct amount {
		char key;
		const char *name;
		size_t field;
		uint64_t least, most;
	} amounts[] = {
		{'s', "--seconds", offsetof(struct options, seconds), 1, 1000000},
		{'n', "--steps", offsetof(struct options, steps), 1, UINT64_MAX},
		{'t', "--threads", offsetof(struct options, threads), 1, THREADS_MAX},
		{'m', "--mb", offsetof(struct options, megabytes), 1, 1 << 20},
		{'r', "--seed", offsetof(struct options, seed), 0, UINT64_MAX},
		{'c', "--child-steps", offsetof(struct options, child_steps), 1, 1 << 20},
	};

	for (size_t i = 0; i < sizeof(amounts) / sizeof(amounts[0]); i++)
		if (amounts[i].key == key)
			*(uint64_t *)((char *)o + amounts[i].field) = parse_number(
				amounts[i].name, value, amounts[i].least, amounts[i].most);
}

struct files {
	const char *trace, *replay;
};

static void parse_option(struct options *o, struct files *files, int key, char *value)
{
	switch (key) {
	case 'o':
		parse_only(o, value);
		break;
	case 'a':
		parse_ops(o, value);
		break;
	case 'b':
		o->sabotage = (int)parse_op(value);
		break;
	case 'q':
		o->quiet = true;
		break;
	case 'w':
		o->swarm = true;
		break;
	case 'p':
		o->pause = true;
		break;
	case 'f':
		files->trace = value;
		break;
	case 'g':
		files->replay = value;
		break;
	case '0':
		exit(0);
	case 'h':
	case '?':
		fputs(usage, key == 'h' ? stdout : stderr);
		exit(key == 'h' ? 0 : 2);
	default:
		parse_amount(o, key, value);
	}
}

static void parse_options(struct options *o, int argc, char **argv)
{
	static const struct option longs[] = {
		{"seconds", required_argument, NULL, 's'},
		{"steps", required_argument, NULL, 'n'},
		{"threads", required_argument, NULL, 't'},
		{"mb", required_argument, NULL, 'm'},
		{"seed", required_argument, NULL, 'r'},
		{"ops", required_argument, NULL, 'o'},
		{"also", required_argument, NULL, 'a'},
		{"sabotage", required_argument, NULL, 'b'}, /* to test that errors are found */
		{"child-steps", required_argument, NULL, 'c'},
		{"trace", required_argument, NULL, 'f'},
		{"replay", required_argument, NULL, 'g'},
		{"swarm", no_argument, NULL, 'w'},
		{"pause", no_argument, NULL, 'p'},
		{"quiet", no_argument, NULL, 'q'},
		{"nothing", no_argument, NULL, '0'}, /* for itself, to execute */
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	struct files files = {0};
	int key;

	while ((key = getopt_long(argc, argv, "", longs, NULL)) != -1)
		parse_option(o, &files, key, optarg);
	if (optind < argc)
		usage_error("unexpected argument", argv[optind]);
	if (files.replay)
		script_read(o, files.replay);
	else if (o->seconds == 0 && o->steps == 0)
		o->seconds = 10;
	if (files.trace)
		trace_open(o, files.trace);
}

static void *be_worker(void *arg)
{
	worker_run(arg);
	return NULL;
}

/* The first thread is this one: with --threads 1 the process has no other. */
static void run_all(struct worker **workers, size_t count)
{
	pthread_t threads[THREADS_MAX];

	for (size_t i = 1; i < count; i++)
		if (pthread_create(&threads[i], NULL, be_worker, workers[i]) != 0)
			exit(2);
	be_worker(workers[0]);
	for (size_t i = 1; i < count; i++)
		pthread_join(threads[i], NULL);
}

/* 1: an operation that was asked for was never done, though this kernel has it. */
static int report(const struct options *o, const struct totals *t)
{
	uint64_t sum = 0;
	int result = 0;

	for (unsigned op = 0; op < OP_COUNT; op++) {
		uint64_t count = t->counts[op], missing = t->unavailable[op];
		const char *remark = count == 0 && missing > 0 ? " (unavailable)" : "";
		sum += count;
		if (!o->quiet && o->enabled[op])
			printf("%-12s %10" PRIu64 "%s\n", op_names[op], count, remark);
		if (o->chosen && o->enabled[op] && count == 0 && missing == 0) {
			fprintf(stderr, "guest: %s was never done\n", op_names[op]);
			result = 1;
		}
	}
	printf("%" PRIu64 " operations, %" PRIu64 " pages verified\n", sum,
		(uint64_t)t->checked);
	return result;
}

static struct totals *make_totals(void)
{
	void *at = mmap(NULL, sizeof(struct totals), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		exit(2);
	return at;
}

static void choose_ops(struct options *o)
{
	memset(o->enabled, 1, sizeof(o->enabled));
#define X(name) o->enabled[OP_##name] = false;
	GUEST_OFF(X)
#undef X
}

int main(int argc, char **argv)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	struct options o = {.threads = 4,
		.megabytes = 256,
		.seed = mix((uint64_t)t.tv_nsec ^ (uint64_t)getpid()) >> 16,
		.child_steps = 24, /* as long as its parent waits for it */
		.trace = -1,
		.sabotage = -1};
	struct totals *totals = make_totals();
	struct worker *workers[THREADS_MAX] = {0};

	choose_ops(&o);
	parse_options(&o, argc, argv);
	weights_choose(&o);
	o.multi_move = probe_multi_move();
	printf("seed %" PRIu64 "\n", o.seed);
	fflush(stdout); /* children would have it as well */
	/* Blocks up to 4 MiB from the heap proper, for all threads, and the top given back
	 * early. */
	mallopt(M_MMAP_THRESHOLD, 4 << 20);
	mallopt(M_TRIM_THRESHOLD, 1 << 20);
	mallopt(M_ARENA_MAX, o.seed % 2 ? 1 : 2);
	for (unsigned i = 0; i < o.threads; i++)
		workers[i] = worker_new(&o, totals, i);
	run_all(workers, o.threads);
	int result = report(&o, totals);
	for (unsigned i = 0; i < o.threads; i++)
		free(workers[i]);
	free(o.lines);
	return result;
}
