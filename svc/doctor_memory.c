/* Checks of a process's threads and memory, with the eyes of the service (rule 11). */
#include "doctor_check.h"

#include "cleanup.h"
#include "maps.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

static int open_process(const struct doctor *d)
{
	return doctor_open(d, O_RDONLY | O_DIRECTORY, "/proc/%d", (int)d->pid);
}

static void say_unreadable(struct doctor *d, int r)
{
	if (r == -ESRCH || r == -ENOENT) {
		doctor_fail(d, "process %d ended meanwhile", (int)d->pid);
		doctor_remedy(d, "start it again: larder run -- CMD");
		return;
	}
	if (r == -EAGAIN) {
		doctor_warn(d, "not known: its threads come and go too fast");
		doctor_remedy(d, "larder doctor %d, again", (int)d->pid);
		return;
	}
	doctor_warn(d, "not known: %s", strerror(-r));
	doctor_remedy_sudo(d);
}

/* ---- the process as a whole ---- */

static const struct help {
	const char *word; /* of the reason */
	const char *remedy;
} helps[] = {
	{"real-time",
		"real-time threads may not wait for pages; if these may, run them without: "
		"chrt -a -o -p 0 PID"},
	{"userfaultfd",
		"two can't use userfaultfd on one program; give it a policy with manage = "
		"no"},
};

static const char *help_for(const char *why)
{
	for (size_t i = 0; i < sizeof(helps) / sizeof(helps[0]); i++)
		if (strstr(why, helps[i].word))
			return helps[i].remedy;
	return "nothing helps while that is so; give it a policy with manage = no";
}

bool doctor_check_threads(struct doctor *d)
{
	_cleanup_fd_ int procdir = open_process(d);
	const char *why = NULL;
	int r = procdir < 0 ? procdir
			    : maps_process_refusal(procdir, d->pid, d->client.agent_pid, &why);

	if (r < 0) {
		say_unreadable(d, r);
	} else if (why) {
		doctor_fail(d, "it %s", why);
		doctor_remedy(d, "%s", help_for(why));
	} else {
		doctor_ok(d, "not real-time, no userfaultfd of its own, memory not shared");
	}
	return true;
}

/* ---- its mappings ---- */

struct survey {
	const struct doctor *d;
	uint64_t *thread; /* owned */
	size_t thread_count;
	uint64_t bytes[MAP_REFUSAL_COUNT]; /* resident */
	unsigned mappings[MAP_REFUSAL_COUNT];
};

static int count_map(void *arg, const struct map *m)
{
	struct survey *s = arg;
	enum map_refusal refusal = m->refusal;

	/* Of one that is attached it is ours: else its refusal says what is wrong. */
	if (refusal == MAPS_OK && m->uffd && s->d->client.is != DOCTOR_CLIENT)
		refusal = MAPS_FOREIGN_UFFD;
	if (refusal == MAPS_OK && maps_holds_thread(m, s->thread, s->thread_count))
		refusal = MAPS_THREAD;
	s->bytes[refusal] += m->rss;
	s->mappings[refusal]++;
	return 0;
}

/* What an administrator can do about a reason, where there is something. */
static const char *reason_help(enum map_refusal r)
{
	static const char *const texts[MAP_REFUSAL_COUNT] = {
		[MAPS_LOCKED] = "the program locks its memory (mlock): turn that off in its "
				"configuration",
		[MAPS_HUGETLB] = "take ordinary pages instead of hugetlb in its configuration",
		[MAPS_FOREIGN_UFFD] = "two can't use userfaultfd on the same memory: turn the "
				      "other off",
		[MAPS_EXEC] =
			"memory that is writable and executable (a JIT's) stays; keep its "
			"data elsewhere",
		[MAPS_THREAD] = "put stacks into mappings of their own",
	};
	return texts[r];
}

/* Worth a warning is what holds more than a tenth of the memory. */
static void say_refused(struct doctor *d, const struct survey *s, uint64_t all)
{
	char bytes[32];

	for (int i = MAPS_OK + 1; i < MAP_REFUSAL_COUNT; i++) {
		enum map_refusal why = (enum map_refusal)i;
		const char *help = reason_help(why);
		if (s->bytes[why] == 0)
			continue;
		bool worth = help && s->bytes[why] > all / 10;
		doctor_add(d, worth ? DOCTOR_WARN : DOCTOR_OK, "%s stay: %s",
			doctor_bytes(s->bytes[why], bytes), map_refusal_text(why));
		if (worth)
			doctor_remedy(d, "%s", help);
	}
}

static void say_survey(struct doctor *d, const struct survey *s)
{
	char bytes[32], least[32];
	uint64_t all = 0;

	for (int i = 0; i < MAP_REFUSAL_COUNT; i++)
		all += s->bytes[i];
	if (s->mappings[MAPS_OK] > 0) {
		doctor_ok(d, "%s in memory, in %u mappings, may be managed",
			doctor_bytes(s->bytes[MAPS_OK], bytes), s->mappings[MAPS_OK]);
	} else {
		doctor_fail(d, "nothing of its memory may be managed");
		doctor_remedy(d,
			"only private memory in mappings of %s or more can be; the reasons "
			"stand "
			"below",
			doctor_bytes(MAPS_MIN_BYTES, least));
	}
	say_refused(d, s, all);
}

bool doctor_check_memory(struct doctor *d)
{
	_cleanup_fd_ int procdir = open_process(d);
	struct survey s = {.d = d, .thread = malloc(MAPS_THREADS_MAX * sizeof(*s.thread))};
	int r = procdir < 0 ? procdir : s.thread ? 0 : -ENOMEM;

	if (r == 0)
		r = maps_thread_addresses(procdir, s.thread, MAPS_THREADS_MAX, &s.thread_count);
	if (r == 0)
		r = maps_read(procdir, MAPS_MIN_BYTES, count_map, &s);
	free(s.thread);
	if (r < 0)
		say_unreadable(d, r);
	else
		say_survey(d, &s);
	return true;
}
