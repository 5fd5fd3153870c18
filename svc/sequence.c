#include "sequence.h"
#include "pager.h"
#include "points.h"
#include "space_internal.h"

#include "worker.h"

#include <string.h>

/* A thread that was preempted there mostly goes on within that time. */
enum { PAUSE_NS = 1000000, WAITING_MAX = 256 };

/* Where an event takes something from, and where it brings it; empty where it does neither. */
static struct region source_of(const struct uffd_msg *m)
{
	if (m->event == UFFD_EVENT_REMAP)
		return (struct region){m->arg.remap.from, m->arg.remap.from + m->arg.remap.len};
	if (m->event == UFFD_EVENT_UNMAP || m->event == UFFD_EVENT_REMOVE)
		return (struct region){m->arg.remove.start, m->arg.remove.end};
	return (struct region){0, 0};
}

static struct region target_of(const struct uffd_msg *m)
{
	if (m->event == UFFD_EVENT_REMAP)
		return (struct region){m->arg.remap.to, m->arg.remap.to + m->arg.remap.len};
	return (struct region){0, 0};
}

static bool overlap(struct region a, struct region b)
{
	return a.start < b.end && b.start < a.end;
}

/* Is all of it in an UNMAP that was read and is in doubt? */
static bool in_doubt(const struct doubt *d, struct region g)
{
	bool more = true;

	while (more && g.start < g.end) {
		more = false;
		for (unsigned i = 0; i < d->kept_count && !more; i++) {
			more = d->kept[i].start <= g.start && g.start < d->kept[i].end;
			if (more)
				g.start = d->kept[i].end;
		}
	}
	return g.start >= g.end;
}

static struct region common(struct region a, struct region b)
{
	return (struct region){
		a.start > b.start ? a.start : b.start, a.end < b.end ? a.end : b.end};
}

/* Does it move something to where something else is on record, and `part` takes from that?
 * Where there is an UNMAP in doubt, that may have been about it. */
static bool is_held_up(const struct space *s, const struct uffd_msg *m, struct region part)
{
	struct region to = target_of(m), both = common(to, part);

	if (s->doubt.lost || both.start >= both.end)
		return false;
	for (size_t i = space_region_index(s, both.start);
		i < s->region_count && s->region[i].start < both.end; i++)
		if (!in_doubt(&s->doubt, common(s->region[i], to)))
			return true;
	return false;
}

static bool must_wait(const struct space *s, const struct uffd_msg *m)
{
	return is_held_up(s, m, target_of(m));
}

/* Does it take away what `waiting` waits for? What leaves from elsewhere in its target has
 * come with it. */
static bool makes_room(
	const struct space *s, const struct uffd_msg *m, const struct uffd_msg *waiting)
{
	return m->event != UFFD_EVENT_REMOVE && is_held_up(s, waiting, source_of(m));
}

/* Is the k-th a discard of what one before it brings to where the i-th makes room? As far as
 * the i-th takes from there: beyond that, the two have nothing to do with each other. */
static bool discards_arrival(const struct client *c, size_t k, size_t i)
{
	const struct uffd_msg *m = c->waiting;
	struct region what = common(source_of(&m[k]), source_of(&m[i]));

	for (size_t j = 0; j < k; j++) {
		struct region to = target_of(&m[j]);
		if (to.start <= what.start && what.end <= to.end &&
			makes_room(&c->space, &m[i], &m[j]))
			return true;
	}
	return false;
}

/* Could the i-th have happened before the k-th, which was read before it? A discard of where it
 * moves something is of that. */
static bool may_overtake(const struct client *c, size_t i, size_t k)
{
	const struct uffd_msg *m = &c->waiting[i], *other = &c->waiting[k];
	bool discard = other->event == UFFD_EVENT_REMOVE;

	if (overlap(source_of(m), source_of(other)) && !(discard && discards_arrival(c, k, i)))
		return false;
	if (overlap(target_of(m), target_of(other)) ||
		(overlap(target_of(m), source_of(other)) && !discard))
		return false;
	return !overlap(source_of(m), target_of(other)) || makes_room(&c->space, m, other);
}

/* Is it one that others wait for? */
static bool wanted(const struct client *c, size_t i)
{
	bool wanted = false;

	for (size_t k = 0; k < c->waiting_count && !wanted; k++)
		wanted = k != i && makes_room(&c->space, &c->waiting[i], &c->waiting[k]);
	for (size_t k = 0; k < i && wanted; k++)
		wanted = may_overtake(c, i, k);
	return wanted;
}

static void apply_one(struct client *c, size_t i)
{
	struct uffd_msg m = c->waiting[i];

	memmove(&c->waiting[i], &c->waiting[i + 1],
		(--c->waiting_count - i) * sizeof(*c->waiting));
	pager_apply(c, &m);
}

/* The next that can be applied; waiting_count: none. */
static size_t next(const struct client *c)
{
	for (size_t i = 0; i < c->waiting_count; i++)
		if ((i == 0 || wanted(c, i)) && !must_wait(&c->space, &c->waiting[i]))
			return i;
	return c->waiting_count;
}

bool sequence_pause(const struct client *c)
{
	return c->waiting_count > 0 && worker_now_ns() < c->pause_until_ns;
}

void sequence_add(struct client *c, const struct uffd_msg *m)
{
	if (c->waiting_count == 0 && !must_wait(&c->space, m)) {
		pager_apply(c, m);
		return;
	}
	if (c->waiting_count == 0) {
		c->waiting_since_ns = worker_now_ns();
		c->pause_until_ns = c->waiting_since_ns + PAUSE_NS;
	}
	space_make_room(
		(void **)&c->waiting, c->waiting_count, &c->waiting_room, sizeof(*c->waiting));
	c->waiting[c->waiting_count++] = *m;
	point(POINT_waits);
	for (size_t i; (i = next(c)) < c->waiting_count;)
		apply_one(c, i);
	c->space.overtaken = c->waiting_count > 0;
	/* Nobody is held up for so long, unless somebody means it to be: the kernel is asked.
	 */
	if (c->waiting_count == WAITING_MAX) {
		c->space.doubt.lost = true;
		sequence_flush(c);
	}
}

bool sequence_has_fork(const struct client *c)
{
	for (size_t i = 0; i < c->waiting_count; i++)
		if (c->waiting[i].event == UFFD_EVENT_FORK)
			return true;
	return false;
}

void sequence_flush(struct client *c)
{
	while (c->waiting_count > 0)
		apply_one(c, 0);
	c->space.overtaken = false;
}
