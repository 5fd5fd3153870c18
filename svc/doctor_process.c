/* Checks of one process: how it was started, and whether it attached. */
#include "doctor_check.h"

#include "cleanup.h"
#include "protocol.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHIM_FILE	    "liblarder.so"
#define RUNTIME_DIR_DEFAULT "/run/larder"

static bool attached(const struct doctor *d)
{
	return d->client.is == DOCTOR_CLIENT;
}

/* ---- who it is ---- */

bool doctor_ids(const char *status, uid_t *ret)
{
	unsigned real, effective;
	const char *line = strstr(status, "\nUid:");

	if (!line || sscanf(line, "\nUid: %u %u", &real, &effective) != 2)
		return false;
	*ret = effective;
	return true;
}

void doctor_user(uid_t uid, char *text, size_t size)
{
	struct passwd pw, *found = NULL;
	char scratch[4096];

	getpwuid_r(uid, &pw, scratch, sizeof(scratch), &found);
	if (found)
		snprintf(text, size, "%s", found->pw_name);
	else
		snprintf(text, size, "%u", uid);
}

static void take_name(const char *status, char *name, size_t size)
{
	const char *from = strncmp(status, "Name:\t", 6) == 0 ? status + 6 : "";
	snprintf(name, size, "%.*s", (int)strcspn(from, "\n"), from);
}

/* What is never managed, whatever the configuration says. False: said. */
static bool may_be_asked(struct doctor *d, const char *name, const char *status)
{
	uint64_t size;

	if (strstr(status, "\nState:\tZ")) {
		doctor_fail(d, "%s (%d) has ended", name, (int)d->pid);
		doctor_remedy(d, "start it again: larder run -- CMD");
	} else if (!doctor_field(status, "VmSize:", 10, &size)) {
		doctor_fail(d, "%s (%d) has no memory of its own: a kernel thread", name,
			(int)d->pid);
		doctor_remedy(d, "only programs can be managed: larder run -- CMD");
	} else if (strcmp(name, "larder-agent") == 0) {
		doctor_fail(d, "an agent: it shares the memory of a program");
		doctor_remedy(d, "larder status tells which; ask about that one");
	} else if (d->service.answers && d->service.pid == d->pid) {
		doctor_fail(d, "the service is never its own client");
		doctor_remedy(d, "ask about a program; larder doctor without PID is about the "
				 "service");
	} else {
		doctor_ok(d, "%s (%d)", name, (int)d->pid);
		return true;
	}
	return false;
}

bool doctor_check_exists(struct doctor *d)
{
	_cleanup_free_ char *status = doctor_text(d, NULL, "/proc/%d/status", (int)d->pid);
	char name[64];

	if (!status) {
		doctor_fail(d, "there is no process %d", (int)d->pid);
		doctor_remedy(d, "find its number: pgrep -a NAME");
		return false;
	}
	take_name(status, name, sizeof(name));
	return may_be_asked(d, name, status);
}

bool doctor_check_owner(struct doctor *d)
{
	_cleanup_free_ char *status = doctor_text(d, NULL, "/proc/%d/status", (int)d->pid);
	char user[64];
	uid_t uid;

	if (!status || !doctor_ids(status, &uid)) {
		doctor_fail(d, "process %d ended meanwhile", (int)d->pid);
		doctor_remedy(d, "start it again: larder run -- CMD");
		return false;
	}
	doctor_user(uid, user, sizeof(user));
	if (d->uid != 0 && d->uid != uid) {
		doctor_fail(d, "it belongs to user %s, and isn't yours to ask about", user);
		doctor_remedy_sudo(d);
		return false;
	}
	doctor_ok(d, "runs as user %s", user);
	return true;
}

/* ---- attached ---- */

static void say_client(struct doctor *d)
{
	const struct doctor_client *c = &d->client;
	char managed[32], evicted[32];

	doctor_bytes(c->managed_bytes, managed);
	doctor_bytes(c->evicted_bytes, evicted);
	if (strcmp(c->state, "forked") == 0) {
		doctor_warn(d, "a forked child: it gets its pages back, but no more are taken");
		doctor_remedy(d, "it attaches by itself when it executes a program");
	} else if (c->agent_pid == 0) {
		doctor_warn(d,
			"%s, but its agent is gone: what is out is served, no more is taken",
			c->state);
		doctor_remedy(d, "start the program again: larder run -- CMD");
	} else {
		doctor_ok(d, "%s, policy %s, agent %d, %s managed, %s evicted", c->state,
			c->policy, (int)c->agent_pid, managed, evicted);
	}
}

bool doctor_check_attached(struct doctor *d)
{
	if (attached(d)) {
		say_client(d);
	} else if (d->client.is == DOCTOR_NO_CLIENT) {
		doctor_fail(d, "the service doesn't know it");
		doctor_remedy(d,
			"programs attach once, at their start: what fails below is why. "
			"If nothing does, the service wasn't there: start the program "
			"again");
	} else if (*d->client.why) {
		doctor_fail(d, "%s", d->client.why);
		doctor_remedy_sudo(d);
	}
	return true;
}

/* ---- the program ---- */

/* AT_SECURE of the auxiliary vector: set when the exec gained rights (setuid, setgid, file
 * capabilities), and then the dynamic linker preloads nothing from a path. */
static bool gained_rights(const struct doctor *d)
{
	size_t size;
	_cleanup_free_ char *text = doctor_text(d, &size, "/proc/%d/auxv", (int)d->pid);
	Elf64_auxv_t v;

	for (size_t at = 0; text && at + sizeof(v) <= size; at += sizeof(v)) {
		memcpy(&v, text + at, sizeof(v));
		if (v.a_type == AT_SECURE)
			return v.a_un.a_val != 0;
	}
	return false;
}

static void say_gained(struct doctor *d, int fd)
{
	struct stat st;
	bool set = fstat(fd, &st) == 0 && (st.st_mode & (S_ISUID | S_ISGID)) != 0;

	doctor_fail(d, "%s: the dynamic linker preloads nothing into it",
		set ? "a setuid or setgid program" : "a program with capabilities of its own");
	doctor_remedy(d, set ? "larder run a copy that isn't setuid, as the user whose rights "
			       "it needs"
			     : "setcap -r takes the capabilities away; start it as a user who "
			       "has them");
}

static void look_at_program(struct doctor *d, int fd, const struct doctor_elf *elf)
{
	if (!elf->elf) {
		doctor_warn(d, "not an ELF program");
		doctor_remedy(d, "larder doctor the process that runs it");
	} else if (elf->is_64 != (sizeof(void *) == 8)) {
		doctor_fail(d, "a %d-bit program: the shim is for %d-bit ones",
			elf->is_64 ? 64 : 32, (int)sizeof(void *) * 8);
		doctor_remedy(d, "take its %d-bit build", (int)sizeof(void *) * 8);
	} else if (!elf->has_interpreter) {
		doctor_fail(d,
			"statically linked: it has no dynamic linker that could preload the "
			"shim");
		doctor_remedy(
			d, "take a build that is linked dynamically (gcc: without -static)");
	} else if (gained_rights(d)) {
		say_gained(d, fd);
	} else {
		doctor_ok(d, "dynamically linked, %d-bit", (int)sizeof(void *) * 8);
	}
}

bool doctor_check_program(struct doctor *d)
{
	_cleanup_fd_ int fd = doctor_open(d, O_RDONLY, "/proc/%d/exe", (int)d->pid);
	struct doctor_elf elf;
	int r = fd < 0 ? fd : doctor_elf_read(fd, &elf);

	if (r == 0) {
		look_at_program(d, fd, &elf);
		return true;
	}
	doctor_warn(d, "its executable can't be read: %s", strerror(-r));
	doctor_remedy_sudo(d);
	return true;
}

/* ---- the shim in it ---- */

/* The path of the shim that is mapped; false: none is. */
static bool loaded_shim(const struct doctor *d, char *path, size_t size)
{
	_cleanup_free_ char *maps = doctor_text(d, NULL, "/proc/%d/maps", (int)d->pid);
	const char *found = maps ? strstr(maps, "/" SHIM_FILE) : NULL, *from = found;

	if (!found)
		return false;
	/* Back to the path's beginning: it stands behind the spaces of its line. */
	while (from > maps && from[-1] != '\n')
		from--;
	from = strchr(from, '/');
	snprintf(path, size, "%.*s", (int)strcspn(from, "\n"), from);
	return true;
}

bool doctor_check_preload(struct doctor *d)
{
	char path[PATH_MAX];
	size_t size;

	/* Some programs write over their environment. */
	if (attached(d) || loaded_shim(d, path, sizeof(path)))
		return true;
	_cleanup_free_ char *env = doctor_text(d, &size, "/proc/%d/environ", (int)d->pid);
	if (!env) {
		doctor_warn(d, "its environment can't be read: %s", strerror(errno));
		doctor_remedy_sudo(d);
		return true;
	}
	const char *preload = doctor_variable(env, size, "LD_PRELOAD");
	if (preload && strstr(preload, SHIM_FILE)) {
		doctor_ok(d, "LD_PRELOAD is %s", preload);
		return true;
	}
	doctor_fail(d, "it was started without the shim: LD_PRELOAD is %s",
		preload ? preload : "not set");
	doctor_remedy(
		d, "start it with larder run -- CMD; in a unit: ExecStart=larder run -- CMD");
	return true;
}

/* It was said already why the shim isn't there, or that it can't be told. */
static bool absence_explained(const struct doctor *d)
{
	for (size_t i = 0; i < d->count; i++) {
		const struct doctor_finding *f = &d->finding[i];
		if (f->level != DOCTOR_OK &&
			(strcmp(f->name, "preload") == 0 || strcmp(f->name, "program") == 0))
			return true;
	}
	return false;
}

bool doctor_check_loaded(struct doctor *d)
{
	char path[PATH_MAX];

	if (!loaded_shim(d, path, sizeof(path))) {
		/* Its list of mappings can't be read, perhaps. */
		if (attached(d) || absence_explained(d))
			return true;
		doctor_fail(d, "liblarder.so isn't loaded in it, though LD_PRELOAD names it");
		doctor_remedy(d,
			"its user must be able to read the file that LD_PRELOAD names; "
			"the program's own messages at its start say more");
	} else if (strstr(path, " (deleted)")) {
		doctor_warn(d, "it has a liblarder.so that was replaced since");
		doctor_remedy(d, "start the program again, for the installed one");
	} else {
		doctor_ok(d, "%s", path);
	}
	return true;
}

/* What the shim read in the environment, at its start. */
struct origin {
	bool direct; /* larder run became this very process */
	bool kept_out;
	const char *runtime_dir;
};

/* False: it wasn't started by way of larder run. */
static bool read_origin(
	const struct doctor *d, const char *env, size_t size, struct origin *ret)
{
	const char *run = doctor_variable(env, size, "LARDER_RUN_PID");
	const char *inherit = doctor_variable(env, size, "LARDER_INHERIT");
	const char *dir = doctor_variable(env, size, "LARDER_RUNTIME_DIR");

	if (!run)
		return false;
	ret->direct = atol(run) == (long)d->pid;
	ret->kept_out = !ret->direct && inherit && strcmp(inherit, "0") == 0;
	ret->runtime_dir = dir && *dir ? dir : RUNTIME_DIR_DEFAULT;
	return true;
}

bool doctor_check_inherited(struct doctor *d)
{
	size_t size;
	_cleanup_free_ char *env = doctor_text(d, &size, "/proc/%d/environ", (int)d->pid);
	struct origin o;

	if (!env || attached(d) || !read_origin(d, env, size, &o))
		return true;
	if (o.kept_out) {
		doctor_fail(d, "a program above it was started with --no-inherit");
		doctor_remedy(d, "start this one with larder run -- CMD, or that one without "
				 "--no-inherit");
	} else if (!doctor_same_path(d, o.runtime_dir, d->runtime_dir)) {
		doctor_fail(d, "it looks for the service at %s, not at %s", o.runtime_dir,
			d->runtime_dir);
		doctor_remedy(
			d, "larder doctor --runtime-dir %s %d", o.runtime_dir, (int)d->pid);
	} else {
		doctor_ok(d, o.direct ? "started by larder run"
				      : "a child of what larder run started");
	}
	return true;
}

bool doctor_check_limits(struct doctor *d)
{
	static const char *const names[] = {"Max address space", "Max data size"};
	_cleanup_free_ char *limits = doctor_text(d, NULL, "/proc/%d/limits", (int)d->pid);
	size_t before = d->count;
	uint64_t soft;

	for (size_t i = 0; limits && !attached(d) && i < sizeof(names) / sizeof(names[0]);
		i++) {
		if (!doctor_limit(limits, names[i], &soft, NULL) || soft >= SHIM_LIMIT_MARGIN)
			continue;
		doctor_fail(d, "%s is limited to %llu MiB: too near for what the shim needs",
			names[i] + strlen("Max "), (unsigned long long)(soft >> 20));
		doctor_remedy(d,
			"ulimit -%c unlimited before it starts, or LimitAS= and LimitDATA= "
			"in its unit: %d MiB at least",
			i == 0 ? 'v' : 'd', SHIM_LIMIT_MARGIN >> 20);
	}
	if (d->count == before && limits)
		doctor_ok(d, "room enough for the shim");
	return true;
}
