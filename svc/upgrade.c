#include "upgrade.h"
#include "cleanup.h"
#include "journal.h"
#include "log.h"
#include "notify.h"
#include "points.h"
#include "policy.h"
#include "runtime.h"
#include "settings.h"
#include "state.h"
#include "store.h"
#include "worker.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define HANDOVER_ENV  "LARDER_HANDOVER"
#define HANDOVER_FORM "%d %d device %d lock %d attach %d stats %d notify %d before %d path %n"

enum {
	/* Reads the state of all programs, and tries the kernel. */
	CHECK_MAX_MS = 20000,
	/* An eviction that is under way ends with its block: an order that isn't answered is
	 * revoked after some seconds. Programs are served meanwhile. */
	LEAVE_MAX_MS = 30000,
	CHECK_CANT_RUN = 126,
};

/* ---- from one binary to the next ---- */

/* Whatever is open goes along; what is nobody's is closed by the next worker, as after one that
 * died. Once all of it does, 0. */
static int survive_exec(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int r = dir ? 0 : -errno;

	while (dir) {
		errno = 0;
		struct dirent *e = readdir(dir);
		if (!e) {
			r = -errno;
			break;
		}
		int fd = atoi(e->d_name);
		if (fd > STDERR_FILENO && fd != dirfd(dir))
			fcntl(fd, F_SETFD, 0);
	}
	if (dir)
		closedir(dir);
	return r;
}

/* Takes no descriptor, and can't fail. */
static void end_at_exec(void)
{
	syscall(SYS_close_range, STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
}

static bool all_open(const struct handover *h)
{
	const int fds[] = {h->device, h->lock, h->attach, h->stats};

	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fds[i] <= STDERR_FILENO || fcntl(fds[i], F_GETFD) < 0)
			return false;
	return true;
}

/* Where it was executed by a descriptor, as a service manager may, the path is that one's
 * number: then the file's own, as long as that one is there. */
static void started_by(char path[PATH_MAX])
{
	snprintf(path, PATH_MAX, "%s", (const char *)(uintptr_t)getauxval(AT_EXECFN));
	if (strncmp(path, "/dev/fd/", strlen("/dev/fd/")) != 0)
		return;
	ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);
	path[n > 0 ? n : 0] = '\0';
}

int handover_take(struct handover *ret)
{
	const char *said = getenv(HANDOVER_ENV);
	struct handover h = {.before = -1};
	int version = 0, pid = 0, path_at = 0;

	if (!said) {
		started_by(h.path);
		*ret = h;
		return 0;
	}
	int n = sscanf(said, HANDOVER_FORM, &version, &pid, &h.device, &h.lock, &h.attach,
		&h.stats, &h.notify, &h.before, &path_at);
	if (n != 8 || path_at == 0 || version != HANDOVER_VERSION || pid != getpid() ||
		!all_open(&h))
		return -EINVAL;
	snprintf(h.path, sizeof(h.path), "%s", said + path_at);
	unsetenv(HANDOVER_ENV);
	end_at_exec();
	/* It was executed by a descriptor, and is named by its number. */
	prctl(PR_SET_NAME, "larderd");
	*ret = h;
	return 1;
}

/* Returns when it can't; it said why. */
static void hand_over(const struct handover *h, int binary, char **argv)
{
	char said[PATH_MAX + 200];

	snprintf(said, sizeof(said),
		"%d %d device %d lock %d attach %d stats %d notify %d before %d path %s",
		HANDOVER_VERSION, (int)getpid(), h->device, h->lock, h->attach, h->stats,
		h->notify, h->before, h->path);
	if (setenv(HANDOVER_ENV, said, 1) < 0) {
		log_error("upgrade: %s", strerror(errno));
		return;
	}
	/* All or nothing: a userfaultfd that stayed behind would be closed. */
	int r = survive_exec();
	if (r == 0) {
		point(POINT_upgrade_open);
		syscall(SYS_execveat, binary, "", argv, environ, AT_EMPTY_PATH);
		log_error("upgrade: %s can't be executed: %s", h->path, strerror(errno));
	} else {
		log_error("upgrade: /proc/self/fd: %s", strerror(-r));
	}
	end_at_exec();
	unsetenv(HANDOVER_ENV);
}

void upgrade_exec_before(const struct handover *h, char **argv)
{
	struct handover back = *h;

	if (h->before < 0)
		return;
	log_error("upgrade: this binary can't take over; the one before goes on");
	back.before = -1;
	hand_over(&back, h->before, argv);
}

/* ---- the other binary is asked ---- */

/* In a child with a table of its own. */
static void run_check(const struct upgrade *u)
{
	size_t count = 0;
	sigset_t none;

	while (u->argv[count])
		count++;
	char **argv = calloc(count + 2, sizeof(*argv));
	int fd = u->back ? u->before : open(u->path, O_PATH | O_CLOEXEC);
	if (!argv || fd < 0) {
		log_error("upgrade: %s: %s", u->path, strerror(errno));
		_exit(CHECK_CANT_RUN);
	}
	memcpy(argv, u->argv, count * sizeof(*argv));
	argv[count] = (char *)(uintptr_t) "--check-takeover";
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	syscall(SYS_execveat, fd, "", argv, environ, AT_EMPTY_PATH);
	log_error("upgrade: %s can't be executed: %s", u->path, strerror(errno));
	_exit(CHECK_CANT_RUN);
}

static void begin_check(struct upgrade *u, uint64_t now_ms)
{
	point(POINT_upgrade);
	if (!u->back && stat(u->path, &u->binary) < 0) {
		log_error("upgrade: %s: %s; this larderd goes on", u->path, strerror(errno));
		return;
	}
	u->check = fork();
	if (u->check == 0)
		run_check(u);
	if (u->check < 0) {
		log_error("upgrade: %s; this larderd goes on", strerror(errno));
		return;
	}
	u->phase = UPGRADE_CHECKS;
	u->until_ms = now_ms + CHECK_MAX_MS;
	notify_reloading(u->options->notify_fd);
}

void upgrade_init(struct upgrade *u, const struct worker_options *o, const struct handover *h,
	char **argv)
{
	*u = (struct upgrade){.options = o, .argv = argv, .path = h->path, .before = h->before};
}

void upgrade_ask(struct upgrade *u, uint64_t now_ms)
{
	if (atomic_load(&u->options->state->ending)) {
		log_warn("upgrade: the service is ending, and goes on with that");
		return;
	}
	if (atomic_load(&u->options->state->numbers_gone)) {
		log_warn("upgrade: an earlier service's programs are taken over first");
		return;
	}
	if (u->phase != UPGRADE_NONE) {
		log_warn("upgrade: one is under way already");
		return;
	}
	log_info("upgrade: %s is asked whether it can take over", u->path);
	u->back = false;
	begin_check(u, now_ms);
}

static void give_up(struct upgrade *u)
{
	u->phase = UPGRADE_NONE;
	u->back = false;
	notify_ready_again(u->options->notify_fd);
}

static void end_check(struct upgrade *u)
{
	kill(u->check, SIGKILL);
	waitpid(u->check, NULL, 0);
	u->check = 0;
}

void upgrade_cancel(struct upgrade *u)
{
	if (u->phase == UPGRADE_NONE)
		return;
	log_warn("upgrade: the service is to end; nothing comes of it");
	if (u->phase == UPGRADE_CHECKS)
		end_check(u);
	u->phase = UPGRADE_NONE;
	u->back = false;
}

/* It has ended. */
static void judge(struct upgrade *u, int status, pid_t worker, uint64_t now_ms)
{
	u->check = 0;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != UPGRADE_CAN) {
		if (WIFSIGNALED(status))
			log_error(
				"upgrade: %s was ended by signal %d (%s); this larderd goes on",
				u->path, WTERMSIG(status), strsignal(WTERMSIG(status)));
		else
			log_error("upgrade: %s says that it can't take over (exit code %d); "
				  "this larderd goes on",
				u->path, WEXITSTATUS(status));
		give_up(u);
		return;
	}
	point(POINT_upgrade_checked);
	u->phase = UPGRADE_LEAVES;
	u->until_ms = now_ms + LEAVE_MAX_MS;
	if (worker > 0)
		kill(worker, SIGUSR2);
}

void upgrade_look(struct upgrade *u, pid_t worker, uint64_t now_ms)
{
	int status;

	if (u->phase == UPGRADE_CHECKS) {
		if (waitpid(u->check, &status, WNOHANG) == u->check) {
			judge(u, status, worker, now_ms);
		} else if (now_ms >= u->until_ms) {
			log_error("upgrade: %s doesn't say whether it can take over; this "
				  "larderd goes on",
				u->path);
			end_check(u);
			give_up(u);
		}
	} else if (u->phase == UPGRADE_LEAVES && now_ms >= u->until_ms && worker > 0) {
		log_warn("upgrade: the worker doesn't leave; it is ended");
		kill(worker, SIGKILL);
	}
}

void upgrade_worker_ended(struct upgrade *u, bool served, uint64_t now_ms)
{
	if (served)
		u->failures = 0;
	else
		u->failures++;
	if (u->before < 0 || served || u->failures < BACK_AFTER || u->phase != UPGRADE_NONE)
		return;
	u->failures = 0;
	log_error("upgrade: no worker of this binary comes to serve; the one before is asked "
		  "whether it can take over again");
	u->back = true;
	begin_check(u, now_ms);
}

/* ---- and takes over ---- */

static bool is_that_one(int fd, const struct stat *then)
{
	struct stat now;

	return fstat(fd, &now) == 0 && now.st_dev == then->st_dev &&
	       now.st_ino == then->st_ino && now.st_size == then->st_size &&
	       now.st_mtim.tv_sec == then->st_mtim.tv_sec &&
	       now.st_mtim.tv_nsec == then->st_mtim.tv_nsec;
}

/* Nobody shares the table now. */
static int open_binary(const struct upgrade *u)
{
	if (u->back)
		return fcntl(u->before, F_DUPFD_CLOEXEC, 3);
	int fd = open(u->path, O_PATH | O_CLOEXEC);
	if (fd >= 0 && is_that_one(fd, &u->binary))
		return fd;
	log_error("upgrade: %s: %s", u->path,
		fd < 0 ? strerror(errno) : "it is another file than the one that was asked");
	if (fd >= 0)
		close(fd);
	return -1;
}

void upgrade_exec(struct upgrade *u)
{
	const struct worker_options *o = u->options;
	struct handover h = {.device = o->device,
		.lock = o->runtime->lock_fd,
		.attach = o->attach_fd,
		.stats = o->stats_fd,
		.notify = o->notify_fd,
		.before = -1};

	if (u->phase != UPGRADE_LEAVES)
		return;
	point(POINT_upgrade_alone);
	int fd = open_binary(u);
	if (fd >= 0) {
		snprintf(h.path, sizeof(h.path), "%s", u->path);
		h.before = u->back ? -1 : open("/proc/self/exe", O_PATH | O_CLOEXEC);
		log_info("upgrade: %s takes over", u->back ? "the binary before" : u->path);
		hand_over(&h, fd, u->argv);
		close(fd);
		if (h.before >= 0)
			close(h.before);
	}
	log_error("upgrade: this larderd goes on");
	give_up(u);
}

/* ---- what is asked ---- */

static int check_store(const char *dir)
{
	char why[STATE_WHY] = "";
	int r = state_check(dir, why);

	if (r < 0) {
		log_error("%s/" STATE_FILE ": %s", dir, why[0] ? why : strerror(-r));
		return r;
	}
	r = journal_check_all(dir, why, sizeof(why));
	if (r < 0) {
		log_error("%s: %s", dir, why[0] ? why : strerror(-r));
		return r;
	}
	r = store_check_version(dir);
	if (r < 0)
		log_error("%s: %s", dir, runtime_store_problem(r));
	return r;
}

int upgrade_check(const struct worker_options *o)
{
	char message[512], dir[512];
	struct config *c;
	int r = settings_load(o->config_path, &c, message, sizeof(message));

	if (r < 0)
		log_error("%s", message);
	else
		config_free(c);
	snprintf(dir, sizeof(dir), "%s/store", o->runtime_dir);
	if (r == 0)
		r = check_store(dir);
	if (r < 0)
		return EXIT_FAILURE;
	log_info("larderd " LARDER_VERSION ": can take over at %s", o->runtime_dir);
	return UPGRADE_CAN;
}
