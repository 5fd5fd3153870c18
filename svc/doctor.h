/* `larder doctor`: why this machine can't evict, or why a process isn't managed.
 *
 * Tables of checks, each of which looks at one thing and adds findings. The world is a
 * parameter: files are read below `root`, and what the service answered, and the trial of the
 * kernel, come in with it. No check changes anything.
 *
 * Every warning and every failure has a remedy. A failure is what prevents eviction; a warning
 * is what makes it worse, or what may become a failure. */
#ifndef LARDER_DOCTOR_H
#define LARDER_DOCTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct statfs;

enum doctor_level { DOCTOR_OK, DOCTOR_WARN, DOCTOR_FAIL };
const char *doctor_level_name(enum doctor_level level); /* "ok", "warn", "fail" */

/* A finding's texts may hold names that others chose: clean them before a terminal. */
struct doctor_finding {
	enum doctor_level level;
	const char *name;
	char what[360];
	char remedy[360]; /* "" with DOCTOR_OK */
};

/* What the service says of itself. */
struct doctor_service {
	bool answers;
	char why[300]; /* when it doesn't */
	pid_t pid;
	char version[40];
};

/* What the service says of the process. */
struct doctor_client {
	enum { DOCTOR_UNASKED, DOCTOR_NO_CLIENT, DOCTOR_CLIENT } is;
	char why[300]; /* when it was asked and refused to say; else "" */
	char state[24], policy[64];
	pid_t agent_pid;
	uint64_t uptime_ms, managed_bytes, evicted_bytes;
};

enum { DOCTOR_FINDINGS_MAX = 64 };

struct doctor {
	/* Set by the caller; strings are borrowed. */
	const char *root;	 /* before every path: "" is the real world */
	const char *runtime_dir; /* of the service */
	const char *config_path; /* --config, or NULL: the service's, or the default */
	const char *shim;	 /* path of liblarder.so */
	uid_t uid;		 /* effective, of who asks */
	/* Tries the kernel: as probe_forked. */
	int (*probe)(int device, char *what, size_t size);
	/* How large a file system is: as statfs(2). */
	int (*space)(const char *path, struct statfs *ret);
	struct doctor_service service;
	pid_t pid; /* the process to look at */
	struct doctor_client client;

	/* The findings, in the order of the checks. */
	struct doctor_finding finding[DOCTOR_FINDINGS_MAX];
	size_t count;
	const char *check; /* whose turn it is */
};

void doctor_machine(struct doctor *d); /* fills in the findings */
void doctor_process(struct doctor *d);
size_t doctor_count(const struct doctor *d, enum doctor_level level);

#endif
