#include "state.h"

#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#define MAGIC 0x657461747372646cULL /* "ldrstate" */

struct state *state_new(void)
{
	/* As much of it has memory as was ever used. */
	struct state *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (s == MAP_FAILED)
		return NULL;
	s->magic = MAGIC;
	s->version = STATE_VERSION;
	return s;
}

static void fill(struct state_record *to, const struct state_record *r)
{
	const size_t after = offsetof(struct state_record, parent);

	memcpy((char *)to + after, (const char *)r + after, sizeof(*to) - after);
}

void state_join(struct state_record *to, const struct state_record *r)
{
	fill(to, r);
	atomic_store(&to->joined, 1);
}

struct state_record *state_add(struct state *s, const struct state_record *r)
{
	uint32_t i = 0, top = atomic_load(&s->top);

	while (i < top && atomic_load(&s->record[i].id) != 0)
		i++;
	if (i == STATE_RECORDS)
		return NULL;
	struct state_record *to = &s->record[i];
	fill(to, r);
	atomic_store(&to->released, 0);
	atomic_store(&to->told, 0);
	atomic_store(&to->joined, atomic_load(&r->joined));
	if (i == top)
		atomic_store(&s->top, top + 1);
	atomic_store(&to->id, atomic_load(&r->id));
	return to;
}

void state_remove(struct state_record *r)
{
	if (r)
		atomic_store(&r->id, 0);
}

static bool record_has_fd(const struct state_record *r, int fd)
{
	if (r->uffd == fd || r->journal == fd)
		return true;
	if (!atomic_load(&r->joined))
		return false;
	bool has = false;
#define X(name) has |= r->name == fd;
	STATE_FDS(X)
#undef X
	return has;
}

bool state_has_fd(const struct state *s, int fd)
{
	for (uint32_t i = 0; i < atomic_load(&s->top); i++)
		if (atomic_load(&s->record[i].id) != 0 && record_has_fd(&s->record[i], fd))
			return true;
	return false;
}
