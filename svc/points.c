#include "points.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
	MICROSECONDS_MAX = 10000000,
	TEXT_MAX = 4096,
	/* A test that was killed leaves its files: the service ends all the same. */
	STAY_MS = 60000,
};

static const char *const names[] = {
#define X(name, help) #name,
	POINTS(X)
#undef X
};

bool points_chosen;
static const char *kill_dir; /* NULL: nobody is to die */
static struct {
	unsigned microseconds; /* 0: not chosen */
	unsigned one_in;
	const char *path;	 /* NULL: not chosen */
	_Atomic unsigned passed; /* since there is a link in kill_dir */
} chosen[POINT_COUNT];

/* Digits only, from 1 to most; moves *text behind them. 0: none there, or out of range. */
static unsigned parse_number(const char **text, unsigned most)
{
	size_t digits = strspn(*text, "0123456789");
	unsigned long n = digits > 0 && digits < 10 ? strtoul(*text, NULL, 10) : 0;

	*text += digits;
	return n <= most ? (unsigned)n : 0;
}

/* A path is kept where it stands. */
static bool parse_setting(const char *text, enum point p)
{
	if (*text == '/') {
		chosen[p].path = text;
		return true;
	}
	unsigned us = parse_number(&text, MICROSECONDS_MAX), one_in = 1;

	if (*text == ':') {
		text++;
		one_in = parse_number(&text, UINT_MAX);
	}
	if (us == 0 || one_in == 0 || *text)
		return false;
	chosen[p].microseconds = us;
	chosen[p].one_in = one_in;
	return true;
}

static int parse_one(const char *text, char *message, unsigned size)
{
	const char *equals = strchr(text, '=');

	if (strncmp(text, "kill=/", 6) == 0) {
		kill_dir = equals + 1;
		return 0;
	}
	for (int p = 0; equals && p < POINT_COUNT; p++) {
		size_t len = strlen(names[p]);
		if (len == (size_t)(equals - text) && memcmp(names[p], text, len) == 0 &&
			parse_setting(equals + 1, (enum point)p))
			return 0;
	}
	snprintf(message, size,
		"LARDER_POINTS: \"%s\" isn't NAME=MICROSECONDS[:ONE_IN], "
		"NAME=/PATH or kill=/DIR",
		text);
	return -EINVAL;
}

int points_choose(const char *text, char *message, unsigned size)
{
	static char copy[TEXT_MAX];
	char *rest = NULL;

	if (!text || !*text)
		return 0;
	if (strlen(text) >= sizeof(copy)) {
		snprintf(message, size, "LARDER_POINTS: longer than %zu bytes",
			sizeof(copy) - 1);
		return -EINVAL;
	}
	strcpy(copy, text);
	for (char *one = strtok_r(copy, ",", &rest); one; one = strtok_r(NULL, ",", &rest)) {
		int r = parse_one(one, message, size);
		if (r < 0)
			return r;
	}
	points_chosen = true;
	return 0;
}

/* xorshift64 (Marsaglia 2003), of each thread. */
static uint64_t roll(void)
{
	static _Atomic uint64_t seed = 88172645463325252;
	static _Thread_local uint64_t x;

	if (x == 0)
		x = atomic_fetch_add(&seed, 0x9e3779b97f4a7c15) | 1;
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x;
}

static void stay_while_told(const char *path)
{
	const struct timespec pause = {.tv_nsec = 1000000};
	char at[TEXT_MAX + sizeof(".at")];

	snprintf(at, sizeof(at), "%s.at", path);
	if (rename(path, at) < 0)
		return;
	for (unsigned ms = 0; ms < STAY_MS && access(at, F_OK) == 0; ms++)
		nanosleep(&pause, NULL);
}

static void die_if_told(enum point p)
{
	char path[PATH_MAX], at[PATH_MAX + sizeof(".at")], n[16];
	const char *number = n;

	snprintf(path, sizeof(path), "%s/%s", kill_dir, names[p]);
	ssize_t length = readlink(path, n, sizeof(n) - 1);
	if (length < 0) {
		atomic_store(&chosen[p].passed, 0);
		return;
	}
	n[length] = '\0';
	if (atomic_fetch_add(&chosen[p].passed, 1) + 1 < parse_number(&number, UINT_MAX))
		return;
	snprintf(at, sizeof(at), "%s.at", path);
	/* One of those that come at once. */
	if (rename(path, at) == 0)
		raise(SIGKILL);
}

void points_act(enum point p)
{
	unsigned us = chosen[p].microseconds;
	struct timespec t = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000L};

	if (us > 0 && roll() % chosen[p].one_in == 0)
		nanosleep(&t, NULL);
	if (chosen[p].path)
		stay_while_told(chosen[p].path);
	if (kill_dir)
		die_if_told(p);
}
