/* larderd: options, the kernel's fitness, then the worker. */
#include "cleanup.h"
#include "comeback.h"
#include "fdstore.h"
#include "kernel.h"
#include "keeper.h"
#include "log.h"
#include "notify.h"
#include "policy.h"
#include "points.h"
#include "probe.h"
#include "pulse.h"
#include "runtime.h"
#include "self.h"
#include "shadow.h"
#include "state.h"
#include "upgrade.h"
#include "settings.h"
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define DEFAULT_RUNTIME_DIR "/run/larder"

enum { OPTION_DUMP_CONFIG = 256, OPTION_CHECK_TAKEOVER }; /* above the letters */

/* The parser, --help and the test of larderd(8) come from this. */
static const struct row {
	int letter; /* or a number above all letters: it has none */
	const char *name;
	const char *argument; /* its name, NULL = a switch */
	const char *help;
} rows[] = {
	{'c', "config", "FILE", "settings (default: " SETTINGS_PATH " if it exists)"},
	{'r', "runtime-dir", "DIR", "sockets and store (default: " DEFAULT_RUNTIME_DIR ")"},
	{'k', "keep", NULL, "SIGTERM gives nothing back: programs wait for the next larderd"},
	{'d', "debug", NULL, "log more"},
	{OPTION_DUMP_CONFIG, "dump-config", NULL,
		"print every setting as a larder.conf, and end"},
	{OPTION_CHECK_TAKEOVER, "check-takeover", NULL,
		"can it take over from the larderd that runs? (exit code 76: yes)"},
	{'h', "help", NULL, "this text"},
	{'v', "version", NULL, "print the version"},
};
enum { ROWS = sizeof(rows) / sizeof(rows[0]) };

static void usage(FILE *f)
{
	fputs("larderd " LARDER_VERSION ": compressed swap for programs that opt in\n\n"
	      "usage: larderd [OPTION...]\n\n",
		f);
	for (size_t i = 0; i < ROWS; i++) {
		char left[40], letter[8] = "    ";
		if (rows[i].letter < OPTION_DUMP_CONFIG)
			snprintf(letter, sizeof(letter), "-%c, ", rows[i].letter);
		snprintf(left, sizeof(left), "--%s%s%s", rows[i].name,
			rows[i].argument ? " " : "", rows[i].argument ? rows[i].argument : "");
		fprintf(f, "  %s%-18s  %s\n", letter, left, rows[i].help);
	}
	fputs("\nStays in the foreground and logs to stderr. SIGHUP reads the settings again; "
	      "SIGTERM\ngives every page back and ends; SIGUSR2 has the larderd that is "
	      "installed now take\nover in place. Needs root.\n",
		f);
}

/* rows, in getopt's words. letters: ROWS * 2 + 1. */
static void make_options(struct option option[ROWS + 1], char *letters)
{
	for (size_t i = 0; i < ROWS; i++) {
		int has = rows[i].argument ? required_argument : no_argument;
		option[i] = (struct option){rows[i].name, has, NULL, rows[i].letter};
		if (rows[i].letter >= OPTION_DUMP_CONFIG)
			continue;
		*letters++ = (char)rows[i].letter;
		if (rows[i].argument)
			*letters++ = ':';
	}
	option[ROWS] = (struct option){0};
	*letters = '\0';
}

/* Whoever waits for us waits for a CPU too, and on a busy machine that was most of the wait. A
 * short slice lets a thread that wakes run at once, and gives it no more time than others get
 * (Linux 6.12: sched/eevdf, "Allow shorter slices to wakeup-preempt"). All threads inherit it.
 */
static void ask_for_short_slices(void)
{
	struct sched_attributes attr = {
		.size = sizeof(attr), .policy = SCHED_OTHER, .runtime = SHORTEST_SLICE_NS};

	if (syscall(SYS_sched_setattr, 0, &attr, 0) < 0)
		log_debug("sched_setattr: %s", strerror(errno));
}

static int parse(int argc, char **argv, struct worker_options *o, int *ret_what)
{
	struct option option[ROWS + 1];
	char letters[ROWS * 2 + 1];
	int c;

	make_options(option, letters);
	while ((c = getopt_long(argc, argv, letters, option, NULL)) != -1)
		switch (c) {
		case 'c':
			o->config_path = optarg;
			break;
		case 'r':
			o->runtime_dir = optarg;
			break;
		case 'k':
			o->keep = true;
			break;
		case 'd':
			log_setup(LOG_DEBUG);
			break;
		case OPTION_DUMP_CONFIG:
		case OPTION_CHECK_TAKEOVER:
			*ret_what = c;
			break;
		case 'h':
			usage(stdout);
			exit(EXIT_SUCCESS);
		case 'v':
			puts("larderd " LARDER_VERSION);
			exit(EXIT_SUCCESS);
		default:
			return -EINVAL;
		}
	return optind == argc ? 0 : -EINVAL;
}

static int dump_config(const char *path)
{
	struct config *c;
	char message[512];

	int r = settings_load(path, &c, message, sizeof(message));
	if (r < 0) {
		log_error("%s", message);
		return r;
	}
	r = config_dump(c, stdout);
	if (r < 0)
		log_error("stdout: %s", strerror(-r));
	config_free(c);
	return r;
}

/* The descriptor, or -1: it said why. */
static int open_device(void)
{
	int fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		log_error("/dev/userfaultfd: %s%s", strerror(errno),
			errno == EACCES ? ": larderd needs root"
			: errno == ENOENT
				? ": this kernel lacks CONFIG_USERFAULTFD, or is older than 6.1"
				: "");
	return fd;
}

static int work(void *arg, bool again)
{
	struct worker_options o = *(const struct worker_options *)arg;

	o.again = again || atomic_load(&o.state->numbers_gone);
	self_lock_memory();
	return worker_run(&o) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* The directory, its tmpfs and the sockets are the keeper's, and outlive workers. */
static int open_runtime(struct runtime *rt, struct worker_options *o)
{
	struct config *c;
	char message[512];
	int r = settings_load(o->config_path, &c, message, sizeof(message));

	if (r < 0) {
		log_error("%s", message);
		return r;
	}
	r = runtime_open(rt, o->runtime_dir, settings_store_limit(c));
	config_free(c);
	if (r == 0)
		r = comeback_open(&o->state, rt->store, rt->mounted, o->kept, &rt->left);
	if (r == 0 && !rt->left)
		fdstore_drop_others(o->kept, NULL, NULL); /* of nobody any more */
	if (r == 0)
		o->counters = counters_open(rt->store, rt->left);
	if (o->counters)
		o->counters->started_ms = worker_now_ms();
	/* Anybody may knock: who may attach or ask is decided by who knocks. */
	if (r == 0)
		r = o->stats_fd =
			runtime_listen(o->runtime_dir, "stats.sock", SOCK_STREAM, 0666);
	if (r >= 0)
		r = o->attach_fd =
			runtime_listen(o->runtime_dir, "attach.sock", SOCK_SEQPACKET, 0666);
	return r < 0 ? r : 0;
}

/* What another larderd has left to this one. */
static int take_over(struct runtime *rt, struct worker_options *o, const struct handover *h)
{
	char why[STATE_WHY];

	if ((size_t)snprintf(rt->store, sizeof(rt->store), "%s/store", o->runtime_dir) >=
		sizeof(rt->store))
		return -ENAMETOOLONG;
	int r = state_load(&o->state, rt->store, why);
	if (r < 0) {
		log_error("%s/" STATE_FILE ": %s", rt->store, why[0] ? why : strerror(-r));
		return r;
	}
	o->counters = counters_open(rt->store, true);
	rt->lock_fd = h->lock;
	rt->mounted = o->state->mounted;
	o->attach_fd = h->attach;
	o->stats_fd = h->stats;
	o->notify_fd = h->notify;
	o->before_fd = h->before;
	atomic_fetch_add(&o->state->upgrades, 1);
	point(POINT_upgrade_taken);
	return 0;
}

/* taken: handover_take's. */
static int begin(struct runtime *rt, struct worker_options *o, const struct handover *h,
	int taken, struct pulses **pulses)
{
	if (!*pulses)
		*pulses = pulse_new();
	if (!*pulses) {
		log_error("what the worker's threads are at: %s", strerror(errno));
		return -ENOMEM;
	}
	int r = taken ? take_over(rt, o, h) : open_runtime(rt, o);

	if (r == 0 && !taken)
		o->notify_fd = notify_open();
	return r;
}

/* Programs wait, and nobody but this process has their userfaultfds: what may pass doesn't end
 * it. */
static int begin_or_go_back(struct runtime *rt, struct worker_options *o,
	const struct handover *h, int taken, char **argv, struct pulses **pulses)
{
	int r;

	while ((r = begin(rt, o, h, taken, pulses)) < 0 && taken) {
		upgrade_exec_before(h, argv);
		if (r != -EMFILE && r != -ENFILE && r != -ENOMEM)
			break;
		sleep(1);
	}
	return r;
}

static int serve(struct worker_options *o, const struct handover *h, int taken, char **argv)
{
	struct runtime rt = {.lock_fd = -1};
	struct upgrade upgrade;
	int code = EXIT_FAILURE;

	o->runtime = &rt;
	struct pulses *pulses = NULL;
	if (begin_or_go_back(&rt, o, h, taken, argv, &pulses) == 0) {
		o->state->end_by_signal = o->keep ? WORKER_KEEPS : WORKER_RESTORES;
		shadow_begin();
		pulse_use(pulses); /* the workers', which are forked from here */
		upgrade_init(&upgrade, o, h, argv);
		code = keeper_run(o->state, pulses, &upgrade, o->notify_fd, taken > 0, work, o);
		rt.left = atomic_load(&o->state->kept) != 0;
		rt.mounted = o->state->mounted;
	}
	if (!rt.left)
		counters_close(o->counters, rt.store);
	if (o->state && !rt.left)
		comeback_close(o->state, rt.store);
	/* Its mapping holds the file system. */
	runtime_close(&rt);
	return code;
}

/* What is asked of the kernel. False: it can't be had, and it said so. */
static bool prepare(struct worker_options *o, const struct handover *h, int taken)
{
	/* Other people's pages pass through our memory. */
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	o->device = taken ? h->device : open_device();
	if (o->device < 0)
		return false;
	/* A check has done so when this one takes over, and programs wait now. */
	if (!taken)
		o->no_eviction = probe_kernel(o->device);
	if (o->no_eviction)
		log_error("nothing will be evicted: %s", o->no_eviction);
	ask_for_short_slices();
	self_prepare();
	return true;
}

/* All that is opened is above stderr then: what survives an exec is known by that, and what
 * writes to a standard stream never writes to a program's userfaultfd. */
static bool has_standard_streams(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
			return false;
	return true;
}

/* With the kernel as this binary tries it. */
static int check_takeover(const struct worker_options *o)
{
	_cleanup_fd_ int device = open_device();
	const char *missing = device < 0 ? NULL : probe_kernel(device);

	if (missing)
		log_error("nothing would be evicted: %s", missing);
	return device < 0 || missing ? EXIT_FAILURE : upgrade_check(o);
}

/* Options that do something else, and end. */
static int do_else(int what, const struct worker_options *o)
{
	if (what == OPTION_CHECK_TAKEOVER)
		return check_takeover(o);
	return dump_config(o->config_path) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	struct worker_options o = {.runtime_dir = DEFAULT_RUNTIME_DIR,
		.device = -1,
		.attach_fd = -1,
		.stats_fd = -1,
		.notify_fd = -1,
		.before_fd = -1};
	struct handover h;
	struct fdstore kept;
	int what = 0;

	if (!has_standard_streams())
		return EXIT_FAILURE;
	keeper_block_signals();
	log_setup(LOG_INFO);
	int taken = handover_take(&h);
	if (taken < 0) {
		log_error("LARDER_HANDOVER is set, and not for this process");
		return 2;
	}
	if (parse(argc, argv, &o, &what) < 0) {
		usage(stderr);
		return 2;
	}
	char message[256];
	if (points_choose(getenv("LARDER_POINTS"), message, sizeof(message)) < 0) {
		log_error("%s", message);
		return 2;
	}
	if (what)
		return do_else(what, &o);
	fdstore_take(&kept);
	o.kept = &kept;
	if (taken)
		point(POINT_upgrade_begun);
	if (prepare(&o, &h, taken))
		return serve(&o, &h, taken, argv);
	if (taken)
		upgrade_exec_before(&h, argv);
	return EXIT_FAILURE;
}
