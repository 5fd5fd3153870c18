/* Checks of the service and of what it needs around it. */
#include "doctor_check.h"

#include "cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>

bool doctor_check_service(struct doctor *d)
{
	const struct doctor_service *s = &d->service;

	if (s->answers) {
		doctor_ok(d, "larderd runs, pid %d, at %s", (int)s->pid, d->runtime_dir);
		return true;
	}
	doctor_fail(d, "%s", s->why);
	doctor_remedy(d,
		"start larderd as root; when it runs with a directory of its own, give it: "
		"larder doctor --runtime-dir DIR");
	return true;
}

bool doctor_check_version(struct doctor *d)
{
	const char *version = d->service.version;

	if (!d->service.answers)
		return true;
	if (strcmp(version, LARDER_VERSION) == 0) {
		doctor_ok(d, "larderd and larder are both " LARDER_VERSION);
		return true;
	}
	doctor_warn(
		d, "larderd is %s, larder is " LARDER_VERSION, *version ? version : "unknown");
	doctor_remedy(d, "start larderd again, so that the installed one runs; programs give "
			 "their pages back first");
	return true;
}

/* ---- the store ---- */

struct mount {
	char type[32], options[256];
};

/* Undoes \040 and the like, in place. */
static void unescape(char *s)
{
	char *to = s;
	for (; *s; to++) {
		unsigned c;
		if (*s == '\\' && sscanf(s + 1, "%3o", &c) == 1) {
			*to = (char)c;
			s += 4;
		} else {
			*to = *s++;
		}
	}
	*to = '\0';
}

/*   36 35 98:0 /root /mount/point rw,noatime master:1 - ext3 /dev/root rw,errors=continue  */
static bool parse_mount(const char *line, const char *wanted, struct mount *ret)
{
	char point[PATH_MAX];
	const char *rest = strstr(line, " - ");

	if (!rest || sscanf(line, "%*s %*s %*s %*s %4095s", point) != 1)
		return false;
	unescape(point);
	return strcmp(point, wanted) == 0 &&
	       sscanf(rest, " - %31s %*s %255s", ret->type, ret->options) == 2;
}

/* The one that covers the others is the last. */
static bool find_mount(char *mountinfo, const char *wanted, struct mount *ret)
{
	bool found = false;
	char *save, *line = strtok_r(mountinfo, "\n", &save);

	for (; line; line = strtok_r(NULL, "\n", &save))
		found |= parse_mount(line, wanted, ret);
	return found;
}

/* As the kernel names it, links resolved and without the root. */
static void store_path(const struct doctor *d, char *path, size_t size)
{
	char full[PATH_MAX];

	snprintf(full, sizeof(full), "%s%s/store", d->root, d->runtime_dir);
	_cleanup_free_ char *real = realpath(full, NULL),
			    *root = realpath(*d->root ? d->root : "/", NULL);
	size_t skip = real && root && *d->root ? strlen(root) : 0;
	snprintf(path, size, "%s", real ? real + skip : full + strlen(d->root));
}

/* Where the service is, when it may be asked for; else where we are. */
static bool store_mount(const struct doctor *d, char *path, size_t size, struct mount *ret)
{
	_cleanup_free_ char *info =
		d->service.answers
			? doctor_text(d, NULL, "/proc/%d/mountinfo", (int)d->service.pid)
			: NULL;
	if (!info)
		info = doctor_text(d, NULL, "/proc/self/mountinfo");
	store_path(d, path, size);
	return info && find_mount(info, path, ret);
}

static bool has_option(const char *options, const char *name)
{
	size_t n = strlen(name);
	for (const char *s = options; *s; s += strcspn(s, ","), s += *s == ',')
		if (strncmp(s, name, n) == 0 && (s[n] == ',' || s[n] == '\0'))
			return true;
	return false;
}

static void look_at_space(struct doctor *d, const char *path)
{
	char full[PATH_MAX], size[32], left[32];
	struct statfs fs;

	snprintf(full, sizeof(full), "%s%s", d->root, path);
	if (d->space(full, &fs) < 0 || fs.f_blocks == 0) {
		doctor_ok(d, "%s: a tmpfs that is never swapped", path);
		return;
	}
	uint64_t block = (uint64_t)fs.f_bsize;
	doctor_bytes(fs.f_blocks * block, size);
	doctor_bytes(fs.f_bavail * block, left);
	if (fs.f_bavail >= fs.f_blocks / 10) {
		doctor_ok(d, "%s: a tmpfs that is never swapped, %s free of %s", path, left,
			size);
		return;
	}
	doctor_warn(d, "%s is nearly full: %s free of %s", path, left, size);
	doctor_remedy(d,
		"mount -o remount,size=SIZE %s, and memory-limit in [store]; or larder "
		"release what is used again",
		path);
}

bool doctor_check_store(struct doctor *d)
{
	char path[PATH_MAX];
	struct mount m;

	if (!store_mount(d, path, sizeof(path), &m)) {
		doctor_ok(d,
			d->service.answers ? "%s can't be seen from here"
					   : "larderd will mount a tmpfs at %s",
			path);
	} else if (strcmp(m.type, "tmpfs") != 0) {
		doctor_fail(d,
			"%s is a %s: packed memory of programs would lie on a disk, so "
			"larderd refuses it",
			path, m.type);
		doctor_remedy(d, "umount %s; larderd mounts a tmpfs there", path);
	} else if (!has_option(m.options, "noswap")) {
		doctor_warn(d,
			"%s is a tmpfs without noswap: what larder takes out may be "
			"swapped out in turn",
			path);
		doctor_remedy(d,
			"stop larderd, umount %s, and start it: it mounts one with "
			"noswap (Linux 6.4)",
			path);
	} else {
		look_at_space(d, path);
	}
	return true;
}

/* ---- capabilities and limits ---- */

#define BIT(capability) (1ULL << (capability))

/* What larderd was found to use, by taking each away. The first that is there will do. */
static const struct need {
	uint64_t any_of;
	const char *name;
	enum doctor_level missing;
	const char *without;
} needs[] = {
	{BIT(CAP_SYS_PTRACE), "CAP_SYS_PTRACE", DOCTOR_FAIL,
		"no fork can be followed, and no program's memory looked at"},
	{BIT(CAP_DAC_READ_SEARCH) | BIT(CAP_DAC_OVERRIDE), "CAP_DAC_READ_SEARCH", DOCTOR_FAIL,
		"other users' programs can't attach"},
	{BIT(CAP_SYS_ADMIN), "CAP_SYS_ADMIN", DOCTOR_FAIL,
		"the store's tmpfs can't be mounted"},
	{BIT(CAP_IPC_LOCK), "CAP_IPC_LOCK", DOCTOR_WARN,
		"the service may be swapped out, and programs wait then"},
	{BIT(CAP_KILL), "CAP_KILL", DOCTOR_WARN,
		"a program with a page that can't be restored can't be stopped"},
};

/* Of the service; when it doesn't run, what root would have here. */
static bool read_capabilities(const struct doctor *d, uint64_t *ret)
{
	_cleanup_free_ char *status =
		d->service.answers
			? doctor_text(d, NULL, "/proc/%d/status", (int)d->service.pid)
			: doctor_text(d, NULL, "/proc/self/status");
	return status &&
	       doctor_field(status, d->service.answers ? "CapEff:" : "CapBnd:", 16, ret);
}

bool doctor_check_capabilities(struct doctor *d)
{
	const char *who = d->service.answers ? "larderd has" : "root has here";
	char path[PATH_MAX];
	struct mount m;
	uint64_t have;
	size_t before = d->count;

	if (!read_capabilities(d, &have)) {
		doctor_warn(d, "what the service may do isn't known");
		doctor_remedy_sudo(d);
		return true;
	}
	/* The unit may have mounted it. */
	if (store_mount(d, path, sizeof(path), &m))
		have |= BIT(CAP_SYS_ADMIN);
	for (size_t i = 0; i < sizeof(needs) / sizeof(needs[0]); i++) {
		if (have & needs[i].any_of)
			continue;
		doctor_add(d, needs[i].missing, "%s no %s: %s", who, needs[i].name,
			needs[i].without);
		doctor_remedy(d,
			"add it to CapabilityBoundingSet of the unit, or docker run "
			"--cap-add %s",
			needs[i].name + strlen("CAP_"));
	}
	if (d->count == before)
		doctor_ok(d, "%s all that the service uses", who);
	return true;
}

static char *service_limits(const struct doctor *d)
{
	return d->service.answers ? doctor_text(d, NULL, "/proc/%d/limits", (int)d->service.pid)
				  : doctor_text(d, NULL, "/proc/self/limits");
}

bool doctor_check_files(struct doctor *d)
{
	enum { PER_PROGRAM = 8, PROGRAMS = 250 };
	_cleanup_free_ char *limits = service_limits(d);
	uint64_t files;

	/* larderd raises its limit as far as it may. */
	if (!limits || !doctor_limit(limits, "Max open files", NULL, &files)) {
		doctor_ok(d, "the service's limit isn't readable from here");
		return true;
	}
	if (files >= PER_PROGRAM * PROGRAMS) {
		doctor_ok(d, "enough for %llu programs",
			(unsigned long long)(files / PER_PROGRAM));
		return true;
	}
	doctor_warn(d,
		"at most %llu open files: enough for %llu programs, and a fork that finds none "
		"waits",
		(unsigned long long)files, (unsigned long long)(files / PER_PROGRAM));
	doctor_remedy(d, "LimitNOFILE=524288 in the unit, or ulimit -Hn before larderd");
	return true;
}

bool doctor_check_locked(struct doctor *d)
{
	uint64_t kilobytes;

	if (!d->service.answers)
		return true;
	_cleanup_free_ char *status =
		doctor_text(d, NULL, "/proc/%d/status", (int)d->service.pid);
	if (!status || !doctor_field(status, "VmLck:", 10, &kilobytes) || kilobytes > 0) {
		doctor_ok(d, "the service can't be swapped out");
		return true;
	}
	doctor_warn(
		d, "the service's memory isn't locked: programs wait while it is swapped in");
	doctor_remedy(d, "LimitMEMLOCK=infinity in the unit, or CAP_IPC_LOCK");
	return true;
}

bool doctor_check_own_huge_pages(struct doctor *d)
{
	uint64_t enabled;

	if (!d->service.answers)
		return true;
	_cleanup_free_ char *status =
		doctor_text(d, NULL, "/proc/%d/status", (int)d->service.pid);
	if (!status || !doctor_field(status, "THP_enabled:", 10, &enabled) || enabled == 0) {
		doctor_ok(d, "the service takes no huge pages for itself");
		return true;
	}
	doctor_warn(d, "the service takes huge pages for itself, and so more memory");
	doctor_remedy(
		d, "start larderd again; its log says what keeps it from turning them off");
	return true;
}

bool doctor_check_oom_score(struct doctor *d)
{
	enum { LOW = -900 };
	int score;

	if (!d->service.answers)
		return true;
	_cleanup_free_ char *text =
		doctor_text(d, NULL, "/proc/%d/oom_score_adj", (int)d->service.pid);
	if (!text || sscanf(text, "%d", &score) != 1 || score <= LOW) {
		doctor_ok(d, "when memory runs out, the kernel ends others before the service");
		return true;
	}
	doctor_warn(d,
		"the service's oom_score_adj is %d: when memory runs out the kernel may end "
		"it, and programs wait until it is started again",
		score);
	doctor_remedy(d, "OOMScoreAdjust=-900 in the unit, or CAP_SYS_RESOURCE");
	return true;
}

/* The limit of the service's group, v2 or v1; UINT64_MAX: none is seen. */
static uint64_t tasks_limit(const struct doctor *d)
{
	_cleanup_free_ char *groups =
		doctor_text(d, NULL, "/proc/%d/cgroup", (int)d->service.pid);
	char *save, *line = groups ? strtok_r(groups, "\n", &save) : NULL;
	uint64_t least = UINT64_MAX, limit;

	for (; line; line = strtok_r(NULL, "\n", &save)) {
		char *pids = strstr(line, ":pids:"), *path = strchr(line, '/');
		bool v2 = strncmp(line, "0::", 3) == 0;
		if (!path || (!v2 && !pids))
			continue;
		_cleanup_free_ char *text = doctor_text(
			d, NULL, "/sys/fs/cgroup%s%s/pids.max", v2 ? "" : "/pids", path);
		if (text && sscanf(text, "%" SCNu64, &limit) == 1 && limit < least)
			least = limit;
	}
	return least;
}

bool doctor_check_tasks(struct doctor *d)
{
	enum { THREADS_MOST = 300 }; /* as self.c has it */

	if (!d->service.answers)
		return true;
	uint64_t limit = tasks_limit(d);
	if (limit >= THREADS_MOST) {
		doctor_ok(d, "as many threads as the service may need");
		return true;
	}
	doctor_warn(d,
		"the service's control group may have %llu tasks: a reader that is stuck at a "
		"program can't be replaced then",
		(unsigned long long)limit);
	doctor_remedy(d, "TasksMax=infinity in the unit, or %d in pids.max", (int)THREADS_MOST);
	return true;
}

/* ---- the shim ---- */

/* The first directory on the way that other users can't go through; NULL: none. */
static const char *closed_directory(const struct doctor *d, char *path)
{
	struct stat st;

	for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (doctor_stat(d, &st, "%s", path) == 0 && !(st.st_mode & S_IXOTH))
			return path;
		*slash = '/';
	}
	return NULL;
}

static void look_at_access(struct doctor *d, int fd)
{
	char path[PATH_MAX];
	struct stat st;

	snprintf(path, sizeof(path), "%s", d->shim);
	const char *closed = closed_directory(d, path);
	if (closed) {
		doctor_warn(d, "%s: other users can't read it, as %s is closed to them",
			d->shim, closed);
		doctor_remedy(d, "install it elsewhere: cmake --install BUILD");
	} else if (fstat(fd, &st) == 0 && !(st.st_mode & S_IROTH)) {
		doctor_warn(d, "%s: other users can't read it", d->shim);
		doctor_remedy(d, "chmod 644 %s", d->shim);
	} else {
		doctor_ok(d, "%s, for %d-bit programs", d->shim, (int)sizeof(void *) * 8);
	}
}

bool doctor_check_shim(struct doctor *d)
{
	_cleanup_fd_ int fd = doctor_open(d, O_RDONLY, "%s", d->shim);
	struct doctor_elf elf;
	int r = fd < 0 ? fd : doctor_elf_read(fd, &elf);

	if (fd == -ENOENT || fd == -EACCES) {
		doctor_fail(d, "no shim at %s (%s): larder run starts programs unmanaged",
			d->shim, strerror(-fd));
		doctor_remedy(d,
			"install Larder (cmake --install BUILD), or set LARDER_SHIM to "
			"liblarder.so");
	} else if (r < 0 || !elf.elf || elf.is_64 != (sizeof(void *) == 8)) {
		doctor_fail(d, "%s is no library for %d-bit programs", d->shim,
			(int)sizeof(void *) * 8);
		doctor_remedy(d, "install the liblarder.so that was built with this larder");
	} else if (strpbrk(d->shim, ": ")) {
		doctor_fail(d, "%s: no path with a space or colon can be preloaded", d->shim);
		doctor_remedy(d, "install it elsewhere, or set LARDER_SHIM to another path");
	} else {
		look_at_access(d, fd);
	}
	return true;
}
