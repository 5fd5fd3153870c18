#include "row.h"
#include "batch.h"
#include "space_internal.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

struct head {
	uint32_t version, flags, regions, pages;
	uint64_t zapped;
};

static_assert(
	sizeof(struct region) == 16 && sizeof(struct row_page) == 32, "as row.h has them");

/* Is it a page that only its owner's staging has? */
static bool is_unpacked(const struct space *s, uint32_t e, const struct batch *batch)
{
	if (entry_state(e) != PAGE_HELD)
		return false;
	const struct batch *of = s->held[entry_value(e) >> HELD_SLOT_BITS];
	/* NULL: of one that is failed or gone, and its batch is over. */
	return of && (of != batch || of->blob[entry_value(e) & (BLOCK_PAGES - 1)] == BLOB_NONE);
}

static uint32_t list_pages(
	const struct client *c, const struct batch *batch, struct row_page *to)
{
	const struct space *s = &c->space;
	uint32_t n = 0;

	for (size_t i = 0; s->held_pages > 0 && i < s->block_count; i++)
		for (unsigned page = 0; s->block[i].leaf->held > 0 && page < BLOCK_PAGES;
			page++) {
			uint32_t e = s->block[i].leaf->entry[page];
			if (!is_unpacked(s, e, batch))
				continue;
			struct client *owner = s->held[entry_value(e) >> HELD_SLOT_BITS]->owner;
			owner->rows_name_staging = true;
			to[n++] = (struct row_page){
				.addr = (s->block[i].number << BLOCK_SHIFT) + page * PAGE_SIZE,
				.owner = owner->id,
				.clock = client_clock(owner),
				.slot = entry_value(e) & (BLOCK_PAGES - 1)};
		}
	return n;
}

uint32_t row_pack(const struct client *c, const struct batch *batch, void **ret)
{
	const struct space *s = &c->space;
	const size_t regions = s->region_count * sizeof(struct region);
	struct head *head =
		space_alloc(sizeof(*head) + regions + s->held_pages * sizeof(struct row_page));
	char *at = (char *)(head + 1);

	*head = (struct head){.version = ROW_VERSION,
		.flags = c->failed ? ROW_FAILED : 0,
		.regions = (uint32_t)s->region_count,
		.zapped = c->zapped_clock};
	if (regions > 0)
		memcpy(at, s->region, regions);
	head->pages = list_pages(c, batch, (struct row_page *)(void *)(at + regions));
	*ret = head;
	return (uint32_t)(sizeof(*head) + regions + head->pages * sizeof(struct row_page));
}

int row_unpack(struct client *c, const void *bytes, uint32_t length,
	const struct row_page **ret_pages, uint32_t *ret_count)
{
	struct head head;

	if (length < sizeof(head))
		return -EBADMSG;
	memcpy(&head, bytes, sizeof(head));
	if (head.version != ROW_VERSION ||
		length != sizeof(head) + (uint64_t)head.regions * sizeof(struct region) +
				  (uint64_t)head.pages * sizeof(struct row_page))
		return -EBADMSG;
	const char *at = (const char *)bytes + sizeof(head);
	for (uint32_t i = 0; i < head.regions; i++, at += sizeof(struct region)) {
		struct region g;
		memcpy(&g, at, sizeof(g));
		if (g.start >= g.end || ((g.start | g.end) & ~PAGE_MASK))
			return -EBADMSG;
		space_region_add(&c->space, g.start, g.end);
	}
	if (c->zapped_clock < head.zapped)
		c->zapped_clock = head.zapped;
	c->failed = head.flags & ROW_FAILED;
	*ret_pages = (const struct row_page *)(const void *)at;
	*ret_count = head.pages;
	return 0;
}
