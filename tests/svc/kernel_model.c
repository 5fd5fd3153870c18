#include "kernel_model.h"
#include "kernel.h"
#include "pagemap.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cmocka.h>

static struct memory memory[MEMORIES];
static uint64_t (*rnd)(uint64_t below);
static uint32_t last_number;
static bool traced; /* by SEED, of one run */

#define trace(...) (traced ? print_message(__VA_ARGS__) : (void)0)

void model_reset(uint64_t (*random)(uint64_t below))
{
	memset(memory, 0, sizeof(memory));
	rnd = random;
	last_number = 0;
	traced = getenv("SEED") != NULL;
}

struct memory *model_memory(unsigned i)
{
	return &memory[i];
}

static struct memory *new_memory(unsigned threads)
{
	for (int i = 0; i < MEMORIES; i++) {
		struct memory *m = &memory[i];
		if (m->used)
			continue;
		memset(m, 0, sizeof(*m));
		m->used = m->lives = true;
		m->index = i;
		m->uffd = m->link_fd = -1;
		m->threads = threads;
		return m;
	}
	return NULL;
}

/* The lowest that is free, as descriptors are. */
static int new_uffd(void)
{
	int fd = MODEL_UFFDS;

	while (model_by_uffd(fd))
		fd++;
	return fd;
}

struct memory *model_start(unsigned threads)
{
	struct memory *m = new_memory(threads);

	if (!m)
		return NULL;
	m->uffd = new_uffd();
	m->has_agent = true;
	for (unsigned i = 0; i < PLACES; i++)
		m->mapped[i] = m->registered[i] = true;
	return m;
}

struct memory *model_by_uffd(int uffd)
{
	for (int i = 0; i < MEMORIES; i++)
		if (memory[i].used && memory[i].uffd == uffd)
			return &memory[i];
	return NULL;
}

static struct memory *of(int uffd)
{
	struct memory *m = model_by_uffd(uffd);
	assert_non_null(m);
	return m;
}

static bool is_place(uint64_t addr, unsigned *place, unsigned *page)
{
	uint64_t off = addr - PLACE_FIRST;

	*place = (unsigned)(off >> 21);
	*page = (unsigned)(off / PAGE_SIZE % 512);
	return addr >= PLACE_FIRST && *place < PLACES && *page < PLACE_PAGES;
}

/* ---- what programs call ---- */

static void raise_event(struct thread *t, uint8_t event, uint64_t a, uint64_t b, uint64_t len)
{
	struct uffd_msg *m = &t->event[t->events++];

	memset(m, 0, sizeof(*m));
	m->event = event;
	if (event == UFFD_EVENT_REMAP) {
		m->arg.remap.from = a;
		m->arg.remap.to = b;
		m->arg.remap.len = len;
	} else {
		m->arg.remove.start = a;
		m->arg.remove.end = b;
	}
}

static void tell(struct memory *m, struct thread *t)
{
	trace("%d: raises event %x of thread %d\n", m->index, t->event[0].event,
		(int)(t - m->thread));
	t->told_of = true;
	m->queue[m->queued++] = t;
}

static void lose_pages(struct memory *m, unsigned place)
{
	memset(m->present[place], 0, sizeof(m->present[place]));
	memset(m->number[place], 0, sizeof(m->number[place]));
}

/* The threads that wait for a page there find out themselves. */
static void unmap(struct memory *m, struct thread *t, unsigned place)
{
	trace("%d: unmaps %u\n", m->index, place);
	if (m->registered[place])
		raise_event(t, UFFD_EVENT_UNMAP, place_addr(place, 0),
			place_addr(place, PLACE_PAGES), 0);
	m->mapped[place] = m->registered[place] = false;
	lose_pages(m, place);
}

static bool is_busy(const struct memory *m, unsigned place)
{
	for (unsigned i = 0; i < m->threads; i++)
		if (m->thread[i].busy[place])
			return true;
	return false;
}

static void move(struct memory *m, struct thread *t, unsigned from, unsigned to)
{
	/* MREMAP_DONTUNMAP; before that the shim has what is registered given back, for the
	 * sake of other threads' children (shim_mremap.c). */
	bool keep = (m->threads == 1 || !m->registered[from]) && rnd(4) == 0;

	if (from == to || !m->mapped[from] || is_busy(m, to))
		return;
	t->busy[to] = true;
	t->busy[from] = keep;
	trace("%d: moves %u to %u%s\n", m->index, from, to, keep ? ", which stays" : "");
	if (m->mapped[to])
		unmap(m, t, to);
	m->mapped[to] = true;
	m->registered[to] = m->registered[from];
	memcpy(m->present[to], m->present[from], sizeof(m->present[to]));
	memcpy(m->number[to], m->number[from], sizeof(m->number[to]));
	if (m->registered[from])
		raise_event(t, UFFD_EVENT_REMAP, place_addr(from, 0), place_addr(to, 0),
			PLACE_PAGES * PAGE_SIZE);
	if (keep)
		lose_pages(m, from);
	else
		unmap(m, t, from);
}

static void zap(struct memory *m, struct thread *t, bool also_present)
{
	unsigned place, page;

	for (uint64_t at = t->doomed; at < t->doomed_end; at += PAGE_SIZE)
		if (is_place(at, &place, &page) && (also_present || !m->present[place][page])) {
			m->present[place][page] = false;
			m->number[place][page] = 0;
		}
	if (also_present)
		t->doomed = t->doomed_end = 0;
}

static bool is_forking(const struct memory *m)
{
	for (unsigned i = 0; i < m->threads; i++)
		if (m->thread[i].events > 0 && m->thread[i].event[0].event == UFFD_EVENT_FORK)
			return true;
	return false;
}

/* The child of a fork that overlaps a discard may have the page or zeros (space_event.c). */
static void discard(struct memory *m, struct thread *t)
{
	unsigned place = (unsigned)rnd(PLACES), first = (unsigned)rnd(PLACE_PAGES);
	unsigned end = first + 1 + (unsigned)rnd(PLACE_PAGES - first);

	if (!m->mapped[place] || is_forking(m))
		return;
	t->busy[place] = true;
	trace("%d: discards %u, %u to %u\n", m->index, place, first, end);
	t->doomed = place_addr(place, first);
	t->doomed_end = place_addr(place, end);
	if (m->registered[place])
		raise_event(t, UFFD_EVENT_REMOVE, t->doomed, t->doomed_end, 0);
	else
		zap(m, t, true);
}

static void fork_memory(struct memory *m, struct thread *t)
{
	struct memory *child = model_is_discarding(m) ? NULL : new_memory(1);

	if (!child)
		return;
	trace("%d: forks %d\n", m->index, child->index);
	memcpy(child->mapped, m->mapped, sizeof(m->mapped));
	memcpy(child->registered, m->registered, sizeof(m->registered));
	memcpy(child->present, m->present, sizeof(m->present));
	memcpy(child->number, m->number, sizeof(m->number));
	struct uffd_msg *e = &t->event[t->events++];
	memset(e, 0, sizeof(*e));
	e->event = UFFD_EVENT_FORK;
	e->arg.fork.ufd = (uint32_t)child->index; /* until it is read */
}

static void touch(struct memory *m, struct thread *t, unsigned place, unsigned page, bool write)
{
	if (!m->mapped[place])
		return;
	if (!m->present[place][page] && m->registered[place]) {
		t->fault = place_addr(place, page);
		t->write = write;
		t->fault_read = false;
		return;
	}
	if (!m->present[place][page])
		assert_int_equal(m->number[place][page], 0); /* the kernel gives zeros */
	m->present[place][page] = true;
	if (write)
		m->number[place][page] = ++last_number;
	trace("%d: touches %u.%u: 0x%x\n", m->index, place, page, m->number[place][page]);
}

/* Has what it waited for come, or gone? */
static bool goes_on(const struct memory *m, struct thread *t)
{
	unsigned place, page;

	if (t->fault && is_place(t->fault, &place, &page) && m->registered[place] &&
		!m->present[place][page])
		return false;
	t->fault = 0;
	return true;
}

/* False: it waits for the service. */
static bool thread_goes_on(struct memory *m, struct thread *t)
{
	if (t->told_of || !goes_on(m, t))
		return false;
	if (t->events > 0) {
		tell(m, t);
		return false;
	}
	if (t->doomed)
		zap(m, t, true);
	memset(t->busy, 0, sizeof(t->busy));
	return true;
}

static void call_something(struct memory *m, struct thread *t)
{
	unsigned place = (unsigned)rnd(PLACES), page = (unsigned)rnd(PLACE_PAGES);

	if (is_busy(m, place))
		return;
	switch (rnd(14)) {
	case 0:
		unmap(m, t, place);
		break;
	case 1:
		if (!m->mapped[place])
			m->mapped[place] = true;
		break;
	case 2:
	case 3:
		move(m, t, place, (unsigned)rnd(PLACES));
		break;
	case 4:
		discard(m, t);
		break;
	case 5:
		fork_memory(m, t);
		break;
	default:
		touch(m, t, place, page, rnd(4) > 0);
	}
	/* A fork is told of when its child is whole: others may come in between. */
	if (t->events > 0 && t->event[0].event != UFFD_EVENT_FORK)
		tell(m, t);
}

void model_step(struct memory *m)
{
	if (!m->lives || m->uffd < 0)
		return;
	struct thread *t = &m->thread[rnd(m->threads)];
	if (thread_goes_on(m, t))
		call_something(m, t);
}

bool model_calm(struct memory *m)
{
	bool calm = true;

	for (unsigned i = 0; m->lives && m->uffd >= 0 && i < m->threads; i++)
		if (!thread_goes_on(m, &m->thread[i]))
			calm &= m->thread[i].events == 0;
	return calm;
}

void model_touch(struct memory *m, unsigned place, unsigned page)
{
	if (thread_goes_on(m, &m->thread[0]))
		touch(m, &m->thread[0], place, page, false);
}

bool model_is_discarding(const struct memory *m)
{
	for (unsigned i = 0; i < m->threads; i++)
		if (m->thread[i].doomed)
			return true;
	return false;
}

bool model_end(struct memory *m)
{
	for (unsigned i = 0; i < m->threads; i++)
		if (m->thread[i].events > 0)
			return false;
	m->lives = false;
	return true;
}

bool model_fence_up(struct memory *m)
{
	for (unsigned i = 0; m->lives && i < m->threads; i++)
		if (m->thread[i].events > 0)
			return true;
	if (m->lag == 0)
		return false;
	m->lag--;
	return true;
}

/* ---- the agent ---- */

static bool can_move(struct memory *m, unsigned place, unsigned page)
{
	return m->registered[place] && m->present[place][page] && !m->staged[page];
}

/* It stops at the first page for which the fence is up; what was moved is copied at the end,
 * where it comes so far. */
void model_agent(struct memory *m, bool all)
{
	struct pending *p = &m->pending;

	if (p->zap) {
		trace("%d: agent empties staging\n", m->index);
		memset(m->staged, 0, sizeof(m->staged));
		p->zap = false;
	}
	for (; p->move && m->lives && m->staging_open && p->first < p->end; p->first++) {
		if (model_fence_up(m) || (!all && rnd(3) == 0))
			break;
		if (p->first >= PLACE_PAGES || !can_move(m, p->place, p->first))
			continue;
		trace("%d: agent takes %u.%u: 0x%x\n", m->index, p->place, p->first,
			m->number[p->place][p->first]);
		m->present[p->place][p->first] = false;
		m->staged[p->first] = true;
		m->staging[p->first] = m->number[p->place][p->first];
		if (all)
			memcpy(m->link->data[p->first], &m->staging[p->first],
				sizeof(uint32_t));
	}
	p->move = false;
}

/* ---- what the service calls ---- */

static unsigned take_faults(struct memory *m, struct uffd_msg *to, unsigned room)
{
	unsigned n = 0;

	for (unsigned i = 0; i < m->threads && n < room; i++) {
		struct thread *t = &m->thread[i];
		if (t->fault == 0 || t->fault_read || goes_on(m, t))
			continue;
		memset(&to[n], 0, sizeof(to[n]));
		to[n].event = UFFD_EVENT_PAGEFAULT;
		to[n].arg.pagefault.address = t->fault;
		to[n++].arg.pagefault.flags = t->write ? UFFD_PAGEFAULT_FLAG_WRITE : 0;
		t->fault_read = true;
	}
	return n;
}

static void take_event(struct memory *m, struct uffd_msg *to)
{
	struct thread *t = m->queue[0];

	memmove(m->queue, m->queue + 1, --m->queued * sizeof(*m->queue));
	*to = t->event[0];
	trace("%d: event %x is read\n", m->index, to->event);
	if (to->event == UFFD_EVENT_FORK) {
		struct memory *child = &memory[to->arg.fork.ufd];
		child->uffd = new_uffd();
		to->arg.fork.ufd = (uint32_t)child->uffd;
	}
	if (to->event == UFFD_EVENT_REMOVE)
		zap(m, t, false);
	memmove(t->event, t->event + 1, --t->events * sizeof(*t->event));
	t->told_of = false;
	if (t->events > 0)
		tell(m, t);
	m->lag = (unsigned)rnd(3);
}

static ssize_t read_messages(int fd, void *to, size_t size)
{
	struct memory *m = of(fd);
	struct uffd_msg msg[16];
	unsigned room = (unsigned)(size / sizeof(*msg)), n;

	if (room > 1 + rnd(16))
		room = 1 + (unsigned)rnd(room);
	n = take_faults(m, msg, room);
	while (n < room && m->queued > 0)
		take_event(m, &msg[n++]);
	memcpy(to, msg, n * sizeof(*msg));
	if (n == 0)
		return errno = EAGAIN, -1;
	return (ssize_t)(n * sizeof(*msg));
}

ssize_t __wrap_preadv2(int fd, const struct iovec *iov, int count, off_t at, int flags);
ssize_t __wrap_preadv2(int fd, const struct iovec *iov, int count, off_t at, int flags)
{
	(void)count, (void)at, (void)flags;
	return read_messages(fd, iov->iov_base, iov->iov_len);
}

ssize_t __real_read(int fd, void *to, size_t size);
ssize_t __wrap_read(int fd, void *to, size_t size);
ssize_t __wrap_read(int fd, void *to, size_t size)
{
	return fd >= MODEL_UFFDS ? read_messages(fd, to, size) : __real_read(fd, to, size);
}

int __real_munmap(void *at, size_t size);
int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_close(int fd)
{
	if (fd < MODEL_UFFDS || fd >= MODEL_END)
		return __real_close(fd);
	struct memory *m = fd < MODEL_PAGEMAPS ? of(fd) : NULL;
	if (m) {
		assert_false(m->lives); /* it would read zeros */
		m->used = false;
		if (m->link)
			__real_munmap(m->link, sizeof(struct link));
		m->link = NULL;
	}
	return 0;
}

bool uffd_fence_up(int fd)
{
	return model_fence_up(of(fd));
}

bool uffd_alive(int fd)
{
	return of(fd)->lives;
}

bool uffd_is_one(int fd)
{
	return model_by_uffd(fd) != NULL;
}

int uffd_registered(int fd, uint64_t addr)
{
	struct memory *m = of(fd);
	unsigned place, page;

	if (!m->lives)
		return -ESRCH;
	if (model_fence_up(m))
		return -EAGAIN;
	return is_place(addr, &place, &page) && m->registered[place];
}

static void wake_thread(struct memory *m, struct thread *t)
{
	if (t->fault && !goes_on(m, t))
		t->fault_read = false; /* it comes again */
}

int uffd_wake(int fd, uint64_t start, uint64_t len)
{
	struct memory *m = of(fd);

	for (unsigned i = 0; i < m->threads; i++)
		if (m->thread[i].fault - start < len)
			wake_thread(m, &m->thread[i]);
	return m->lives ? 0 : -ESRCH;
}

static int put_page(struct memory *m, uint64_t addr, uint32_t number)
{
	unsigned place, page;

	if (!m->lives)
		return -ESRCH;
	if (model_fence_up(m))
		return -EAGAIN;
	if (!is_place(addr, &place, &page) || !m->registered[place])
		return -ENOENT;
	if (m->present[place][page])
		return -EEXIST;
	trace("%d: gets %u.%u: 0x%x\n", m->index, place, page, number);
	assert_int_equal(number, m->number[place][page]);
	m->present[place][page] = true;
	return 0;
}

int uffd_copy_asleep(int fd, uint64_t start, const void *from, uint64_t len, uint64_t *ret_done)
{
	int r = 0;

	for (*ret_done = 0; *ret_done < len && r == 0;) {
		uint32_t number;
		memcpy(&number, (const char *)from + *ret_done, sizeof(number));
		r = put_page(of(fd), start + *ret_done, number);
		*ret_done += r == 0 ? PAGE_SIZE : 0;
	}
	return r;
}

int uffd_copy(int fd, uint64_t start, const void *from, uint64_t len, uint64_t *ret_done)
{
	int r = uffd_copy_asleep(fd, start, from, len, ret_done);

	uffd_wake(fd, start, *ret_done);
	return r;
}

int uffd_zero(int fd, uint64_t start, uint64_t len, uint64_t *ret_done)
{
	static const char zeros[PAGE_SIZE];

	assert_int_equal(len, PAGE_SIZE);
	return uffd_copy(fd, start, zeros, len, ret_done);
}

/* ---- page tables ---- */

static struct memory *of_pagemap(int fd)
{
	return &memory[fd - MODEL_PAGEMAPS];
}

bool pagemap_alive(int fd)
{
	return of_pagemap(fd)->lives;
}

bool pagemap_is_huge(int fd, uint64_t start)
{
	(void)fd, (void)start;
	return false;
}

static bool is_here(const struct memory *m, uint64_t addr)
{
	unsigned place, page;

	if (addr >= PLACE_STAGING)
		return m->staged[(addr - PLACE_STAGING) / PAGE_SIZE];
	return is_place(addr, &place, &page) && m->present[place][page];
}

int pagemap_read(int fd, uint64_t start, size_t count, uint8_t *ret)
{
	const struct memory *m = of_pagemap(fd);

	for (size_t i = 0; i < count; i++)
		ret[i] = is_here(m, start + i * PAGE_SIZE) ? PAGE_HERE : PAGE_NONE;
	return m->lives ? 0 : -ESRCH;
}

int pagemap_words(int fd, uint64_t start, size_t count, uint64_t *ret)
{
	const struct memory *m = of_pagemap(fd);

	for (size_t i = 0; i < count; i++)
		ret[i] = is_here(m, start + i * PAGE_SIZE) ? PM_PRESENT : 0;
	return m->lives ? 0 : -ESRCH;
}

/* Of staging. */
ssize_t __wrap_pread(int fd, void *to, size_t size, off_t at);
ssize_t __wrap_pread(int fd, void *to, size_t size, off_t at)
{
	const struct memory *m = &memory[fd - MODEL_MEMS];
	unsigned slot = (unsigned)(((uint64_t)at - PLACE_STAGING) / PAGE_SIZE);

	if (!m->lives)
		return 0;
	memset(to, 0, size);
	assert_true(m->staged[slot]);
	memcpy(to, &m->staging[slot], sizeof(uint32_t));
	return (ssize_t)size;
}

/* Mappings lie page by page, as far as anybody needs to know. */
int __wrap_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, void *arg)
{
	struct procmap_query *q = arg;

	(void)fd;
	assert_int_equal(request, PROCMAP_QUERY);
	q->vma_start = q->query_addr;
	q->vma_end = q->query_addr + PAGE_SIZE;
	return 0;
}
