#include "config_make.h"

#include <errno.h>
#include <fnmatch.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Names and numbers */

/* A user or group that is all digits is a number: no name may be. */
static bool as_number(const char *text, unsigned *ret)
{
	unsigned long long n = 0;
	const char *p = text;
	for (; *p >= '0' && *p <= '9'; p++) {
		n = n * 10 + (unsigned long long)(*p - '0');
		if (n >= UINT32_MAX) /* (uid_t)-1 is nobody's */
			return false;
	}
	if (p == text || *p)
		return false;
	*ret = (unsigned)n;
	return true;
}

/* One look-up in the user or group data base with the given scratch space. 0: found. ENOENT: no
 * such name. Else errno, ERANGE asks for more space. */
typedef int lookup_fn(const char *name, char *scratch, size_t size, unsigned *ret);

static int lookup_user(const char *name, char *scratch, size_t size, unsigned *ret)
{
	struct passwd entry, *found;
	int r = getpwnam_r(name, &entry, scratch, size, &found);
	if (r == 0 && found)
		*ret = found->pw_uid;
	return r == 0 && !found ? ENOENT : r;
}

static int lookup_group(const char *name, char *scratch, size_t size, unsigned *ret)
{
	struct group entry, *found;
	int r = getgrnam_r(name, &entry, scratch, size, &found);
	if (r == 0 && found)
		*ret = found->gr_gid;
	return r == 0 && !found ? ENOENT : r;
}

/* A group's entry holds the names of all its members. */
#define SCRATCH_MIN 1024u
#define SCRATCH_MAX (1u << 20)

/* False for a name that doesn't exist, and when the data base can't be asked: nobody is let in
 * by an error. Names are looked up each time, so that a group created later counts. */
static bool id_of(const char *text, lookup_fn *lookup, unsigned *ret)
{
	if (as_number(text, ret))
		return true;
	int r = ERANGE;
	for (size_t size = SCRATCH_MIN; r == ERANGE && size <= SCRATCH_MAX; size *= 4) {
		char *scratch = malloc(size);
		r = scratch ? lookup(text, scratch, size, ret) : ENOMEM;
		free(scratch);
	}
	return r == 0;
}

static bool is_all(const char *item)
{
	return strcmp(item, "*") == 0;
}

/* Matching */

static bool glob_matches(const char *glob, const char *exe)
{
	const char *slash = strrchr(exe, '/');
	const char *text = strchr(glob, '/') || !slash ? exe : slash + 1;
	/* No FNM_PATHNAME: a directory's glob means all below it. */
	return fnmatch(glob, text, 0) == 0;
}

static bool exe_matches(const struct policy_list *globs, const char *exe)
{
	for (size_t i = 0; i < globs->count; i++)
		if (glob_matches(globs->item[i], exe))
			return true;
	return false;
}

static bool user_matches(const struct policy_list *users, const struct policy_subject *subject)
{
	for (size_t i = 0; i < users->count; i++) {
		const char *item = users->item[i];
		unsigned id;
		if (is_all(item))
			return true;
		if (as_number(item, &id) ? id == subject->uid
					 : subject->user && strcmp(item, subject->user) == 0)
			return true;
	}
	return false;
}

/* Within a key any item will do, but every key that is given must fit. A policy without any is
 * taken by name only. */
static bool policy_matches(const struct policy *p, const struct policy_subject *subject)
{
	if (p->match_exe.count == 0 && p->match_user.count == 0)
		return false;
	if (p->match_exe.count > 0 &&
		(!subject->exe || !exe_matches(&p->match_exe, subject->exe)))
		return false;
	return p->match_user.count == 0 || user_matches(&p->match_user, subject);
}

static const struct policy *policy_named(const struct config *c, const char *name)
{
	for (size_t i = 0; i < c->policy_count; i++)
		if (strcmp(c->policies[i].name, name) == 0)
			return &c->policies[i];
	return NULL;
}

const struct policy *policy_match(const struct config *c, const struct policy_subject *subject)
{
	if (subject->policy)
		return policy_named(c, subject->policy);
	for (size_t i = 0; i < c->policy_count; i++)
		if (policy_matches(&c->policies[i], subject))
			return &c->policies[i];
	return policy_named(c, POLICY_DEFAULT);
}

/* Attaching */

static bool group_may(const char *item, const gid_t *groups, size_t group_count)
{
	unsigned gid;
	if (is_all(item))
		return true;
	if (!id_of(item, lookup_group, &gid))
		return false;
	for (size_t i = 0; i < group_count; i++)
		if (groups[i] == gid)
			return true;
	return false;
}

static bool user_may(const char *item, uid_t uid)
{
	unsigned id;
	return is_all(item) || (id_of(item, lookup_user, &id) && id == uid);
}

bool policy_may_attach(
	const struct config *c, uid_t uid, const gid_t *groups, size_t group_count)
{
	if (uid == 0)
		return true;
	for (size_t i = 0; i < c->allow_user.count; i++)
		if (user_may(c->allow_user.item[i], uid))
			return true;
	for (size_t i = 0; i < c->allow_group.count; i++)
		if (group_may(c->allow_group.item[i], groups, group_count))
			return true;
	return false;
}
