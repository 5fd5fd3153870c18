#include "pulse.h"
#include "space_internal.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum {
	/* Half a megabyte: blocks whose pages are wanted for the first time after a fork, or at
	 * all, between two fills. */
	LEAF_SPARES = 256,
	KEEP_BLOCKS = 64,
};

/* ---- memory ---- */

void *space_alloc(size_t size)
{
	void *p;
	while (!(p = malloc(size)))
		pulse_wait_for_memory();
	return p;
}

/* Room for one more element. */
void space_make_room(void **array, size_t count, size_t *room, size_t element)
{
	if (count < *room)
		return;
	size_t want = *room ? *room * 2 : 16;
	void *p;
	while (!(p = realloc(*array, want * element)))
		pulse_wait_for_memory();
	*array = p;
	*room = want;
}

/* The same, if there is memory. */
static bool try_room(void **array, size_t count, size_t *room, size_t element)
{
	size_t want = *room ? *room : 16;

	while (want < count)
		want *= 2;
	if (want == *room)
		return true;
	void *p = realloc(*array, want * element);
	if (!p)
		return false;
	*array = p;
	*room = want;
	return true;
}

/* ---- graveyard ---- */

void graveyard_init(struct graveyard *g, struct store *store)
{
	pthread_mutex_init(&g->lock, NULL);
	g->first = g->blobs = g->spare = NULL;
	g->blob_count = g->spares = 0;
	g->store = store;
	atomic_init(&g->next_id, 1);
	atomic_init(&g->leaves, 0);
}

void graveyard_done(struct graveyard *g)
{
	while (g->spare) {
		struct leaf *next = g->spare->next;
		free(g->spare);
		g->spare = next;
	}
	g->spares = 0;
}

static bool keep_spare(struct graveyard *g, struct leaf *leaf)
{
	pthread_mutex_lock(&g->lock);
	bool kept = g->spares < LEAF_SPARES;
	if (kept) {
		leaf->next = g->spare;
		g->spare = leaf;
		g->spares++;
	}
	pthread_mutex_unlock(&g->lock);
	return kept;
}

bool graveyard_fill(struct graveyard *g)
{
	struct leaf *leaf;

	do {
		leaf = malloc(sizeof(*leaf));
		if (!leaf)
			return false;
		memset(leaf, 0, sizeof(*leaf)); /* so that it is there, not only promised */
	} while (keep_spare(g, leaf));
	free(leaf);
	return true;
}

struct leaf *graveyard_take(struct graveyard *g)
{
	pthread_mutex_lock(&g->lock);
	struct leaf *first = g->first;
	if (g->blobs) {
		g->blobs->next = first;
		first = g->blobs;
	}
	g->first = g->blobs = NULL;
	pthread_mutex_unlock(&g->lock);
	return first;
}

void leaf_free(struct graveyard *g, struct leaf *leaf)
{
	atomic_fetch_sub(&g->leaves, 1);
	free(leaf);
}

static struct leaf *leaf_begin(struct graveyard *g, uint64_t family, struct leaf *leaf)
{
	memset(leaf, 0, sizeof(*leaf));
	leaf->family = family;
	atomic_init(&leaf->refs, 1);
	leaf->id = atomic_fetch_add(&g->next_id, 1);
	atomic_fetch_add(&g->leaves, 1);
	return leaf;
}

struct leaf *leaf_new(struct graveyard *g, uint64_t family)
{
	return leaf_begin(g, family, space_alloc(sizeof(struct leaf)));
}

/* For an answer to a fault: a spare one, or NULL when there is no memory either. */
static struct leaf *leaf_new_at_once(struct graveyard *g, uint64_t family)
{
	pthread_mutex_lock(&g->lock);
	struct leaf *leaf = g->spare;
	if (leaf) {
		g->spare = leaf->next;
		g->spares--;
	}
	pthread_mutex_unlock(&g->lock);
	if (!leaf)
		leaf = malloc(sizeof(*leaf));
	return leaf ? leaf_begin(g, family, leaf) : NULL;
}

/* Lock held. */
static bool has_room(struct graveyard *g, uint64_t family)
{
	if (g->blobs && (g->blob_count == BLOCK_PAGES || g->blobs->family != family)) {
		g->blobs->next = g->first;
		g->first = g->blobs;
		g->blobs = NULL;
	}
	return g->blobs != NULL;
}

void graveyard_add_blob(struct graveyard *g, uint64_t family, blob_t blob)
{
	struct leaf *fresh = NULL;

	if (blob == BLOB_NONE)
		return;
	pthread_mutex_lock(&g->lock);
	if (!has_room(g, family)) {
		pthread_mutex_unlock(&g->lock);
		fresh = leaf_new(g, family); /* may wait, so not under the lock */
		pthread_mutex_lock(&g->lock);
	}
	if (!has_room(g, family)) {
		g->blobs = fresh;
		g->blob_count = 0;
		fresh = NULL;
	}
	g->blobs->entry[g->blob_count++] = entry_make(PAGE_ABSENT, blob);
	pthread_mutex_unlock(&g->lock);
	if (fresh)
		leaf_free(g, fresh);
}

void leaf_unref(struct graveyard *g, struct leaf *leaf)
{
	if (atomic_fetch_sub(&leaf->refs, 1) > 1)
		return;
	pthread_mutex_lock(&g->lock);
	leaf->next = g->first;
	g->first = leaf;
	pthread_mutex_unlock(&g->lock);
}

static struct leaf *leaf_copy(struct graveyard *g, struct leaf *leaf, const struct leaf *from)
{
	memcpy(leaf->entry, from->entry, sizeof(leaf->entry));
	leaf->out = from->out;
	leaf->held = from->held;
	for (unsigned i = 0; i < BLOCK_PAGES; i++) {
		uint32_t e = leaf->entry[i];
		if (entry_state(e) == PAGE_STORED)
			store_ref(g->store, entry_value(e));
		else if (entry_state(e) !=
			 PAGE_HELD) /* a blob nobody needs isn't needed twice */
			leaf->entry[i] = e & ~ENTRY_VALUE;
	}
	return leaf;
}

struct leaf *leaf_clone(struct graveyard *g, const struct leaf *from)
{
	return leaf_copy(g, leaf_new(g, from->family), from);
}

/* ---- space ---- */

void space_init(struct space *s, struct graveyard *g, uint64_t family)
{
	memset(s, 0, sizeof(*s));
	s->graveyard = g;
	s->family = family;
}

void space_done(struct space *s)
{
	space_drop_aside(s);
	for (size_t i = 0; i < s->block_count; i++)
		leaf_unref(s->graveyard, s->block[i].leaf);
	free(s->block);
	free(s->region);
	free(s->dirty);
	free(s->aside);
	/* The first two are read without the gate. */
	const size_t from = offsetof(struct space, region);
	memset((char *)s + from, 0, sizeof(*s) - from);
}

/* ---- regions ---- */

size_t space_region_index(const struct space *s, uint64_t addr)
{
	size_t low = 0, high = s->region_count;

	while (low < high) {
		size_t mid = (low + high) / 2;
		if (s->region[mid].end <= addr)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

const struct region *space_region_at(const struct space *s, uint64_t addr)
{
	size_t i = space_region_index(s, addr);
	return i < s->region_count && s->region[i].start <= addr ? &s->region[i] : NULL;
}

bool space_region_overlaps(const struct space *s, uint64_t start, uint64_t end)
{
	size_t i = space_region_index(s, start);
	return i < s->region_count && s->region[i].start < end;
}

static void region_insert(struct space *s, size_t at, uint64_t start, uint64_t end)
{
	space_make_room(
		(void **)&s->region, s->region_count, &s->region_room, sizeof(*s->region));
	memmove(&s->region[at + 1], &s->region[at],
		(s->region_count - at) * sizeof(*s->region));
	s->region[at] = (struct region){start, end};
	s->region_count++;
}

static void regions_remove(struct space *s, size_t from, size_t to)
{
	if (from == to)
		return;
	memmove(&s->region[from], &s->region[to], (s->region_count - to) * sizeof(*s->region));
	s->region_count -= to - from;
}

void space_region_add(struct space *s, uint64_t start, uint64_t end)
{
	size_t from = space_region_index(s, start), to;

	if (from > 0 && s->region[from - 1].end == start)
		from--;
	for (to = from; to < s->region_count && s->region[to].start <= end; to++) {
		if (s->region[to].start < start)
			start = s->region[to].start;
		if (s->region[to].end > end)
			end = s->region[to].end;
	}
	regions_remove(s, from, to);
	region_insert(s, from, start, end);
}

void space_region_drop(struct space *s, uint64_t start, uint64_t end)
{
	size_t i = space_region_index(s, start);

	if (i < s->region_count && s->region[i].start < start) {
		uint64_t rest = s->region[i].end;
		s->region[i++].end = start;
		if (rest > end) {
			region_insert(s, i, end, rest);
			return;
		}
	}
	size_t to = i;
	while (to < s->region_count && s->region[to].end <= end)
		to++;
	if (to < s->region_count && s->region[to].start < end)
		s->region[to].start = end;
	regions_remove(s, i, to);
}

/* ---- blocks ---- */

static size_t block_search(const struct block *block, size_t count, uint64_t number)
{
	size_t low = 0, high = count;

	while (low < high) {
		size_t mid = (low + high) / 2;
		if (block[mid].number < number)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

size_t space_block_index(const struct space *s, uint64_t number)
{
	return block_search(s->block, s->block_count, number);
}

static struct block *block_at(const struct space *s, uint64_t number)
{
	size_t i = space_block_index(s, number);
	return i < s->block_count && s->block[i].number == number ? &s->block[i] : NULL;
}

/* There is room: space_block_insert sees to it, for every block may have to be listed by an
 * answer to a fault. */
static void list_dirty(struct space *s, uint64_t number)
{
	assert(s->dirty_count < s->dirty_room);
	s->dirty[s->dirty_count++] = number;
}

/* Each of them is listed, and counts as one that may have to be. */
static bool try_insert_room(struct space *s, size_t blocks)
{
	return try_room((void **)&s->block, s->block_count + blocks, &s->block_room,
		       sizeof(*s->block)) &&
	       try_room((void **)&s->dirty, s->dirty_count + s->block_count + 2 * blocks,
		       &s->dirty_room, sizeof(*s->dirty));
}

void space_keep_room(struct space *s)
{
	(void)try_insert_room(s, KEEP_BLOCKS); /* else with the next */
}

static void block_changed(struct space *s, struct block *b)
{
	if (b->listed)
		return;
	b->listed = true;
	list_dirty(s, b->number);
}

void space_block_insert(struct space *s, uint64_t number, struct leaf *leaf)
{
	size_t at = space_block_index(s, number);

	while (!try_insert_room(s, 1))
		pulse_wait_for_memory();
	memmove(&s->block[at + 1], &s->block[at], (s->block_count - at) * sizeof(*s->block));
	s->block[at] = (struct block){.number = number, .leaf = leaf, .remapped = true};
	s->block_count++;
	s->out_pages += leaf->out;
	s->held_pages += leaf->held;
	block_changed(s, &s->block[at]);
}

struct leaf *space_block_detach(struct space *s, size_t at)
{
	struct leaf *leaf = s->block[at].leaf;

	if (!s->block[at].listed)
		list_dirty(s, s->block[at].number); /* the row goes */
	s->out_pages -= leaf->out;
	s->held_pages -= leaf->held;
	s->huge_blocks -= s->block[at].huge;
	memmove(&s->block[at], &s->block[at + 1],
		(s->block_count - at - 1) * sizeof(*s->block));
	s->block_count--;
	return leaf;
}

/* Takes the reference to own, a copy. */
static void replace_leaf(struct space *s, struct block *b, struct leaf *own)
{
	leaf_unref(s->graveyard, b->leaf);
	b->leaf = own;
	b->remapped = true;
	block_changed(s, b);
}

struct leaf *space_leaf(struct space *s, uint64_t number)
{
	struct block *b = block_at(s, number);

	if (!b) {
		space_block_insert(s, number, leaf_new(s->graveyard, s->family));
		b = block_at(s, number);
	} else if (!leaf_is_own(b->leaf)) {
		replace_leaf(s, b, leaf_clone(s->graveyard, b->leaf));
	}
	return b->leaf;
}

bool space_ready(struct space *s, uint64_t addr)
{
	struct block *b = block_at(s, addr >> BLOCK_SHIFT);
	struct leaf *leaf;

	if (b && leaf_is_own(b->leaf))
		return true;
	if (!b && !try_insert_room(s, 1))
		return false;
	if (!(leaf = leaf_new_at_once(s->graveyard, s->family)))
		return false;
	if (b)
		replace_leaf(s, b, leaf_copy(s->graveyard, leaf, b->leaf));
	else
		space_block_insert(s, addr >> BLOCK_SHIFT, leaf);
	return true;
}

uint32_t space_entry(const struct space *s, uint64_t addr)
{
	const struct block *b = block_at(s, addr >> BLOCK_SHIFT);
	return b ? b->leaf->entry[addr / PAGE_SIZE % BLOCK_PAGES] : entry_make(PAGE_ABSENT, 0);
}

static bool is_out(uint32_t e)
{
	return entry_state(e) == PAGE_HELD || entry_state(e) == PAGE_STORED;
}

void space_set(
	struct space *s, uint64_t number, struct leaf *leaf, unsigned page, uint32_t entry)
{
	uint32_t old = leaf->entry[page];

	leaf->entry[page] = entry;
	if (is_out(old) != is_out(entry)) {
		leaf->out = (uint16_t)(leaf->out + (is_out(entry) ? 1 : -1));
		s->out_pages += is_out(entry) ? 1 : (uint64_t)-1;
	}
	int held = (entry_state(entry) == PAGE_HELD) - (entry_state(old) == PAGE_HELD);
	leaf->held = (uint16_t)(leaf->held + held);
	s->held_pages += (uint64_t)(int64_t)held;
	/* Rows name blobs, so only a change of what is out concerns them; of what becomes HELD,
	 * the blobs are known when they are written (rule 9). */
	if (entry_blob(old) != entry_blob(entry) ||
		(entry_state(old) != entry_state(entry) && (is_out(old) || is_out(entry)))) {
		leaf_changed(leaf);
		struct block *b = block_at(s, number);
		if (b && b->leaf == leaf)
			block_changed(s, b);
	}
}

void space_set_state(struct space *s, uint64_t addr, enum page_state state)
{
	uint64_t number = addr >> BLOCK_SHIFT;
	unsigned page = (unsigned)(addr / PAGE_SIZE % BLOCK_PAGES);
	uint32_t old = space_entry(s, addr);

	assert(state != PAGE_HELD && state != PAGE_STORED);
	if (entry_state(old) == state && !(old & ENTRY_SUSPECT))
		return;
	struct leaf *leaf = space_leaf(s, number);
	old = leaf->entry[page];
	space_set(s, number, leaf, page, entry_make(state, entry_blob(old)));
}

void space_row_outdated(struct space *s, uint64_t number)
{
	struct block *b = block_at(s, number);

	/* A leaf of several is nobody's to mark; it is written when one of them changes it. */
	if (!b || !leaf_is_own(b->leaf))
		return;
	leaf_changed(b->leaf);
	block_changed(s, b);
}

void space_clear_suspects(struct space *s, uint64_t number)
{
	const struct block *b = block_at(s, number);

	if (!b)
		return;
	for (unsigned i = 0; i < BLOCK_PAGES; i++)
		if (b->leaf->entry[i] & ENTRY_SUSPECT) {
			struct leaf *leaf = space_leaf(s, number);
			leaf->entry[i] &= ~ENTRY_SUSPECT;
		}
}

/* ---- huge pages ---- */

void space_note_huge(struct space *s, uint64_t number)
{
	struct block *b = block_at(s, number);

	s->huge_blocks += !b->huge;
	b->huge = true;
}

static bool all_resident(const struct leaf *leaf)
{
	unsigned i = 0;

	while (i < BLOCK_PAGES && entry_state(leaf->entry[i]) == PAGE_RESIDENT)
		i++;
	return i == BLOCK_PAGES;
}

static void forget_huge(struct space *s, struct block *b)
{
	s->huge_blocks -= b->huge;
	b->huge = false;
}

void space_forget_huge(struct space *s, uint64_t number)
{
	struct block *b = block_at(s, number);

	if (b)
		forget_huge(s, b);
}

int space_next_huge(struct space *s, uint64_t *number, size_t most)
{
	size_t i = space_block_index(s, *number), end = s->block_count;

	if (end - i > most)
		end = i + most;
	for (; i < end; i++) {
		struct block *b = &s->block[i];
		if (!b->huge || b->leaf->out > 0)
			continue;
		*number = b->number;
		if (all_resident(b->leaf))
			return 0;
		forget_huge(s, b);
	}
	if (end == s->block_count)
		return -ENOENT;
	*number = s->block[end].number;
	return -EAGAIN;
}

/* ---- batches ---- */

int space_hold(struct space *s, struct batch *b)
{
	for (int i = 0; i < HELD_TAGS; i++)
		if (!s->held[i]) {
			s->held[i] = b;
			return i;
		}
	return -EBUSY;
}

int space_held_tag(const struct space *s, const struct batch *b)
{
	for (int i = 0; i < HELD_TAGS; i++)
		if (s->held[i] == b)
			return i;
	return -ENOENT;
}

void space_unhold(struct space *s, const struct batch *b)
{
	int tag = space_held_tag(s, b);
	if (tag >= 0)
		s->held[tag] = NULL;
}

/* ---- check ---- */

static void leaf_check(const struct space *s, const struct leaf *leaf)
{
	unsigned out = 0, held = 0;

	assert(atomic_load(&leaf->refs) > 0);
	for (unsigned i = 0; i < BLOCK_PAGES; i++) {
		uint32_t e = leaf->entry[i];
		out += is_out(e);
		held += entry_state(e) == PAGE_HELD;
		assert(entry_state(e) != PAGE_STORED || entry_value(e) != BLOB_NONE);
		assert(entry_state(e) != PAGE_HELD ||
			s->held[entry_value(e) >> HELD_SLOT_BITS]);
		assert(!(e & ENTRY_SUSPECT) || entry_state(e) == PAGE_ABSENT);
	}
	assert(leaf->out == out && leaf->held == held);
}

void space_check(const struct space *s)
{
	uint64_t out = 0, held = 0;

	for (size_t i = 0; i < s->region_count; i++) {
		assert(s->region[i].start < s->region[i].end);
		assert(((s->region[i].start | s->region[i].end) & ~PAGE_MASK) == 0);
		assert(i == 0 || s->region[i - 1].end < s->region[i].start);
	}
	for (size_t i = 0; i < s->block_count; i++) {
		assert(i == 0 || s->block[i - 1].number < s->block[i].number);
		leaf_check(s, s->block[i].leaf);
		out += s->block[i].leaf->out;
		held += s->block[i].leaf->held;
	}
	assert(out == s->out_pages && held == s->held_pages);
	for (size_t i = 0; i < s->aside_count; i++)
		leaf_check(s, s->aside[i].leaf);
	assert(s->aside_count == 0 || s->steps || s->unborn);
	size_t unlisted = 0, huge = 0;
	for (size_t i = 0; i < s->block_count; i++) {
		unlisted += !s->block[i].listed;
		huge += s->block[i].huge;
	}
	assert(huge == s->huge_blocks);
	assert(s->dirty_room - s->dirty_count >= unlisted);
}
