/* larderd: options, the kernel's fitness, then the worker. */
#include "cleanup.h"
#include "log.h"
#include "points.h"
#include "probe.h"
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define DEFAULT_CONFIG	    "/etc/larder/larder.conf"
#define DEFAULT_RUNTIME_DIR "/run/larder"

static void usage(FILE *f)
{
	fputs("larderd " LARDER_VERSION ": compressed swap for programs that opt in\n"
	      "\n"
	      "  larderd [--config FILE] [--runtime-dir DIR] [--debug]\n"
	      "\n"
	      "  --config FILE      settings (default: " DEFAULT_CONFIG " if it exists)\n"
	      "  --runtime-dir DIR  sockets and store (default: " DEFAULT_RUNTIME_DIR ")\n"
	      "  --debug            log more\n"
	      "  --help, --version\n"
	      "\n"
	      "Stays in the foreground and logs to stderr. SIGHUP reads the settings again; "
	      "SIGTERM\n"
	      "gives every page back and ends. Needs root.\n",
		f);
}

/* One descriptor a client is five; a FORK that finds none holds its program up. */
static void raise_limits(void)
{
	struct rlimit files, memory = {RLIM_INFINITY, RLIM_INFINITY};

	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	setrlimit(RLIMIT_MEMLOCK, &memory);
	/* A service that is itself paged out would wait for itself. As pages come: the address
	 * space reserved for the store is far larger than what is ever used. */
	if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0)
		log_warn("mlockall: %s: the service may be swapped out, and its clients wait "
			 "then",
			strerror(errno));
}

static int parse(int argc, char **argv, struct worker_options *o)
{
	static const struct option option[] = {{"config", required_argument, NULL, 'c'},
		{"runtime-dir", required_argument, NULL, 'r'},
		{"debug", no_argument, NULL, 'd'}, {"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'v'}, {NULL, 0, NULL, 0}};
	int c;

	while ((c = getopt_long(argc, argv, "c:r:dhv", option, NULL)) != -1)
		switch (c) {
		case 'c':
			o->config_path = optarg;
			break;
		case 'r':
			o->runtime_dir = optarg;
			break;
		case 'd':
			log_setup(LOG_DEBUG);
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

int main(int argc, char **argv)
{
	struct worker_options o = {.runtime_dir = DEFAULT_RUNTIME_DIR, .device = -1};

	log_setup(LOG_INFO);
	if (parse(argc, argv, &o) < 0) {
		usage(stderr);
		return 2;
	}
	char message[256];
	if (points_choose(getenv("LARDER_POINTS"), message, sizeof(message)) < 0) {
		log_error("%s", message);
		return 2;
	}
	if (!o.config_path && access(DEFAULT_CONFIG, F_OK) == 0)
		o.config_path = DEFAULT_CONFIG;
	o.device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (o.device < 0) {
		log_error("/dev/userfaultfd: %s%s", strerror(errno),
			errno == EACCES ? ": larderd needs root"
			: errno == ENOENT
				? ": this kernel lacks CONFIG_USERFAULTFD, or is older than 6.1"
				: "");
		return EXIT_FAILURE;
	}
	o.no_eviction = probe_kernel(o.device);
	if (o.no_eviction)
		log_error("nothing will be evicted: %s", o.no_eviction);
	raise_limits(); /* after the probe, which discards memory: locked memory can't be */
	return worker_run(&o) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
