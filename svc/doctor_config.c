/* The configuration in force, and what it means for a process. */
#include "doctor_check.h"

#include "cleanup.h"
#include "policy.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG_DEFAULT "/etc/larder/larder.conf"

/* ---- which file ---- */

/* The file that larderd was told to read, as it stands in its arguments; NULL: none. */
static const char *config_argument(const char *arguments, size_t size)
{
	static const char option[] = "--config";
	const char *end = arguments + size;

	for (const char *s = arguments; s < end; s += strlen(s) + 1) {
		if (strncmp(s, option, sizeof(option) - 1) == 0 && s[sizeof(option) - 1] == '=')
			return s + sizeof(option);
		if (strcmp(s, option) == 0 || strcmp(s, "-c") == 0)
			return s + strlen(s) + 1 < end ? s + strlen(s) + 1 : NULL;
	}
	return NULL;
}

/* A relative path is one in the service's directory; who may not ask for that gets a path that
 * says so when it is opened. */
static void in_directory(const struct doctor *d, const char *file, char *path, size_t path_size)
{
	char link[PATH_MAX], directory[PATH_MAX];

	snprintf(link, sizeof(link), "%s/proc/%d/cwd", d->root, (int)d->service.pid);
	ssize_t n = readlink(link, directory, sizeof(directory) - 1);
	directory[n > 0 ? n : 0] = '\0';
	snprintf(path, path_size, "%s/%s", n > 0 ? directory : link + strlen(d->root), file);
}

static bool config_of_service(const struct doctor *d, char *path, size_t path_size)
{
	size_t size;
	_cleanup_free_ char *arguments =
		d->service.answers
			? doctor_text(d, &size, "/proc/%d/cmdline", (int)d->service.pid)
			: NULL;
	const char *file = arguments ? config_argument(arguments, size) : NULL;
	if (!file)
		return false;
	if (*file == '/')
		snprintf(path, path_size, "%s", file);
	else
		in_directory(d, file, path, path_size);
	return true;
}

static bool find_config(const struct doctor *d, char *path, size_t size)
{
	if (d->config_path)
		snprintf(path, size, "%s", d->config_path);
	else if (!config_of_service(d, path, size)) {
		snprintf(path, size, "%s", CONFIG_DEFAULT);
		return false;
	}
	return true;
}

int doctor_config(const struct doctor *d, struct config **ret, char *path, size_t path_size,
	char *why, size_t why_size)
{
	struct config_error e = {.line = 0};
	bool named = find_config(d, path, path_size);
	int r = doctor_open(d, O_RDONLY, "%s", path);

	if (r == -ENOENT && !named) {
		*path = '\0';
		r = config_default(ret);
	} else if (r >= 0) {
		_cleanup_file_ FILE *f = fdopen(r, "r");
		r = f ? config_read(f, ret, &e) : -ENOMEM;
	}
	if (r == -EINVAL && e.line > 0)
		snprintf(why, why_size, "%s:%u: %s", path, e.line, e.message);
	else if (r == -EINVAL)
		snprintf(why, why_size, "%s: %s", path, e.message);
	else if (r < 0)
		snprintf(why, why_size, "%s: %s", path, strerror(-r));
	return r;
}

/* ---- the machine's ---- */

/* Whether any group in the list is there (or a number, which needs none). */
static bool any_group(const struct policy_list *groups)
{
	for (size_t i = 0; i < groups->count; i++) {
		const char *item = groups->item[i];
		if (strspn(item, "0123456789") == strlen(item) || strcmp(item, "*") == 0 ||
			getgrnam(item))
			return true;
	}
	return false;
}

static bool any_user(const struct policy_list *users)
{
	for (size_t i = 0; i < users->count; i++)
		if (strcmp(users->item[i], "root") != 0 && strcmp(users->item[i], "0") != 0)
			return true;
	return false;
}

static void look_at_access(struct doctor *d, const struct config *c)
{
	if (any_user(&c->allow_user) || any_group(&c->allow_group))
		return;
	doctor_warn(d,
		"only root's programs may be managed: allow-user names nobody else, and no "
		"group of allow-group exists");
	doctor_remedy(d, "groupadd --system larder; usermod -aG larder USER; or set allow-user "
			 "and larder reload");
}

bool doctor_check_config(struct doctor *d)
{
	char path[PATH_MAX], why[PATH_MAX + 300];
	struct config *c;
	int r = doctor_config(d, &c, path, sizeof(path), why, sizeof(why));

	if (r == -EACCES && d->uid != 0) {
		doctor_warn(d, "%s", why);
		doctor_remedy_sudo(d);
		return true;
	}
	if (r < 0) {
		/* One that runs keeps what it had. */
		doctor_add(d, d->service.answers ? DOCTOR_WARN : DOCTOR_FAIL, "%s", why);
		doctor_remedy(d, "correct it until this says ok: larder check-config %s", path);
		return true;
	}
	if (*path)
		doctor_ok(d, "%s: %zu polic%s", path, c->policy_count,
			c->policy_count == 1 ? "y" : "ies");
	else
		doctor_ok(d, "built-in settings: there is no " CONFIG_DEFAULT);
	look_at_access(d, c);
	config_free(c);
	return true;
}

/* ---- a process ---- */

enum { GROUPS_MAX = 1024 };

struct subject {
	uid_t uid;
	gid_t groups[GROUPS_MAX];
	size_t group_count;
	char user[64]; /* name, or number */
	char exe[PATH_MAX];
	char asked[64]; /* --policy, or "" */
	bool inherited;
};

static void take_groups(struct subject *s, const char *status)
{
	const char *line = strstr(status, "\nGroups:");
	char *end;

	for (line = line ? line + 8 : "";; line = end) {
		line += strspn(line, " \t");
		unsigned long gid = strtoul(line, &end, 10);
		if (end == line || *line == '\n' || s->group_count == GROUPS_MAX)
			return;
		s->groups[s->group_count++] = (gid_t)gid;
	}
}

static void take_environment(const struct doctor *d, struct subject *s)
{
	size_t size;
	_cleanup_free_ char *env = doctor_text(d, &size, "/proc/%d/environ", (int)d->pid);
	if (!env)
		return;
	const char *policy = doctor_variable(env, size, "LARDER_POLICY");
	const char *run = doctor_variable(env, size, "LARDER_RUN_PID");
	const char *preload = doctor_variable(env, size, "LD_PRELOAD");

	snprintf(s->asked, sizeof(s->asked), "%s", policy ? policy : "");
	/* As the shim sees it. Without the shim it is as if larder run were to start it. */
	if (run || (preload && strstr(preload, "liblarder.so")))
		s->inherited = !run || atol(run) != (long)d->pid;
}

static bool take_subject(const struct doctor *d, struct subject *ret)
{
	_cleanup_free_ char *status = doctor_text(d, NULL, "/proc/%d/status", (int)d->pid);
	struct subject s = {0};
	char link[PATH_MAX];
	uint64_t gid;

	if (!status || !doctor_ids(status, &s.uid) || !doctor_field(status, "Gid:", 10, &gid))
		return false;
	s.groups[s.group_count++] = (gid_t)gid;
	take_groups(&s, status);
	doctor_user(s.uid, s.user, sizeof(s.user));
	snprintf(link, sizeof(link), "%s/proc/%d/exe", d->root, (int)d->pid);
	ssize_t n = readlink(link, s.exe, sizeof(s.exe) - 1);
	s.exe[n > 0 ? n : 0] = '\0';
	take_environment(d, &s);
	*ret = s;
	return true;
}

/* One that is attached already stays so until it ends. */
static enum doctor_level level(const struct doctor *d)
{
	return d->client.is == DOCTOR_CLIENT ? DOCTOR_WARN : DOCTOR_FAIL;
}

static void say_no_policy(struct doctor *d, const struct subject *s, const char *file)
{
	doctor_add(d, level(d), "it asks for policy \"%s\", which doesn't exist", s->asked);
	doctor_remedy(d,
		"add [policy %s] to %s, then larder reload, and start the program again",
		s->asked, file);
}

static void say_refused(
	struct doctor *d, const struct subject *s, const struct policy *p, const char *file)
{
	if (!p->manage)
		doctor_add(d, level(d), "policy %s, which takes %s, says manage = no", p->name,
			s->exe);
	else
		doctor_add(d, level(d),
			"policy %s says inherit = no, and this is a child of what larder run "
			"started",
			p->name);
	doctor_remedy(d,
		"change [policy %s] in %s, then larder reload, and start the program again",
		p->name, file);
}

static void say_young(struct doctor *d, const struct policy *p, const char *file)
{
	doctor_warn(d,
		"policy %s leaves it alone until it is %llu s old (min-age); it is %llu s",
		p->name, (unsigned long long)(p->min_age_ms / 1000),
		(unsigned long long)(d->client.uptime_ms / 1000));
	doctor_remedy(d, "wait, or lower min-age in %s and start the program again", file);
}

static void look_at_policy(
	struct doctor *d, const struct config *c, const struct subject *s, const char *file)
{
	const struct policy_subject subject = {.exe = s->exe,
		.user = s->user,
		.uid = s->uid,
		.policy = *s->asked ? s->asked : NULL};
	const struct policy *p = policy_match(c, &subject);
	const struct doctor_client *client = &d->client;

	if (!p) {
		say_no_policy(d, s, file);
	} else if (!p->manage || (!p->inherit && s->inherited)) {
		say_refused(d, s, p, file);
	} else if (client->is == DOCTOR_CLIENT && strcmp(client->policy, p->name) != 0) {
		doctor_warn(d, "it attached with policy %s; now %s would take it",
			client->policy, p->name);
		doctor_remedy(
			d, "start the program again, for the policy that is in force now");
	} else if (client->is == DOCTOR_CLIENT && client->uptime_ms < p->min_age_ms) {
		say_young(d, p, file);
	} else {
		bool brief = client->is != DOCTOR_CLIENT && s->inherited && p->brief_age_ms > 0;
		doctor_ok(d, "%s%s%s%s", p->name, *s->asked ? ", as it asks" : "",
			p->min_age_ms > 0 ? ", once it is old enough (min-age)" : "",
			brief ? ", unless programs of its executable keep ending early "
				"(brief-age)"
			      : "");
	}
}

static void look_at_permission(
	struct doctor *d, const struct config *c, const struct subject *s, const char *file)
{
	if (policy_may_attach(c, s->uid, s->groups, s->group_count)) {
		doctor_ok(d, "user %s may have programs managed", s->user);
		return;
	}
	doctor_add(d, level(d), "user %s is in neither allow-user nor a group of allow-group",
		s->user);
	doctor_remedy(d,
		"add %s to allow-user in %s, then larder reload, and start the program again; "
		"or usermod -aG larder %s, and log in again",
		s->user, file, s->user);
}

/* What look says, of the configuration in force. */
static bool with_config(struct doctor *d, void (*look)(struct doctor *d, const struct config *c,
						  const struct subject *s, const char *file))
{
	char path[PATH_MAX], why[PATH_MAX + 300];
	struct subject s;
	struct config *c;
	int r = doctor_config(d, &c, path, sizeof(path), why, sizeof(why));

	if (r < 0) {
		doctor_warn(d, "not known, since the configuration can't be read: %s", why);
		if (r == -EACCES && d->uid != 0)
			doctor_remedy_sudo(d);
		else
			doctor_remedy(d, "larder check-config %s", path);
		return true;
	}
	if (take_subject(d, &s))
		look(d, c, &s, *path ? path : CONFIG_DEFAULT);
	config_free(c);
	return true;
}

bool doctor_check_policy(struct doctor *d)
{
	return with_config(d, look_at_policy);
}

bool doctor_check_permission(struct doctor *d)
{
	return with_config(d, look_at_permission);
}
