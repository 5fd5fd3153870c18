#include "batch.h"
#include "space_internal.h"

#include <assert.h>
#include <string.h>

struct batch *batch_new(struct client *owner, uint64_t number, struct allowance *a)
{
	struct batch *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	client_ref(owner);
	b->owner = owner;
	b->number = number;
	b->allowance = a;
	pthread_mutex_init(&b->lock, NULL);
	return b;
}

void batch_free(struct batch *b)
{
	assert(b->follower_count == 0);
	free(b->follower);
	pthread_mutex_destroy(&b->lock);
	client_unref(b->owner);
	free(b);
}

void batch_follow(struct batch *b, struct client *c)
{
	client_ref(c);
	pthread_mutex_lock(&b->lock);
	space_make_room((void **)&b->follower, b->follower_count, &b->follower_room,
		sizeof(*b->follower));
	b->follower[b->follower_count++] = c;
	pthread_mutex_unlock(&b->lock);
}

struct client *batch_follower(struct batch *b, size_t i)
{
	struct client *c = NULL;

	pthread_mutex_lock(&b->lock);
	if (i < b->follower_count) {
		c = b->follower[i];
		client_ref(c);
	}
	pthread_mutex_unlock(&b->lock);
	return c;
}

struct client *batch_take_follower(struct batch *b)
{
	struct client *c = NULL;

	pthread_mutex_lock(&b->lock);
	if (b->follower_count > 0) {
		c = b->follower[0];
		memmove(b->follower, b->follower + 1,
			--b->follower_count * sizeof(*b->follower));
	}
	pthread_mutex_unlock(&b->lock);
	return c;
}

static bool held_by(uint32_t e, unsigned tag)
{
	return entry_state(e) == PAGE_HELD && entry_value(e) >> HELD_SLOT_BITS == tag;
}

static unsigned slot_of(uint32_t e)
{
	return entry_value(e) & (BLOCK_PAGES - 1);
}

static unsigned publish_leaf(struct batch *b, struct client *c, uint64_t number, unsigned tag)
{
	struct space *s = &c->space;
	struct leaf *leaf = space_leaf(s, number);
	unsigned left = 0;

	for (unsigned i = 0; i < BLOCK_PAGES; i++) {
		uint32_t e = leaf->entry[i];
		if (!held_by(e, tag))
			continue;
		blob_t blob = b->blob[slot_of(e)];
		if (blob == BLOB_NONE) {
			left++;
			continue;
		}
		store_ref(s->graveyard->store, blob);
		space_set(s, number, leaf, i, entry_make(PAGE_STORED, blob));
		c->held_named -= c->held_named > 0;
	}
	return left;
}

/* What is aside was dropped: without a blob it is lost to a fork that overlapped the drop, as
 * if that had come later. */
static void publish_aside(struct batch *b, struct space *s, struct leaf *leaf, unsigned tag)
{
	for (unsigned i = 0; leaf->held > 0 && i < BLOCK_PAGES; i++) {
		if (!held_by(leaf->entry[i], tag))
			continue;
		blob_t blob = b->blob[slot_of(leaf->entry[i])];
		leaf->held--;
		if (blob != BLOB_NONE) {
			store_ref(s->graveyard->store, blob);
			leaf->entry[i] = entry_make(PAGE_STORED, blob);
		} else {
			leaf->out--;
			leaf->entry[i] = entry_make(PAGE_ABSENT, 0);
		}
	}
}

static unsigned publish(struct batch *b, struct client *c, unsigned tag)
{
	struct space *s = &c->space;
	unsigned left = 0;

	size_t home = space_block_index(s, b->number);
	if (home < s->block_count && s->block[home].number == b->number)
		left += publish_leaf(b, c, b->number, tag);
	/* An mremap may have carried entries to any block. */
	for (size_t i = 0; s->held_pages > left && i < s->block_count; i++)
		if (s->block[i].leaf->held > 0 && s->block[i].number != b->number)
			left += publish_leaf(b, c, s->block[i].number, tag);
	for (size_t i = 0; i < s->aside_count; i++)
		publish_aside(b, s, s->aside[i].leaf, tag);
	if (left == 0)
		space_unhold(s, b);
	return left;
}

void batch_outlived(struct client *c)
{
	for (int i = 0; i < HELD_TAGS && c->held_named > 0; i++)
		if (c->space.held[i])
			c->space.held[i]->outlived = true;
	c->held_named = 0;
}

void batch_drop_aside(struct batch *b, struct client *c)
{
	int tag = space_held_tag(&c->space, b);

	for (size_t i = 0; tag >= 0 && i < c->space.aside_count; i++)
		publish_aside(b, &c->space, c->space.aside[i].leaf, (unsigned)tag);
}

unsigned batch_publish(struct batch *b, struct client *c)
{
	int tag = space_held_tag(&c->space, b);
	unsigned left = tag < 0 ? 0 : publish(b, c, (unsigned)tag);

	b->outlived |= c->held_named > 0;
	batch_outlived(c);
	return left;
}

void batch_drop_blobs(struct batch *b)
{
	const struct space *s = &b->owner->space;

	for (unsigned i = 0; i < BLOCK_PAGES; i++) {
		if (b->outlived)
			graveyard_add_blob(s->graveyard, s->family, b->blob[i]);
		else
			store_unref(s->graveyard->store, b->blob[i]);
		b->blob[i] = BLOB_NONE;
	}
	b->outlived = false;
}
