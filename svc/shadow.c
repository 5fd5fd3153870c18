#include "shadow.h"

#ifdef LARDER_SHADOW
#include "client.h"
#include "journal.h"
#include "log.h"
#include "pagemap.h"
#include "space_internal.h"
#include "state.h"
#include "uffd.h"
#include "worker.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { SLOTS = 2048, BUFFER = 1 << 20 };

struct picture {
	uint64_t id, clock;
	uint32_t blocks;
	struct {
		uint64_t number;
		uint32_t entry[BLOCK_PAGES];
	} block[];
};

/* By place in the state table. Two, as a worker can die while it writes one. */
struct slot {
	_Atomic uint32_t which;
	char pad[4092];
	char buffer[2][BUFFER];
};
static struct slot *slots;

void shadow_begin(void)
{
	slots = mmap(NULL, sizeof(struct slot) * SLOTS, PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (slots == MAP_FAILED)
		abort();
}

static struct slot *slot_of(const struct client *c)
{
	size_t i = c->record ? (size_t)(c->record - c->worker->state->record) : SLOTS;
	return slots && i < SLOTS ? &slots[i] : NULL;
}

void shadow_keep(const struct client *c)
{
	struct slot *s = slot_of(c);
	const size_t room =
		(BUFFER - sizeof(struct picture)) / sizeof(((struct picture *)NULL)->block[0]);

	if (!s || c->replay || c->space.block_count > room)
		return;
	uint32_t other = !atomic_load(&s->which);
	struct picture *p = (void *)s->buffer[other];
	p->id = c->id;
	p->clock = client_clock(c);
	p->blocks = (uint32_t)c->space.block_count;
	for (size_t i = 0; i < c->space.block_count; i++) {
		p->block[i].number = c->space.block[i].number;
		memcpy(p->block[i].entry, c->space.block[i].leaf->entry,
			sizeof(p->block[i].entry));
	}
	atomic_store(&s->which, other);
}

/* ---- comparing ---- */

static uint32_t entry_in(const struct picture *p, uint64_t addr)
{
	for (uint32_t i = 0; i < p->blocks; i++)
		if (p->block[i].number == addr >> BLOCK_SHIFT)
			return p->block[i].entry[addr / PAGE_SIZE % BLOCK_PAGES];
	return 0;
}

/* Was something begun after the picture was taken? */
static bool is_later(const struct client *c, const struct picture *p)
{
	for (uint64_t at = p->clock; c->journal && at < journal_end(c->journal); at++)
		if (at >= journal_begin(c->journal) &&
			journal_at(c->journal, at)->event != JOURNAL_MOVED &&
			journal_at(c->journal, at)->event != JOURNAL_CHILD)
			return true;
	return false;
}

static bool is_alive(const struct client *c)
{
	return c->pagemap >= 0 ? pagemap_alive(c->pagemap) : uffd_alive(c->uffd);
}

struct differences {
	unsigned lost;	/* out, and nobody knows any more */
	unsigned stale; /* not out, and taken for it */
	unsigned other; /* another blob */
	uint64_t first;
};

static void compare_block(
	const struct client *c, const struct picture *p, uint64_t number, struct differences *d)
{
	uint8_t here[BLOCK_PAGES] = {0};

	if (c->pagemap >= 0 &&
		pagemap_read(c->pagemap, number << BLOCK_SHIFT, BLOCK_PAGES, here) < 0)
		return;
	bool settled = c->pagemap >= 0 && !uffd_fence_up(c->uffd);
	for (unsigned page = 0; page < BLOCK_PAGES; page++) {
		uint64_t addr = (number << BLOCK_SHIFT) + page * PAGE_SIZE;
		uint32_t had = entry_in(p, addr), has = space_entry(&c->space, addr);
		unsigned before = d->lost + d->stale + d->other;
		if (here[page] != PAGE_NONE)
			continue; /* no fault will come */
		d->lost += entry_out(had) && !entry_out(has);
		/* Without a page table to look at it may be there; and what is unread may have
		 * taken it away. */
		d->stale += settled && !entry_out(had) && entry_out(has);
		d->other += entry_state(had) == PAGE_STORED &&
			    entry_state(has) == PAGE_STORED &&
			    entry_value(had) != entry_value(has);
		if (before == 0 && d->lost + d->stale + d->other > 0)
			d->first = addr;
	}
}

static void print_journal(const struct journal *j)
{
	for (uint64_t at = j ? journal_begin(j) : 0; j && at < journal_end(j); at++) {
		const struct uffd_msg *m = journal_at(j, at);
		if (m->event != UFFD_EVENT_PAGEFAULT)
			log_info("shadow: %llu: event %x %llx %llx %llx %x",
				(unsigned long long)at, m->event, m->arg.reserved.reserved1,
				m->arg.reserved.reserved2, m->arg.reserved.reserved3,
				m->reserved3);
	}
}

void shadow_compare(const struct client *c)
{
	const struct slot *s = slot_of(c);
	const struct picture *p = s ? (const void *)s->buffer[atomic_load(&s->which)] : NULL;
	struct differences d = {.lost = 0};

	if (!p || p->id != c->id || !is_alive(c) || is_later(c, p))
		return;
	for (uint32_t i = 0; i < p->blocks; i++)
		compare_block(c, p, p->block[i].number, &d);
	for (size_t i = 0; i < c->space.block_count; i++) {
		size_t at = 0;
		while (at < p->blocks && p->block[at].number != c->space.block[i].number)
			at++;
		if (at == p->blocks)
			compare_block(c, p, c->space.block[i].number, &d);
	}
	if (d.lost + d.stale + d.other == 0)
		return;
	log_error("shadow: client %llu (pid %d): %u pages lost, %u stale, %u other; the first "
		  "0x%llx, was %x, is %x; rows as of %llu, zapped at %llu, %s",
		(unsigned long long)c->id, (int)c->pid, d.lost, d.stale, d.other,
		(unsigned long long)d.first, entry_in(p, d.first),
		space_entry(&c->space, d.first), (unsigned long long)c->row_clock,
		(unsigned long long)c->zapped_clock,
		atomic_load(&c->indexed) ? "in the index" : "not in the index");
	print_journal(c->journal);
}
#endif
