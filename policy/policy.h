/* Configuration and policies: what larder.conf says, and which policy a program gets.
 *
 * A config is immutable once loaded: any thread may read it. No function logs, none keeps
 * state. 0 or a negative errno; ret_ arguments are untouched on failure. */
#ifndef LARDER_POLICY_H
#define LARDER_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

/* Lists of globs or names from one comma- or space-separated value. */
struct policy_list {
	char **item; /* owned */
	size_t count;
};

enum policy_codec { POLICY_LZ4, POLICY_ZSTD };
enum policy_unshare { POLICY_UNSHARE_AUTO, POLICY_UNSHARE_NEVER, POLICY_UNSHARE_ALWAYS };
enum { POLICY_LEVEL_MAX = 19 }; /* zstd's last level that means something for a page */

struct policy {
	char *name; /* owned; the NAME of [policy NAME] */
	/* fnmatch(3) globs on the executable's full path; without a slash, on its last part */
	struct policy_list match_exe;
	struct policy_list match_user; /* user names, numeric ids, or "*" */
	bool manage;		       /* false: a program that matches is never taken over */
	bool inherit;		       /* children of the program are taken over too */
	uint64_t min_age_ms;	       /* a program younger than this is left alone */
	uint64_t brief_age_ms;	/* executables that keep ending before it aren't taken over */
	uint64_t cold_after_ms; /* age at which a page leaves; 0 = only by order */
	double stall_budget;	/* share of wall time, 0..1 */
	unsigned codec;		/* enum policy_codec: how its pages are packed */
	unsigned level;		/* zstd's; 0 = its own choice */
	uint64_t recompress_after_ms; /* from lz4 to zstd at this age; 0 = never */
	unsigned unshare;      /* enum policy_unshare: are pages shared since a fork copied, to
				  leave? */
	bool keep_huge;	       /* what left as a huge page becomes one again when it is back */
	uint64_t memory_limit; /* stored bytes per client of this policy; 0 = none */
};

struct config {
	/* [service] */
	struct policy_list allow_user; /* who may attach besides root */
	struct policy_list allow_group;
	unsigned user_clients; /* most address spaces of one user (root aside) */
	unsigned readers;      /* fault threads; 0 = one per CPU */
	uint64_t watchdog_ms;  /* a worker that gets on no more is ended after it; 0 = never */
	/* [store] */
	uint64_t store_limit;	 /* bytes; 0 = half of the machine's memory */
	uint64_t scrub_every_ms; /* cold pages are looked at once in this; 0 = never */
	double owner_limit;	 /* share of that for the programs of one user, 0..1 */
	/* [policy NAME], in the order of the file */
	struct policy *policies; /* owned */
	size_t policy_count;
};

struct config_error {
	unsigned line;	   /* 0 = concerns no single line */
	char message[256]; /* what is wrong and would be right, without file name or line */
};

/* Reads INI text. On -EINVAL err says the first thing wrong; other errors are those of reading
 * f, such as -EISDIR, and -ENOMEM. NULL path text (an absent file) is the caller's business:
 * config_default gives what an empty file gives. */
int config_read(FILE *f, struct config **ret, struct config_error *err);
int config_default(struct config **ret);
void config_free(struct config *c); /* NULL is fine */

/* One setting in which two configs differ. The strings live until the callback returns. */
struct config_change {
	const char *policy;    /* NULL: not in a policy */
	const char *section;   /* "service", "store", "policy" */
	const char *key;       /* CONFIG_CHANGE_POLICIES: the policies' names, in order */
	const char *from, *to; /* as in the file; "" = an empty list */
	bool restart;	       /* a reload can't take it over */
};
#define CONFIG_CHANGE_POLICIES "policies"
typedef void config_change_fn(const struct config_change *change, void *arg);
/* Calls f for each difference. A policy that only next has is compared with the defaults. */
int config_compare(const struct config *running, const struct config *next, config_change_fn *f,
	void *arg);
/* What a reload can't take over stays in next as it is in running, so that a config always says
 * what is in force. next is unusable after a failure. */
int config_keep(struct config *next, const struct config *running);

/* All of these come from the table of keys; negative when f can't be written. */
int config_dump(const struct config *c, FILE *f); /* INI that config_read takes, explained */
int config_example(FILE *f); /* the same with defaults as comments: changes nothing */
int config_help(FILE *f);    /* for people: type, unit, range, default, meaning */
int config_man(FILE *f);     /* the same in mdoc(7) */

struct policy_subject {
	const char *exe;  /* full path of the executable */
	const char *user; /* name, or the number as text */
	uid_t uid;
	const char *policy; /* asked for by name (larder run --policy), or NULL */
};
/* First policy in file order that matches; "default", which every config has, takes what none
 * did. Within a match key any item will do, and all match keys given must fit; a policy without
 * any is taken only by name. One asked for by name is taken whatever it matches. NULL only when
 * subject->policy names one that doesn't exist. */
const struct policy *policy_match(const struct config *c, const struct policy_subject *subject);

/* May this user attach? root always. groups: all of the peer's groups. */
bool policy_may_attach(
	const struct config *c, uid_t uid, const gid_t *groups, size_t group_count);

#endif
