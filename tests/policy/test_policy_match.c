/* Which policy a program gets, and who may attach. */
#include "test_cmocka.h"

#include "config_text.h"

#include <grp.h>
#include <pwd.h>
#include <string.h>
#include <unistd.h>

static const char policies[] = "[policy ssh]\nmatch-exe = /usr/sbin/sshd\nmanage = no\n"
			       "[policy named]\n"
			       "[policy redis]\nmatch-exe = redis-server keydb*\n"
			       "[policy default]\n"
			       "[policy opt]\nmatch-exe = /opt/*/bin/?\n"
			       "[policy both]\nmatch-exe = java\nmatch-user = app 77\n"
			       "[policy user]\nmatch-user = bob, 1234\n"
			       "[policy late]\nmatch-exe = redis-server sshd\n"
			       "[policy rest]\nmatch-exe = *.bin\nmatch-user = *\n";

static const struct match {
	struct policy_subject subject;
	const char *policy; /* NULL: none */
} matches[] = {
	{{"/usr/sbin/sshd", "root", 0, NULL}, "ssh"},
	{{"/usr/local/sbin/sshd", "root", 0, NULL}, "late"},
	{{"/usr/bin/redis-server", "redis", 100, NULL}, "redis"},
	{{"redis-server", "redis", 100, NULL}, "redis"},
	{{"/x/keydb-server", "redis", 100, NULL}, "redis"},
	{{"/redis-server/other", "x", 100, NULL}, "default"},
	{{"/opt/a/bin/x", "x", 100, NULL}, "opt"},
	{{"/opt/a/b/bin/x", "x", 100, NULL}, "opt"},
	{{"/opt/a/bin/xy", "x", 100, NULL}, "default"},
	{{"/usr/bin/java", "app", 100, NULL}, "both"},
	{{"/usr/bin/java", "other", 77, NULL}, "both"},
	{{"/usr/bin/java", "77", 78, NULL}, "default"},
	{{"/usr/bin/java", "other", 100, NULL}, "default"},
	{{"/usr/bin/vi", "app", 100, NULL}, "default"},
	{{"/usr/bin/vi", "bob", 100, NULL}, "user"},
	{{"/usr/bin/vi", NULL, 1234, NULL}, "user"},
	{{"/usr/bin/vi", NULL, 1235, NULL}, "default"},
	{{"/usr/bin/vi", "1234", 1234, NULL}, "user"},
	{{"/x/y.bin", "anyone", 9, NULL}, "rest"},
	{{NULL, "bob", 100, NULL}, "user"},
	{{NULL, "anyone", 100, NULL}, "default"},
	{{"", "anyone", 100, NULL}, "default"},
	{{"/usr/bin/vi", "x", 100, "named"}, "named"},
	{{"/usr/bin/vi", "x", 100, "redis"}, "redis"},
	{{"/usr/sbin/sshd", "x", 100, "default"}, "default"},
	{{"/usr/bin/vi", "x", 100, "missing"}, NULL},
	{{"/usr/bin/vi", "x", 100, ""}, NULL},
};

static void the_first_policy_that_matches_is_taken(void **state)
{
	(void)state;
	struct config *c = config_of(policies);
	for (size_t i = 0; i < sizeof(matches) / sizeof(matches[0]); i++) {
		const struct match *m = &matches[i];
		const struct policy *p = policy_match(c, &m->subject);
		const char *name = p ? p->name : NULL;
		if (!name != !m->policy || (name && strcmp(name, m->policy) != 0))
			fail_msg("%s of %s: %s instead of %s", m->subject.exe, m->subject.user,
				name, m->policy);
	}
	config_free(c);
}

static void an_empty_config_gives_the_default(void **state)
{
	(void)state;
	struct config *c = config_of("");
	struct policy_subject s = {"/bin/true", "me", 1000, NULL};
	assert_string_equal(policy_match(c, &s)->name, "default");
	config_free(c);
}

/* A user and a group with names that this machine knows, neither root's. */
static const struct passwd *some_user(void)
{
	const struct passwd *p;
	setpwent();
	while ((p = getpwent()) && p->pw_uid == 0)
		;
	return p;
}

static const struct group *some_group(void)
{
	const struct group *g;
	setgrent();
	while ((g = getgrent()) && g->gr_gid == 0)
		;
	return g;
}

static const struct attach {
	const char *text;
	uid_t uid;
	gid_t groups[2];
	bool may;
} attaches[] = {
	{"", 0, {0, 0}, true},
	{"", 54321, {54321, 54322}, false},
	{"[service]\nallow-user =\nallow-group =\n", 0, {0, 0}, true},
	{"[service]\nallow-user =\nallow-group =\n", 54321, {54321, 0}, false},
	{"[service]\nallow-user = *\n", 54321, {1, 2}, true},
	{"[service]\nallow-user = 5 54321\n", 54321, {1, 2}, true},
	{"[service]\nallow-user = 5 54322\n", 54321, {1, 2}, false},
	{"[service]\nallow-user = 4294967296\n", 54321, {1, 2}, false},
	{"[service]\nallow-user = 4294967295\n", (uid_t)-1, {1, 2}, false},
	{"[service]\nallow-user = no-such-user-here\n", 54321, {1, 2}, false},
	{"[service]\nallow-group = *\n", 54321, {1, 2}, true},
	{"[service]\nallow-group = 7 54322\n", 54321, {54321, 54322}, true},
	{"[service]\nallow-group = 7 8\n", 54321, {54321, 54322}, false},
	{"[service]\nallow-group = no-such-group-here\n", 54321, {1, 2}, false},
};

static void only_who_is_allowed_may_attach(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(attaches) / sizeof(attaches[0]); i++) {
		const struct attach *a = &attaches[i];
		struct config *c = config_of(a->text);
		if (policy_may_attach(c, a->uid, a->groups, 2) != a->may)
			fail_msg("case %zu: %suid %u", i, a->text, a->uid);
		config_free(c);
	}
}

static void users_and_groups_are_known_by_name(void **state)
{
	(void)state;
	const struct passwd *user = some_user();
	const struct group *group = some_group();
	if (!user || !group)
		skip();
	char text[200];
	gid_t none = 54321, gid = group->gr_gid;

	snprintf(text, sizeof(text), "[service]\nallow-user = %s\nallow-group =\n",
		user->pw_name);
	struct config *c = config_of(text);
	assert_true(policy_may_attach(c, user->pw_uid, &none, 1));
	assert_false(policy_may_attach(c, user->pw_uid + 54321, &none, 1));
	config_free(c);

	snprintf(text, sizeof(text), "[service]\nallow-user =\nallow-group = %s\n",
		group->gr_name);
	c = config_of(text);
	assert_true(policy_may_attach(c, 54321, &gid, 1));
	assert_false(policy_may_attach(c, 54321, &none, 1));
	assert_false(policy_may_attach(c, 54321, NULL, 0));
	config_free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_first_policy_that_matches_is_taken),
		cmocka_unit_test(an_empty_config_gives_the_default),
		cmocka_unit_test(only_who_is_allowed_may_attach),
		cmocka_unit_test(users_and_groups_are_known_by_name),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
