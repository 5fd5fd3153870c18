/* What a program's start and end cost in different environments, turn by turn.
 *
 *	bench-start ROUNDS PROGRAM NAME[:VAR=VALUE[,VAR=VALUE]...]...
 *
 * Prints for each NAME the median and the tenth percentile of the time from vfork to the end,
 *and the mean of the program's own processor time, in us, without the first tenth of the
 *rounds. */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WAYS_MAX = 16, VARIABLES_MAX = 8 };

struct way {
	char *name;
	char *environment[VARIABLES_MAX + 1];
	double *us; /* owned; one a round */
	double cpu_us;
};

static double now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static double in_us(struct timeval t)
{
	return (double)t.tv_sec * 1e6 + (double)t.tv_usec;
}

static bool way_parse(struct way *w, char *text)
{
	size_t count = 0;

	w->name = strsep(&text, ":");
	for (char *v; text && (v = strsep(&text, ","));) {
		if (count == VARIABLES_MAX || !strchr(v, '='))
			return false;
		w->environment[count++] = v;
	}
	return *w->name != '\0';
}

static bool run_once(struct way *w, char *program, unsigned round, bool counts)
{
	char *argv[] = {program, NULL};
	struct rusage use;
	int status;
	double from = now_us();
	pid_t pid = vfork();

	if (pid == 0) {
		execve(program, argv, w->environment);
		_exit(127);
	}
	if (pid < 0 || wait4(pid, &status, 0, &use) != pid || status != 0)
		return false;
	w->us[round] = now_us() - from;
	if (counts)
		w->cpu_us += in_us(use.ru_utime) + in_us(use.ru_stime);
	return true;
}

static int ascending(const void *a, const void *b)
{
	const double *x = a, *y = b;
	return (*x > *y) - (*x < *y);
}

static void print_way(struct way *w, unsigned rounds, unsigned warm)
{
	unsigned n = rounds - warm;

	qsort(w->us + warm, n, sizeof(double), ascending);
	printf("%-16s median %7.0f us, p10 %7.0f us, processor %7.0f us\n", w->name,
		w->us[warm + n / 2], w->us[warm + n / 10], w->cpu_us / n);
}

int main(int argc, char **argv)
{
	struct way way[WAYS_MAX] = {0};
	unsigned rounds = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 0;
	int ways = argc - 3;

	if (rounds == 0 || ways < 1 || ways > WAYS_MAX) {
		fprintf(stderr,
			"usage: bench-start ROUNDS PROGRAM NAME[:VAR=VALUE[,...]]...\n");
		return 2;
	}
	for (int i = 0; i < ways; i++) {
		way[i].us = calloc(rounds, sizeof(double));
		if (!way[i].us || !way_parse(&way[i], argv[3 + i])) {
			fprintf(stderr, "bench-start: %s: not NAME:VAR=VALUE,...\n",
				argv[3 + i]);
			return 2;
		}
	}
	unsigned warm = rounds / 10;
	for (unsigned r = 0; r < rounds; r++)
		for (int i = 0; i < ways; i++)
			if (!run_once(&way[i], argv[2], r, r >= warm)) {
				fprintf(stderr, "bench-start: %s: %s did not end well\n",
					way[i].name, argv[2]);
				return 1;
			}
	for (int i = 0; i < ways; i++) {
		print_way(&way[i], rounds, warm);
		free(way[i].us);
	}
	return 0;
}
