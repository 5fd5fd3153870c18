/* Options, threads, and the report. */
#include "guest.h"

#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char usage[] = "usage: larder-guest [--seconds N] [--threads N] [--mb N] [--seed "
			    "N] [--ops LIST] [--child-steps N] [--quiet]\n"
			    "Works on its own memory in every way there is, and verifies it: "
			    "exit code 1 when a byte\n"
			    "is wrong. A child takes 24 steps unless told otherwise. LIST is a "
			    "comma-separated list of:\n"
#define X(name, weight, in_child, help) "  " #name ": " help "\n"
	GUEST_OPS(X)
#undef X
	;

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

	memset(o->enabled, 0, sizeof(o->enabled));
	o->chosen = true;
	for (char *name = strtok_r(list, ",", &rest); name; name = strtok_r(NULL, ",", &rest))
		o->enabled[parse_op(name)] = true;
}

static void parse_option(struct options *o, int key, char *value)
{
	switch (key) {
	case 's':
		o->seconds = parse_number("--seconds", value, 1, 1000000);
		break;
	case 't':
		o->threads = parse_number("--threads", value, 1, 256);
		break;
	case 'm':
		o->megabytes = parse_number("--mb", value, 1, 1 << 20);
		break;
	case 'r':
		o->seed = parse_number("--seed", value, 0, UINT64_MAX);
		break;
	case 'o':
		parse_ops(o, value);
		break;
	case 'b':
		o->sabotage = (int)parse_op(value);
		break;
	case 'c':
		o->child_steps = parse_number("--child-steps", value, 1, 1 << 20);
		break;
	case 'q':
		o->quiet = true;
		break;
	default:
		fputs(usage, key == 'h' ? stdout : stderr);
		exit(key == 'h' ? 0 : 2);
	}
}

static void parse_options(struct options *o, int argc, char **argv)
{
	static const struct option longs[] = {
		{"seconds", required_argument, NULL, 's'},
		{"threads", required_argument, NULL, 't'},
		{"mb", required_argument, NULL, 'm'},
		{"seed", required_argument, NULL, 'r'},
		{"ops", required_argument, NULL, 'o'},
		{"sabotage", required_argument, NULL, 'b'}, /* to test that errors are found */
		{"child-steps", required_argument, NULL, 'c'},
		{"quiet", no_argument, NULL, 'q'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	int key;

	while ((key = getopt_long(argc, argv, "", longs, NULL)) != -1)
		parse_option(o, key, optarg);
	if (optind < argc)
		usage_error("unexpected argument", argv[optind]);
}

static struct worker *make_worker(const struct options *o, unsigned number)
{
	struct worker *w = calloc(1, sizeof(*w));

	if (!w)
		exit(2);
	w->options = o;
	w->number = number;
	w->random = mix(o->seed + number) << 8;
	w->next_id = (uint64_t)(number + 1) << 48;
	w->pages_max = (size_t)(o->megabytes * 256 / o->threads);
	return w;
}

static void *be_worker(void *arg)
{
	worker_setup(arg);
	worker_run(arg);
	worker_finish(arg);
	return NULL;
}

/* The first thread is this one: with --threads 1 the process has no other. */
static void run_all(struct worker **workers, size_t count)
{
	pthread_t threads[256];

	for (size_t i = 1; i < count; i++)
		if (pthread_create(&threads[i], NULL, be_worker, workers[i]) != 0)
			exit(2);
	be_worker(workers[0]);
	for (size_t i = 1; i < count; i++)
		pthread_join(threads[i], NULL);
}

/* 1: an operation that was asked for was never done, though this kernel has it. */
static int report(const struct options *o, struct worker **workers)
{
	uint64_t counts[OP_COUNT] = {0}, unavailable[OP_COUNT] = {0}, checked = 0;
	int result = 0;

	for (size_t i = 0; i < o->threads; i++) {
		checked += workers[i]->checked;
		for (unsigned op = 0; op < OP_COUNT; op++) {
			counts[op] += workers[i]->counts[op];
			unavailable[op] += workers[i]->unavailable[op];
		}
	}
	if (!o->quiet)
		printf("pages checked: %llu\n", (unsigned long long)checked);
	for (unsigned op = 0; op < OP_COUNT; op++) {
		const char *remark =
			counts[op] == 0 && unavailable[op] > 0 ? " (unavailable)" : "";
		if (!o->quiet && o->enabled[op])
			printf("%-12s %8llu%s\n", op_names[op], (unsigned long long)counts[op],
				remark);
		if (o->chosen && o->enabled[op] && counts[op] == 0 && unavailable[op] == 0) {
			fprintf(stderr, "guest: %s was never done\n", op_names[op]);
			result = 1;
		}
	}
	return result;
}

int main(int argc, char **argv)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	struct options o = {.seconds = 10,
		.threads = 4,
		.megabytes = 256,
		.seed = mix((uint64_t)t.tv_nsec ^ (uint64_t)getpid()) >> 16,
		.child_steps = 24, /* as long as its parent waits for it */
		.sabotage = -1};
	struct worker *workers[256];

	memset(o.enabled, 1, sizeof(o.enabled));
	parse_options(&o, argc, argv);
	o.multi_move = probe_multi_move();
	if (!o.quiet) {
		printf("seed %llu\n", (unsigned long long)o.seed);
		fflush(stdout);
	}
	/* Blocks up to 4 MiB from the heap proper, for all threads, and the top given back
	 * early. */
	mallopt(M_MMAP_THRESHOLD, 4 << 20);
	mallopt(M_TRIM_THRESHOLD, 1 << 20);
	mallopt(M_ARENA_MAX, o.seed % 2 ? 1 : 2);
	for (unsigned i = 0; i < o.threads; i++)
		workers[i] = make_worker(&o, i);
	run_all(workers, o.threads);
	int result = report(&o, workers);
	for (unsigned i = 0; i < o.threads; i++)
		free(workers[i]);
	return result;
}
