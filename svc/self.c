#include "self.h"
#include "cleanup.h"
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
	/* As other daemons have it that many depend on. Not -1000: a service that leaks must be
	 * found by the kernel, after everybody else. */
	OOM_SCORE_ADJ = -900,
	/* More would be of no use: that many programs don't fit into a machine. Some systems
	 * have a limit of a billion. */
	FILES_MAX = 1 << 20,
	/* For so few programs the log says that it is few. A program needs five, its child one.
	 */
	FILES_FEW = 2000,
	/* Readers and those that stand in for them, HTTP, packing: 32 + 96 + 64 + one a CPU,
	 * and a few. */
	THREADS_MOST = 300,
};

/* ---- open files, threads ---- */

static void raise_files(void)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) < 0)
		return;
	rlim_t want = files.rlim_max < FILES_MAX ? files.rlim_max : FILES_MAX;
	if (files.rlim_cur < want) {
		files.rlim_cur = want;
		if (setrlimit(RLIMIT_NOFILE, &files) < 0)
			log_warn("limit on open files: %s", strerror(errno));
	}
	if (want < FILES_FEW)
		log_warn("limit on open files: %llu is enough for %llu programs; then a fork "
			 "that "
			 "finds none waits (LimitNOFILE= in the unit, or ulimit -Hn)",
			(unsigned long long)want, (unsigned long long)want / 8);
}

/* Root has no limit of its own here, but a service that runs as somebody else has. */
static void raise_threads(void)
{
	struct rlimit threads;

	if (getrlimit(RLIMIT_NPROC, &threads) < 0)
		return;
	threads.rlim_cur = threads.rlim_max;
	(void)setrlimit(RLIMIT_NPROC, &threads);
	if (geteuid() != 0 && threads.rlim_cur < THREADS_MOST)
		log_warn("limit on threads: %llu, of which up to %d are needed (LimitNPROC= in "
			 "the "
			 "unit, or ulimit -Hu)",
			(unsigned long long)threads.rlim_cur, (int)THREADS_MOST);
}

/* ---- memory ---- */

static bool has_capability(int capability)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {0};

	return syscall(SYS_capget, &head, data) == 0 &&
	       (data[capability / 32].effective >> capability % 32 & 1);
}

/* A service that is itself paged out would wait for itself. As pages come (ONFAULT): the
 * address space reserved for the store is far larger than what is ever used.
 *
 * The tmpfs mapping is locked too. That costs nothing: its pages are unevictable anyway
 * (noswap), and a hole that is punched takes locked ones as well (measured). But a limit on
 * locked memory would be compared with all of the address space, and refuse the mappings that
 * come later: with one, nothing is locked. */
void self_lock_memory(void)
{
	const struct rlimit none = {RLIM_INFINITY, RLIM_INFINITY};
	const char *then = "the service may be swapped out, and its programs wait then "
			   "(LimitMEMLOCK=infinity in the unit, or CAP_IPC_LOCK)";

	if (setrlimit(RLIMIT_MEMLOCK, &none) < 0 && !has_capability(CAP_IPC_LOCK)) {
		log_warn("memory can't be locked: there is a limit on it: %s", then);
		return;
	}
	if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0)
		log_warn("memory can't be locked: mlockall: %s: %s", strerror(errno), then);
}

/* A huge page for what needs a small one is memory that nobody saves, and making it takes time
 * at the first touch. */
static void refuse_huge_pages(void)
{
	if (prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) < 0)
		log_warn("transparent huge pages can't be turned off for the service: %s: it "
			 "takes "
			 "more memory",
			strerror(errno));
}

/* What was set lower, by a unit or an administrator, stays. */
static void lower_oom_score(void)
{
	_cleanup_fd_ int fd = open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC);
	char text[16] = "";
	int score;

	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n > 0 && sscanf(text, "%d", &score) == 1) {
		if (score <= OOM_SCORE_ADJ)
			return;
		n = snprintf(text, sizeof(text), "%d", OOM_SCORE_ADJ);
		if (pwrite(fd, text, (size_t)n, 0) == n)
			return;
	}
	log_warn("oom_score_adj can't be lowered to %d: %s: the kernel may kill the service "
		 "when "
		 "memory runs out (OOMScoreAdjust= in the unit, or CAP_SYS_RESOURCE)",
		OOM_SCORE_ADJ, strerror(errno));
}

void self_prepare(void)
{
	raise_files();
	raise_threads();
	refuse_huge_pages();
	lower_oom_score();
	self_lock_memory();
}
