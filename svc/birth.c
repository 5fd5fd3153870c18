#include "birth.h"
#include "batch.h"
#include "journal.h"
#include "log.h"
#include "pager.h"
#include "points.h"
#include "pulse.h"
#include "recover.h"
#include "settle.h"
#include "space_internal.h"
#include "uffd.h"
#include "worker.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	/* A thread of the child whose event was read goes on within that time, mostly. */
	TRIES = 200,
	/* No program makes so many calls while a thread of its parent is waited for, unless it
	 * means to. */
	EARLY_MAX = 65536,
	GROWN_MAX = BIRTH_GROWN_MAX,
	GROWTH_LOOKS_MAX = 256,
};

struct list {
	struct step *step; /* owned */
	size_t count, room;
};

struct birth {
	struct client *parent; /* owned: one reference */
	struct steps *steps;   /* owned: one reference */
	size_t before;	       /* so many had been read */
	size_t events_before;  /* and so many events of any kind */
	/* Where the parent's mappings had grown in place, of which no event tells: registered,
	 * not on record. */
	struct region grown[GROWN_MAX];
	unsigned grown_count;
	struct list line; /* calls of ancestors that were never born, between steps and child */
	struct uffd_msg *early; /* owned; read from the child so far, not applied */
	size_t early_count, early_room;
	uint64_t work;			  /* in all tries so far */
	int error;			  /* of a try, as the log tells; 0: none so far */
	bool again;			  /* answers are those that are given: */
	const struct birth_answer *given; /* borrowed */
	size_t given_count;
	struct list
		answers; /* that were asked for in this try: from, and len as journal.h's n */
};

static void list_add(struct list *l, uint64_t from, uint64_t to, uint64_t len)
{
	space_make_room((void **)&l->step, l->count, &l->room, sizeof(*l->step));
	l->step[l->count++] = (struct step){from, to, len};
}

static void list_add_list(struct list *l, const struct list *more)
{
	for (size_t i = 0; i < more->count; i++)
		list_add(l, more->step[i].from, more->step[i].to, more->step[i].len);
}

static void list_add_event(struct list *l, const struct uffd_msg *m)
{
	if (m->event == UFFD_EVENT_REMAP)
		list_add(l, m->arg.remap.from, m->arg.remap.to, m->arg.remap.len);
	else if (m->event == UFFD_EVENT_UNMAP || m->event == UFFD_EVENT_REMOVE)
		list_add(l, m->arg.remove.start,
			m->event == UFFD_EVENT_UNMAP ? STEP_UNMAP : STEP_REMOVE,
			m->arg.remove.end - m->arg.remove.start);
}

/* ---- begin and end ---- */

static void begin(struct client *child)
{
	child->birth = space_alloc(sizeof(*child->birth));
	memset(child->birth, 0, sizeof(*child->birth));
	child->unborn_since_ns = worker_now_ns();
}

/* Of whom it can be told again, with what had grown by then. */
static void tell_child(
	struct client *parent, int ufd, const struct client *child, const struct birth_fork *f)
{
	for (unsigned i = 0; i < f->grown_count; i++)
		journal_add(parent->journal, JOURNAL_GROWN, f->grown[i].start, f->grown[i].end,
			0, 0);
	journal_add(parent->journal, JOURNAL_CHILD, (uint64_t)ufd, child->id, f->grown_count,
		(f->alone ? CHILD_ALONE : 0) | CHILD_GROWN_BEFORE);
	point(POINT_fork_told);
}

static struct client *new_child(struct client *parent, int ufd, const struct birth_fork *f)
{
	struct client *child = worker_new_client(parent->worker, ufd);

	/* Inherited from how the client made the first one. */
	fcntl(ufd, F_SETFL, O_NONBLOCK);
	point(POINT_fork);
	child->parent = parent->id;
	child->space.family = parent->space.family;
	child->uid = parent->uid;
	snprintf(child->exe, sizeof(child->exe), "%s", parent->exe);
	snprintf(child->policy, sizeof(child->policy), "%s", parent->policy);
	child->failed = parent->failed;
	atomic_store(&child->state, CLIENT_FORKED);
	begin(child);
	/* First its own record, so that nobody else's number is taken for its descriptor. */
	worker_record_client(parent->worker, child);
	point(POINT_fork_recorded);
	tell_child(parent, ufd, child, f);
	return child;
}

static void publish(struct client *parent, struct client *child)
{
	for (int i = 0; i < HELD_TAGS; i++)
		if (child->space.held[i])
			batch_follow(child->space.held[i], child);
	atomic_fetch_add(&client_counts(parent)->events_fork, 1);
	worker_publish_client(parent->worker, child);
}

/* ---- growth ---- */

/* What of a registered mapping isn't on record. */
static void note_gaps(
	struct birth_fork *b, const struct client *parent, uint64_t start, uint64_t end)
{
	const struct space *s = &parent->space;

	while (start < end && b->grown_count < GROWN_MAX) {
		const struct region *g = space_region_at(s, start);
		uint64_t to = end;

		if (g) {
			start = g->end;
			continue;
		}
		for (size_t i = 0; i < s->region_count; i++)
			if (s->region[i].start > start && s->region[i].start < to)
				to = s->region[i].start;
		b->grown[b->grown_count++] = (struct region){start, to};
		start = to;
	}
}

/* The mapping at addr or the next one; a mapping is registered whole or not at all, so this one
 * is when a part is on record. Returns where to go on. */
static uint64_t note_growth_at(
	struct birth_fork *b, const struct client *parent, int maps, uint64_t addr)
{
	struct procmap_query q = {.size = sizeof(q),
		.query_flags = PROCMAP_QUERY_COVERING_OR_NEXT_VMA,
		.query_addr = addr};

	pulse_call_begin();
	int r = ioctl(maps, PROCMAP_QUERY, &q);
	pulse_call_end();
	if (r < 0)
		return UINT64_MAX; /* nothing is mapped from here on */
	if (q.vma_start <= addr &&
		space_region_overlaps(&parent->space, q.vma_start, q.vma_end))
		note_gaps(b, parent, q.vma_start, q.vma_end);
	return q.vma_start > addr ? q.vma_start : q.vma_end;
}

/* Only where something was unmapped or moved away just now does it matter. */
static void note_growth(struct birth_fork *b, const struct client *parent)
{
	const struct space *s = &parent->space;
	size_t before = s->steps ? s->steps->count : 0;
	int maps = before == 0 || parent->procdir < 0
			   ? -1
			   : openat(parent->procdir, "maps", O_RDONLY | O_CLOEXEC);

	if (maps < 0)
		return;
	unsigned looks = 0;
	size_t first = before > STEPS_OVERTAKE ? before - STEPS_OVERTAKE : 0;
	for (size_t i = first; i < before && looks < GROWTH_LOOKS_MAX; i++) {
		uint64_t end = s->steps->step[i].from + s->steps->step[i].len;
		for (uint64_t at = s->steps->step[i].from; at < end && looks < GROWTH_LOOKS_MAX;
			looks++) {
			const struct region *g = space_region_at(s, at);
			at = g ? g->end : note_growth_at(b, parent, maps, at);
		}
	}
	close(maps);
}

/* ---- fork ---- */

/* A program with one thread: what was read before its FORK had happened, and nothing else had.
 * (But for a thread that made a call after the page tables were copied, was told of its event
 * and ended, all before the forking thread raised FORK: see STEPS_OVERTAKE.) */
static bool has_one_thread(const struct client *c)
{
	int fd = c->procdir < 0
			 ? -1
			 : openat(c->procdir, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	unsigned threads = 0;

	if (!dir && fd >= 0)
		close(fd);
	for (struct dirent *e; dir && threads < 2 && (e = readdir(dir));)
		threads += e->d_name[0] != '.';
	if (dir)
		closedir(dir);
	return threads == 1;
}

void birth_read_fork(struct client *parent, int ufd)
{
	parent->alone_fork = has_one_thread(parent) ? ufd : 0;
	/* At once: of a fork that was read by a worker that is gone, what there is by then says
	 * nothing. */
	if (parent->alone_fork)
		journal_add(parent->journal, JOURNAL_ALONE, (uint64_t)ufd, 0, 0, 0);
}

/* The child as its parent is by the events read so far. */
static void copy_parent(struct client *parent, struct client *child, const struct birth_fork *f)
{
	struct birth *b = child->birth;

	memcpy(b->grown, f->grown, sizeof(b->grown));
	b->grown_count = f->grown_count;
	b->steps = space_fork(&parent->space, &child->space);
	b->before = b->steps->count;
	b->events_before = b->steps->events;
	client_ref(parent);
	b->parent = parent;
	if (!f->alone)
		return;
	birth_free(child);
	space_bear_none(&child->space);
	space_inherit_doubt(&parent->space, &child->space);
}

void birth_fork(struct client *parent, int ufd)
{
	struct birth_fork f = {.alone = parent->alone_fork == ufd};

	if (parent->replay)
		recover_fork(parent, ufd, &f);
	if (!f.told && !f.alone)
		note_growth(&f, parent);
	if (f.told || f.child) {
		/* For whoever comes after us: its number may be another's by then. */
		if (!f.told)
			tell_child(parent, ufd, f.child, &f);
		birth_fork_again(parent, &f);
		return;
	}
	struct client *child = new_child(parent, ufd, &f);

	copy_parent(parent, child, &f);
	point(POINT_fork_copied);
	publish(parent, child);
}

void birth_free(struct client *child)
{
	struct birth *b = child->birth;

	if (!b)
		return;
	child->birth = NULL;
	child->unborn_since_ns = child->early_faults = child->early_fault_ns = 0;
	steps_unref(b->steps);
	client_unref(b->parent);
	free(b->line.step);
	free(b->answers.step);
	free(b->early);
	free(b);
}

/* A child of one that was never born: as if it had been copied from the same page tables, and
 * `since` had been its own. */
static void copy_unborn(
	struct client *child, struct client *grandchild, const struct list *since)
{
	struct birth *b = grandchild->birth;

	space_fork_unborn(&child->space, &grandchild->space);
	b->steps = child->birth->steps;
	atomic_fetch_add(&b->steps->refs, 1);
	b->before = child->birth->before;
	b->events_before = child->birth->events_before;
	memcpy(b->grown, child->birth->grown, sizeof(b->grown));
	b->grown_count = child->birth->grown_count;
	b->parent = child->birth->parent;
	client_ref(b->parent);
	list_add_list(&b->line, &child->birth->line);
	list_add_list(&b->line, since);
}

static void fork_unborn(struct client *child, int ufd, const struct list *since)
{
	const struct birth_fork nothing = {.told = false};
	struct client *grandchild = new_child(child, ufd, &nothing);

	copy_unborn(child, grandchild, since);
	publish(child, grandchild);
}

void birth_pass_on(struct client *child)
{
	struct birth *b = child->birth;
	struct list since = {.count = 0};

	for (size_t i = 0; b && i < b->early_count; i++) {
		if (b->early[i].event == UFFD_EVENT_FORK)
			fork_unborn(child, (int)b->early[i].arg.fork.ufd, &since);
		else
			list_add_event(&since, &b->early[i]);
	}
	free(since.step);
	birth_free(child);
}

/* ---- settling ---- */

/* Have all steps been read? Whoever holds the parent's gate may be between reading one and
 * applying it; so it takes the gate to know. */
static bool all_steps_known(struct birth *b)
{
	struct client *parent = b->parent;
	bool known = atomic_load(&b->steps->closed);

	if (known)
		return true;
	if (pthread_mutex_trylock(&parent->gate) != 0)
		return false;
	settle_calm(parent);
	known = steps_suffice(b->steps, b->events_before);
	if (known && !atomic_load(&b->steps->closed)) {
		/* It goes on for others. */
		struct steps *own = steps_copy(b->steps);
		steps_unref(b->steps);
		b->steps = own;
	}
	pthread_mutex_unlock(&parent->gate);
	if (atomic_load(&parent->pending))
		worker_retry_later(parent->worker, parent, 1);
	return known;
}

static int given_answer(struct birth *b, uint64_t addr)
{
	if (b->given_count == 0 || b->given->addr != addr)
		return -EBADMSG;
	bool registered = b->given->registered;
	b->given++;
	b->given_count--;
	return registered;
}

static int is_registered(void *arg, uint64_t addr)
{
	const struct client *child = arg;
	int r = child->birth->again ? given_answer(child->birth, addr)
				    : uffd_registered(child->uffd, addr);

	if (r >= 0)
		list_add(&child->birth->answers, addr, 0, (uint64_t)r);
	return r;
}

bool birth_has_fork(const struct client *child)
{
	const struct birth *b = child->birth;

	for (size_t i = 0; b && i < b->early_count; i++)
		if (b->early[i].event == UFFD_EVENT_FORK)
			return true;
	return false;
}

static int try_to_bear(struct client *child)
{
	struct birth *b = child->birth;
	struct list early = {.count = 0};

	for (size_t i = 0; i < b->early_count; i++)
		if (b->early[i].event != UFFD_EVENT_REMOVE)
			list_add_event(&early, &b->early[i]);
	const struct midwife m = {.registered = is_registered,
		.arg = child,
		.grown = b->grown,
		.grown_count = b->grown_count,
		.line = b->line.step,
		.line_count = b->line.count,
		.early = early.step,
		.early_count = early.count,
		.forked = birth_has_fork(child),
		.work = &b->work};
	b->answers.count = 0;
	int r = space_bear(&child->space, b->steps, b->before, &m);
	free(early.step);
	return r;
}

/* For a worker that comes after this one: the kernel won't answer so again. */
static void note_birth(struct client *child)
{
	const struct birth *b = child->birth;

	for (size_t i = 0; i < b->answers.count; i++)
		journal_add(child->journal, JOURNAL_MIDWIFE, b->answers.step[i].from, 0, 0,
			(uint32_t)b->answers.step[i].len);
	point(POINT_birth_asked);
	journal_add(child->journal, JOURNAL_BORN, b->steps->count, b->answers.count, 0, 0);
}

static void note_fault(struct client *child, const struct uffd_msg *m)
{
	if (m->event != UFFD_EVENT_PAGEFAULT)
		return;
	child->early_faults++;
	if (child->early_fault_ns == 0)
		child->early_fault_ns = worker_now_ns();
}

static void keep_early(struct client *child, const struct uffd_msg *msg, int count)
{
	struct birth *b = child->birth;

	for (int i = 0; i < count; i++) {
		note_fault(child, &msg[i]);
		space_make_room(
			(void **)&b->early, b->early_count, &b->early_room, sizeof(*b->early));
		b->early[b->early_count++] = msg[i];
	}
}

/* Faults and events that were read before it was known what they are about. */
static void apply_early(struct client *child)
{
	struct birth *b = child->birth;
	struct uffd_msg *early = b->early;
	size_t count = b->early_count;

	b->early = NULL;
	birth_free(child);
	for (size_t i = 0; i < count; i++)
		pager_take(child, &early[i]);
	free(early);
}

static void fail(struct client *child, bool too_much)
{
	child->failed = true;
	journal_add(child->journal, JOURNAL_FAILED, 0, 0, 0, 0);
	log_error(
		"client %llu (%s): was forked while its parent moved evicted memory%s, and it "
		"can't be told where it has which pages; none of its faults is answered",
		(unsigned long long)child->id, child->exe,
		too_much ? " more often than can be looked at" : "");
	space_bear_none(&child->space);
	apply_early(child);
}

/* The kernel says something of its registrations that it never said. It is asked again. */
static void note_error(struct client *child, int error)
{
	if (child->birth->error == error)
		return;
	child->birth->error = error;
	log_warn("client %llu (%s): a forked child can't be told yet where its pages are: %s; "
		 "it is tried again and again",
		(unsigned long long)child->id, child->exe, strerror(-error));
}

int birth_settle(struct pager *p, struct client *child)
{
	struct uffd_msg msg[PAGER_MESSAGES];
	int r = -EAGAIN;

	if (!all_steps_known(child->birth))
		return -EAGAIN;
	point(POINT_birth);
	for (int i = 0; i < TRIES && r == -EAGAIN; i++) {
		/* Asked in vain once: it is done all over when that can't be so again. */
		if (i == 0 || !uffd_fence_up(child->uffd))
			r = try_to_bear(child);
		if (r != -EAGAIN)
			break;
		/* A call of the child's own is in flight: it has to be read to go on. */
		int n = pager_read(p, child, msg);
		if (n < 0)
			return n;
		if (child->read_again)
			break;
		keep_early(child, msg, n);
		if (child->birth->early_count > EARLY_MAX)
			r = -E2BIG;
	}
	if (r == 0) {
		note_birth(child);
		point(POINT_born);
		apply_early(child);
	} else if (r == -EBADMSG || r == -E2BIG) {
		fail(child, r == -E2BIG);
		r = 0;
	} else if (r != -EAGAIN && r != -ESRCH) {
		note_error(child, r);
	}
	return r;
}

/* ---- again ---- */

static void follow_batches(struct client *child)
{
	for (int i = 0; i < HELD_TAGS; i++)
		if (child->space.held[i])
			batch_follow(child->space.held[i], child);
}

/* What it did to the parent. */
static void fork_gone(struct client *parent)
{
	struct space nobody;

	space_init(&nobody, parent->space.graveyard, parent->space.family);
	steps_unref(space_fork(&parent->space, &nobody));
	space_done(&nobody);
}

void birth_fork_again(struct client *parent, const struct birth_fork *f)
{
	if (!f->child) {
		fork_gone(parent);
		return;
	}
	begin(f->child);
	f->child->failed |= parent->failed;
	copy_parent(parent, f->child, f);
	follow_batches(f->child);
}

void birth_keep_early(struct client *child, const struct uffd_msg *m)
{
	keep_early(child, m, 1);
}

int birth_born_again(
	struct client *child, uint64_t steps, const struct birth_answer *answer, size_t count)
{
	struct birth *b = child->birth;

	if (b->steps->count > steps) {
		/* More were read by now. */
		struct steps *then = steps_copy(b->steps);
		then->count = (size_t)steps;
		steps_unref(b->steps);
		b->steps = then;
	}
	b->again = true;
	b->given = answer;
	b->given_count = count;
	b->work = 0;
	int r = try_to_bear(child);
	b->again = false;
	if (r == 0)
		apply_early(child);
	return r < 0 ? -EBADMSG : 0;
}

void birth_failed_again(struct client *child)
{
	child->failed = true;
	space_bear_none(&child->space);
	if (child->birth)
		apply_early(child);
}

void birth_pass_on_again(struct client *child,
	void (*next)(void *arg, int ufd, struct birth_fork *ret), void *arg)
{
	struct birth *b = child->birth;
	struct list since = {.count = 0};

	for (size_t i = 0; i < b->early_count; i++) {
		struct birth_fork f = {.child = NULL};
		if (b->early[i].event != UFFD_EVENT_FORK) {
			list_add_event(&since, &b->early[i]);
			continue;
		}
		next(arg, (int)b->early[i].arg.fork.ufd, &f);
		if (!f.child && !f.told)
			fork_unborn(child, (int)b->early[i].arg.fork.ufd, &since);
		if (!f.child)
			continue;
		if (!f.told)
			tell_child(child, (int)b->early[i].arg.fork.ufd, f.child, &f);
		begin(f.child);
		f.child->failed |= child->failed;
		copy_unborn(child, f.child, &since);
		follow_batches(f.child);
	}
	free(since.step);
	birth_free(child);
}
