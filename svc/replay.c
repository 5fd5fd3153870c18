/* Journals, read again: what was told and found out since the rows were written, in the order
 * of then. No question is asked of the kernel but about staging; answers are those of then. */
#include "batch.h"
#include "birth.h"
#include "journal.h"
#include "log.h"
#include "order.h"
#include "pagemap.h"
#include "pager.h"
#include "points.h"
#include "recover.h"
#include "recover_internal.h"
#include "sequence.h"
#include "settle.h"
#include "space_internal.h"
#include "uffd.h"

#include <stdlib.h>
#include <string.h>

/* One client's journal, read again. */
struct replay {
	struct recovery *all;
	struct client *client;
	uint64_t first, end; /* what is read */
	uint8_t *taken; /* owned; by position - first: a JOURNAL_CHILD whose FORK was found */
	uint64_t at;	/* the entry that is applied */
	bool staging_gone;		/* with the program's memory */
	uint64_t held[LINK_SLOTS / 64]; /* slots of which JOURNAL_MOVED tells */
	struct region ask;		/* was about to be registered or unregistered */
	struct birth_answer *answer;	/* owned */
	size_t answer_count, answer_room;
	uint8_t staging[LINK_SLOTS]; /* enum page_presence */
};

void replay_find_zap(struct client *c)
{
	for (uint64_t at = c->journal ? journal_begin(c->journal) : 0;
		c->journal && at < journal_end(c->journal); at++)
		if (journal_at(c->journal, at)->event == JOURNAL_ZAPPED)
			c->zapped_clock = at;
}

/* Was this child made by a FORK that an entry tells of? */
static bool is_told_of(const struct journal *j, uint64_t id)
{
	for (uint64_t at = journal_begin(j); at < journal_end(j); at++)
		if (journal_at(j, at)->event == JOURNAL_CHILD &&
			journal_at(j, at)->arg.reserved.reserved2 == id)
			return true;
	return false;
}

/* Recorded, but the worker died before it wrote so. */
static bool is_untold(const struct replay *p, const struct client *c)
{
	return c->parent == p->client->id && !atomic_load(&c->indexed) &&
	       !is_told_of(p->client->journal, c->id);
}

static struct client *find_untold(const struct replay *p, int ufd)
{
	for (size_t i = 0; i < p->all->count; i++) {
		struct client *c = p->all->client[i];
		if (c->uffd == ufd && is_untold(p, c))
			return c;
	}
	return NULL;
}

static void read_child(struct replay *p, uint64_t at, struct birth_fork *f)
{
	const struct journal *j = p->client->journal;
	const struct uffd_msg *m = journal_at(j, at);

	f->child = recover_find(p->all, m->arg.reserved.reserved2);
	f->alone = m->reserved3 & CHILD_ALONE;
	uint64_t before = m->arg.reserved.reserved3;
	if (m->reserved3 & CHILD_GROWN_BEFORE)
		at -= before <= at - journal_begin(j) ? before : 0;
	else
		at++;
	for (; at < journal_end(j) && f->grown_count < BIRTH_GROWN_MAX; at++) {
		m = journal_at(j, at);
		if (m->event != JOURNAL_GROWN)
			break;
		f->grown[f->grown_count++] =
			(struct region){m->arg.reserved.reserved1, m->arg.reserved.reserved2};
	}
	/* Its rows are newer than its birth. */
	if (f->child && atomic_load(&f->child->indexed))
		f->child = NULL;
}

/* What a FORK that is applied had made. A number comes again only when the child that had it is
 * told of and gone, so the first that isn't taken is the one. */
static bool find_child(struct replay *p, int ufd, struct birth_fork *f)
{
	const struct journal *j = p->client->journal;

	for (uint64_t at = p->first; at < p->end; at++) {
		const struct uffd_msg *m = journal_at(j, at);
		if (m->event != JOURNAL_CHILD || (int)m->arg.reserved.reserved1 != ufd ||
			p->taken[at - p->first])
			continue;
		p->taken[at - p->first] = 1;
		read_child(p, at, f);
		return true;
	}
	return false;
}

/* Of the last FORK with that number: one that isn't told of is the last. */
static bool was_alone(const struct replay *p, int ufd)
{
	bool alone = false;

	for (uint64_t at = p->first; at < p->end; at++) {
		const struct uffd_msg *m = journal_at(p->client->journal, at);
		if (m->event == UFFD_EVENT_FORK && (int)m->arg.fork.ufd == ufd)
			alone = false;
		if (m->event == JOURNAL_ALONE && (int)m->arg.reserved.reserved1 == ufd)
			alone = true;
	}
	return alone;
}

static void find_fork(struct replay *p, int ufd, struct birth_fork *ret)
{
	ret->told = find_child(p, ufd, ret);
	if (!ret->told) {
		ret->child = find_untold(p, ufd);
		ret->alone = was_alone(p, ufd);
	}
	for (size_t i = 0; ret->child && i < p->all->count; i++)
		if (p->all->client[i] == ret->child)
			p->all->has_origin[i] = true;
}

void recover_fork(struct client *parent, int ufd, struct birth_fork *ret)
{
	find_fork(parent->replay, ufd, ret);
}

static void next_passed_on(void *arg, int ufd, struct birth_fork *ret)
{
	find_fork(arg, ufd, ret);
}

static void replay_order(struct replay *p, const struct uffd_msg *m)
{
	struct client *c = p->client;
	uint64_t block = m->arg.reserved.reserved1;

	if (p->at < c->zapped_clock || p->staging_gone)
		return;
	for (uint64_t i = m->arg.reserved.reserved2; i < m->arg.reserved.reserved3; i++)
		if (i < LINK_SLOTS && p->staging[i] != PAGE_NONE)
			recover_hold(c, recover_batch(c, block),
				(block << BLOCK_SHIFT) + i * PAGE_SIZE, (unsigned)i);
}

static void replay_moved(struct replay *p, const struct uffd_msg *m)
{
	struct client *c = p->client;
	uint64_t block = m->arg.reserved.reserved1, first = m->arg.reserved.reserved2;

	if (p->at < c->zapped_clock || first >= LINK_SLOTS)
		return;
	p->held[first / 64] |= m->arg.reserved.reserved3;
	for (unsigned i = 0; p->staging_gone && i < 64; i++)
		if (m->arg.reserved.reserved3 >> i & 1)
			recover_hold(c, recover_batch(c, block),
				(block << BLOCK_SHIFT) + (first + i) * PAGE_SIZE,
				(unsigned)first + i);
}

/* What the order did that was under way when the worker died. */
static void note_moved(struct replay *p)
{
	const struct batch *b = p->client->batch;

	for (unsigned i = 0; b && !p->staging_gone && i < LINK_SLOTS / 64; i++)
		if (b->moved[i] & ~p->held[i])
			journal_add(p->client->journal, JOURNAL_MOVED, b->number, i * 64,
				b->moved[i] & ~p->held[i], 0);
}

static void replay_answer(struct replay *p, const struct uffd_msg *m)
{
	uint64_t start = m->arg.reserved.reserved1, end = m->arg.reserved.reserved2;

	if (m->reserved3 == JOURNAL_TAKEN_BACK)
		space_take_back(&p->client->space, start, end);
	settle_apply(p->client, start, end, m->reserved3 != 0);
	if (p->ask.start == start && p->ask.end == end)
		p->ask = (struct region){0, 0};
}

static void replay_born(struct replay *p, const struct uffd_msg *m)
{
	struct client *c = p->client;
	uint64_t steps = m->arg.reserved.reserved1, count = m->arg.reserved.reserved2;

	/* There may be none. */
	const struct birth_answer *last = count > 0 && count <= p->answer_count
						  ? p->answer + p->answer_count - count
						  : NULL;
	if (c->birth && (count > p->answer_count ||
				birth_born_again(c, steps, last, (size_t)count) < 0)) {
		log_error("client %llu (%s): its birth can't be told again; none of its faults "
			  "is answered",
			(unsigned long long)c->id, c->exe);
		birth_failed_again(c);
	}
	p->answer_count = 0;
}

static void note_answer(struct replay *p, const struct uffd_msg *m)
{
	space_make_room(
		(void **)&p->answer, p->answer_count, &p->answer_room, sizeof(*p->answer));
	p->answer[p->answer_count++] =
		(struct birth_answer){m->arg.reserved.reserved1, m->reserved3 != 0};
}

static void replay_restored(struct client *c, uint64_t start, uint64_t end)
{
	c->restoring = (struct region){0, 0};
	for (uint64_t addr = start; addr < end; addr += PAGE_SIZE)
		if (entry_out(space_entry(&c->space, addr)))
			space_set_state(&c->space, addr, PAGE_RESIDENT);
}

static void replay_own(struct replay *p, const struct uffd_msg *m)
{
	struct client *c = p->client;

	switch ((enum journal_event)m->event) {
	case JOURNAL_ANSWER:
		replay_answer(p, m);
		break;
	case JOURNAL_ASK:
		p->ask = (struct region){m->arg.reserved.reserved1, m->arg.reserved.reserved2};
		break;
	case JOURNAL_ASKED:
		p->ask = (struct region){0, 0};
		break;
	case JOURNAL_DOUBT:
		p->ask = (struct region){0, 0};
		settle_open_all(c, m->arg.reserved.reserved1, m->arg.reserved.reserved2);
		break;
	case JOURNAL_CALM:
		space_forget_aside(&c->space);
		break;
	case JOURNAL_FLUSH:
		sequence_flush(c);
		break;
	case JOURNAL_CHILD: /* found by the FORK before it */
	case JOURNAL_GROWN:
	case JOURNAL_ALONE:
	case JOURNAL_ZAPPED:
		break;
	case JOURNAL_MIDWIFE:
		note_answer(p, m);
		break;
	case JOURNAL_BORN:
		replay_born(p, m);
		break;
	case JOURNAL_FAILED:
		birth_failed_again(c);
		break;
	case JOURNAL_GONE:
		space_set_state(&c->space, m->arg.reserved.reserved1, PAGE_ABSENT);
		break;
	case JOURNAL_ORDER:
		replay_order(p, m);
		break;
	case JOURNAL_MOVED:
		replay_moved(p, m);
		break;
	case JOURNAL_RESTORING:
		c->restoring =
			(struct region){m->arg.reserved.reserved1, m->arg.reserved.reserved2};
		break;
	case JOURNAL_RESTORED:
		replay_restored(c, m->arg.reserved.reserved1, m->arg.reserved.reserved2);
		break;
	}
}

static void replay_one(struct replay *p, const struct uffd_msg *m)
{
	if (m->event >= JOURNAL_ANSWER)
		replay_own(p, m);
	else if (p->client->birth)
		birth_keep_early(p->client, m);
	else if (m->event != UFFD_EVENT_PAGEFAULT) /* woken, it comes again */
		sequence_add(p->client, m);
}

/* Of one that isn't born: has it a child all the same, for whom its FORK was passed on when it
 * had ended? */
static bool any_passed_on(const struct replay *p)
{
	for (uint64_t at = p->first; at < p->end; at++)
		if (journal_at(p->client->journal, at)->event == JOURNAL_CHILD &&
			!p->taken[at - p->first])
			return true;
	for (size_t i = 0; i < p->all->count; i++)
		if (is_untold(p, p->all->client[i]))
			return true;
	return false;
}

static void replay_journal(struct recovery *r, struct client *c)
{
	struct replay p = {.all = r,
		.client = c,
		.first = journal_begin(c->journal),
		.end = journal_end(c->journal)};

	if (p.first < c->row_clock)
		p.first = c->row_clock;
	p.taken = space_alloc(p.end - p.first + 1);
	memset(p.taken, 0, p.end - p.first + 1);
	/* Without a link nobody has what staging had, which recover_hold says. */
	p.staging_gone = !c->link || recover_staging(c, p.staging) < 0;
	c->replay = &p;
	for (p.at = p.first; p.at < p.end; p.at++) {
		const struct uffd_msg m = *journal_at(c->journal, p.at);
		replay_one(&p, &m);
		point(POINT_recover_entry);
	}
	c->replay = NULL;
	if (c->birth && any_passed_on(&p) && !uffd_alive(c->uffd))
		birth_pass_on_again(c, next_passed_on, &p);
	if (p.ask.end > 0)
		settle_later(c, p.ask.start, p.ask.end);
	note_moved(&p);
	free(p.answer);
	free(p.taken);
	point(POINT_recover_journal);
}

void replay_all(struct recovery *r)
{
	for (size_t i = 0; i < r->count; i++) {
		struct client *c = r->client[i];
		if (c->failed || !c->journal)
			continue;
		/* A child without rows whose FORK no journal has. */
		if (c->parent != 0 && !atomic_load(&c->indexed) && !r->has_origin[i]) {
			/* One that has ended, and whose children have all rows, waits to be
			 * forgotten. */
			c->failed = true;
			if (uffd_alive(c->uffd))
				log_error("client %llu (%s): nothing tells what it was forked "
					  "with; none of its faults is answered",
					(unsigned long long)c->id, c->exe);
			continue;
		}
		replay_journal(r, c);
	}
}
