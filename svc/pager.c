#include "pager.h"
#include "batch.h"
#include "birth.h"
#include "journal.h"
#include "log.h"
#include "pagemap.h"
#include "points.h"
#include "pulse.h"
#include "restorer.h"
#include "sequence.h"
#include "settle.h"
#include "shadow.h"
#include "uffd.h"
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
	/* While the fence is up it usually falls within the time a thread needs to be
	   scheduled. */
	FENCE_TRIES = 20,
	/* Faults that are put off by waking them come back at once: not for ever in one go. */
	READS_MAX = 1000,
	RETRY_NS = 1000000,
	RETRY_BIRTH_NS = 100000,
	ALARM_NS = 100000000,
	/* A COPY that finds no room in the client's memory limits has cost 10 ms of looking for
	   some. */
	RETRY_STARVED_NS = 20000000,
};

static const uint8_t zeros[PAGER_WINDOW_MAX * PAGE_SIZE] __attribute__((aligned(4096)));

int pager_init(struct pager *p, struct worker *w)
{
	memset(p, 0, sizeof(*p));
	p->worker = w;
	p->qsbr = qsbr_join(&w->qsbr);
	p->buffer = aligned_alloc(PAGE_SIZE, PAGER_WINDOW_MAX * PAGE_SIZE);
	int r = p->buffer && p->qsbr >= 0 ? store_scratch_new(&p->scratch) : -ENOMEM;
	if (r < 0)
		pager_done(p);
	return r;
}

void pager_done(struct pager *p)
{
	if (p->worker)
		qsbr_quit(&p->worker->qsbr, p->qsbr);
	store_scratch_free(p->scratch);
	free(p->buffer);
	pager_leave_thread(p);
	memset(p, 0, sizeof(*p));
}

/* ---- the gate ---- */

void gate_lock(struct client *c)
{
	pthread_mutex_lock(&c->gate);
	pulse_begin();
}

void gate_unlock(struct pager *p, struct client *c)
{
	shadow_keep(c);
	pthread_mutex_unlock(&c->gate);
	pulse_end();
	if (atomic_load(&c->pending))
		pager_service(p, c);
}

void pager_service(struct pager *p, struct client *c)
{
	do {
		/* Note first, then try: if the gate is taken, its holder sees the note after it
		 * has let go; if not, we do it ourselves. */
		atomic_store(&c->pending, true);
		if (pthread_mutex_trylock(&c->gate) != 0)
			return;
		pulse_begin();
		atomic_store(&c->pending, false);
		if (pager_drain(p, c) == -ESRCH)
			client_mark_gone(c);
		shadow_keep(c);
		pthread_mutex_unlock(&c->gate);
		pulse_end();
	} while (atomic_load(&c->pending));
}

/* ---- answering ---- */

/* Rule 8: better a stopped client than one that reads something else. */
static void stop_client(struct client *c, uint64_t addr)
{
	c->failed = true;
	atomic_fetch_add(&worker_counts(c->worker)->corrupt_pages, 1);
	log_error("client %d (%s): page 0x%llx can't be restored exactly: its blob is damaged; "
		  "rather than shown something else, the client %s",
		(int)c->pid, c->exe, (unsigned long long)addr,
		c->pidfd >= 0 ? "is stopped (SIGSTOP)" : "waits for ever");
	if (c->pidfd >= 0)
		syscall(SYS_pidfd_send_signal, c->pidfd, SIGSTOP, NULL, 0);
}

/* Fills one page of the buffer from wherever its bytes are. */
static int fetch(struct pager *p, struct client *c, uint32_t e, void *page)
{
	uint32_t value = entry_value(e);

	if (entry_state(e) == PAGE_STORED) {
		/* Compaction waits for us before it lets go of bytes that it has moved. */
		qsbr_enter(&p->worker->qsbr, (unsigned)p->qsbr);
		int r = store_get(p->worker->store, p->scratch, value, page);
		qsbr_leave(&p->worker->qsbr, (unsigned)p->qsbr);
		return r;
	}
	if (!c->space.held[value >> HELD_SLOT_BITS])
		return -EBADMSG; /* a failed client's: its batch is over */
	memcpy(page,
		batch_bytes(c->space.held[value >> HELD_SLOT_BITS], value & (BLOCK_PAGES - 1)),
		PAGE_SIZE);
	return 0;
}

/* Can these be recorded as RESIDENT without memory that there isn't? If not, they are answered
 * later: nobody waits with a gate held on behalf of a fault. */
static bool recordable(struct client *c, uint64_t addr, unsigned pages)
{
	uint64_t end = addr + pages * PAGE_SIZE;

	for (; addr < end; addr = (addr | (BLOCK_SIZE - 1)) + 1)
		if (!space_ready(&c->space, addr))
			return false;
	return true;
}

static void made_resident(struct client *c, uint64_t addr, uint64_t bytes)
{
	for (uint64_t a = addr; a < addr + bytes; a += PAGE_SIZE)
		space_set_state(&c->space, a, PAGE_RESIDENT);
}

/* Of a child without an agent nobody can tell later what it has, and it can lose a page without
 * an event (guards, and memory that is wiped on fork, after shim_touch_in_child). So before
 * anybody goes on who waited for it, it is written down. */
static int copy_in(
	struct client *c, uint64_t addr, const void *from, uint64_t len, uint64_t *ret_done)
{
	if (c->pagemap >= 0)
		return uffd_copy(c->uffd, addr, from, len, ret_done);
	journal_add(c->journal, JOURNAL_RESTORING, addr, addr + len, 0, 0);
	int r = uffd_copy_asleep(c->uffd, addr, from, len, ret_done);
	journal_add(c->journal, JOURNAL_RESTORED, addr,
		addr + *ret_done + (r == -EEXIST ? PAGE_SIZE : 0), 0, 0);
	if (*ret_done > 0)
		uffd_wake(c->uffd, addr, *ret_done);
	return r;
}

int pager_restore(
	struct pager *p, struct client *c, uint64_t addr, unsigned pages, unsigned *ret_pages)
{
	unsigned n = 0;
	uint64_t done = 0;
	int r = 0;

	*ret_pages = 0;
	if (pages > PAGER_WINDOW_MAX)
		pages = PAGER_WINDOW_MAX;
	while (n < pages) {
		uint32_t e = space_entry(&c->space, addr + n * PAGE_SIZE);
		if (!entry_out(e))
			break;
		r = recordable(c, addr + n * PAGE_SIZE, 1) ? 0 : -ENOMEM;
		if (r < 0)
			break;
		r = fetch(p, c, e, p->buffer + n * PAGE_SIZE);
		if (r < 0)
			break;
		n++;
	}
	if (n == 0)
		return r;
	point(POINT_fetch);
	r = copy_in(c, addr, p->buffer, n * PAGE_SIZE, &done);
	point(POINT_copied);
	if (r == -EEXIST) {
		/* It is there, though recorded as out. What the client has, wins (rule 10). */
		atomic_fetch_add(&client_counts(c)->blocks_recovered, 1);
		made_resident(c, addr + done, PAGE_SIZE);
		uffd_wake(c->uffd, addr + done, PAGE_SIZE);
		r = 0;
	}
	made_resident(c, addr, done);
	atomic_fetch_add(&client_counts(c)->pages_restored, done / PAGE_SIZE);
	*ret_pages = (unsigned)(done / PAGE_SIZE);
	return done > 0 ? 0 : r;
}

/* How many pages to bring with one that faulted: one at first, twice as many each time that the
 * client goes on where the last answer ended. */
static unsigned window_for(struct client *c, uint64_t addr)
{
	if (addr != c->next_fault || c->window == 0)
		return 1;
	return c->window < PAGER_WINDOW_MAX / 2 ? c->window * 2 : PAGER_WINDOW_MAX;
}

/* Pages from addr on that are known to be holes: no record, and nothing in the page table, not
 * even a guard. */
static unsigned hole_pages(struct client *c, uint64_t addr, unsigned pages)
{
	const struct region *r = space_region_at(&c->space, addr);
	uint8_t here[PAGER_WINDOW_MAX];
	unsigned n = 1;

	if (pages <= 1 || !r || c->pagemap < 0)
		return 1;
	if (pages > (r->end - addr) / PAGE_SIZE)
		pages = (unsigned)((r->end - addr) / PAGE_SIZE);
	if (pagemap_read(c->pagemap, addr, pages, here) < 0)
		return 1;
	while (n < pages && here[n] == PAGE_NONE &&
		!entry_out(space_entry(&c->space, addr + n * PAGE_SIZE)))
		n++;
	return n;
}

/* A first touch, a page that the program discarded, or one that vanished without an event
 * (reclaimed after MADV_FREE). */
static int answer_zeros(struct client *c, const struct fault *f, unsigned *ret_pages)
{
	unsigned pages = f->write ? hole_pages(c, f->addr, *ret_pages) : 1;
	uint64_t done = 0;
	int r;

	if (!recordable(c, f->addr, pages))
		return -ENOMEM;
	if (f->write)
		r = uffd_copy(c->uffd, f->addr, zeros, pages * PAGE_SIZE, &done);
	else
		r = uffd_zero(c->uffd, f->addr, PAGE_SIZE, &done);
	point(POINT_zeroed);
	if (r == -EEXIST && done == 0) {
		uffd_wake(
			c->uffd, f->addr, PAGE_SIZE); /* answered already: it was read twice */
		made_resident(c, f->addr, PAGE_SIZE);
		return *ret_pages = 1, 0;
	}
	made_resident(c, f->addr, done);
	atomic_fetch_add(&client_counts(c)->zero_faults, 1);
	*ret_pages = (unsigned)(done / PAGE_SIZE);
	return done > 0 ? 0 : r;
}

/* 0: answered, or nobody waits any more. -EAGAIN, -ENOMEM: later. -ESRCH. */
static int answer(struct pager *p, struct client *c, const struct fault *f)
{
	unsigned pages = window_for(c, f->addr);
	bool out = entry_out(space_entry(&c->space, f->addr));
	int r;

	if (c->failed)
		return 0;
	point(POINT_answer);
	if (!out && space_was_unmapped(&c->space, f->addr))
		return -EAGAIN; /* or not: settle_forget finds out */
	if (out)
		r = pager_restore(p, c, f->addr, pages, &pages);
	else
		r = answer_zeros(c, f, &pages);
	if (r == -EBADMSG) {
		stop_client(c, f->addr);
		return 0;
	}
	if (r == -ENOENT || r == -EINVAL) {
		/* Unmapped, or not registered any more: the access will find that out itself.
		 */
		uffd_wake(c->uffd, f->addr, PAGE_SIZE);
		return 0;
	}
	if (r < 0)
		return r;
	c->window = pages ? pages : 1;
	c->next_fault = f->addr + c->window * PAGE_SIZE;
	uint64_t ns = worker_now_ns() - f->read_ns;
	histogram_add(&p->latency, ns);
	atomic_fetch_add(&client_counts(c)->faults, 1);
	atomic_fetch_add(&client_counts(c)->stall_us, (ns + 500) / 1000);
	return 0;
}

/* ---- messages ---- */

static void defer(struct client *c, const struct uffd_msg *m)
{
	uint64_t addr = m->arg.pagefault.address & PAGE_MASK;

	if (c->deferred_count == DEFERRED_MAX) {
		/* No room to remember it: the thread faults again, and is read again. */
		uffd_wake(c->uffd, addr, PAGE_SIZE);
		return;
	}
	c->deferred[c->deferred_count++] = (struct fault){.addr = addr,
		.read_ns = worker_now_ns(),
		.write = m->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE};
}

static void on_fault(struct client *c, const struct uffd_msg *m)
{
	if (m->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP)
		restorer_ring(c->worker->restorer, c); /* the shim wants something */
	else
		defer(c, m);
}

void pager_apply(struct client *c, const struct uffd_msg *m)
{
	switch (m->event) {
	case UFFD_EVENT_FORK:
		birth_fork(c, (int)m->arg.fork.ufd);
		point(POINT_forked);
		break;
	case UFFD_EVENT_REMAP:
		point(POINT_remap);
		space_remap(&c->space, m->arg.remap.from, m->arg.remap.to, m->arg.remap.len);
		atomic_fetch_add(&client_counts(c)->events_remap, 1);
		point(POINT_remapped);
		break;
	case UFFD_EVENT_REMOVE:
		point(POINT_remove);
		space_remove(&c->space, m->arg.remove.start, m->arg.remove.end);
		atomic_fetch_add(&client_counts(c)->events_remove, 1);
		point(POINT_removed);
		break;
	case UFFD_EVENT_UNMAP:
		point(POINT_unmap);
		space_unmap(&c->space, m->arg.remove.start, m->arg.remove.end);
		atomic_fetch_add(&client_counts(c)->events_unmap, 1);
		point(POINT_unmapped);
		break;
	default:
		log_warn("client %d: unknown userfaultfd event 0x%x", (int)c->pid, m->event);
		break;
	}
	c->clock++;
	point(POINT_apply);
}

void pager_take(struct client *c, const struct uffd_msg *m)
{
	if (m->event == UFFD_EVENT_PAGEFAULT)
		on_fault(c, m);
	else
		sequence_add(c, m);
}

/* A program that made its userfaultfd wait for us: nothing but harm can be meant. */
static void end_hostile(struct client *c)
{
	c->failed = c->hostile = true;
	log_error("client %d (%s): its userfaultfd was made to block the service; it is killed",
		(int)c->pid, c->exe);
	if (c->pidfd >= 0)
		syscall(SYS_pidfd_send_signal, c->pidfd, SIGKILL, NULL, 0);
}

/* Of the calling thread: a timer is bound to the one that made it. */
static bool set_alarm(struct pager *p, long ns)
{
	/* Again and again, for one that comes just before the read would be lost. */
	const struct itimerspec in = {.it_value.tv_nsec = ns, .it_interval.tv_nsec = ns};

	if (!p->has_alarm) {
		struct sigevent e = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
		e._sigev_un._tid = gettid();
		p->has_alarm = timer_create(CLOCK_MONOTONIC, &e, &p->alarm) == 0;
	}
	return p->has_alarm && timer_settime(p->alarm, 0, &in, NULL) == 0;
}

void pager_leave_thread(struct pager *p)
{
	if (p->has_alarm)
		timer_delete(p->alarm);
	p->has_alarm = false;
}

/* A forked child's open file doesn't take RWF_NOWAIT, and once it has, or had, an agent it has
 * the file too, and can clear its O_NONBLOCK between any two calls of ours. So a read that
 * waits is interrupted. */
static ssize_t read_forked(struct pager *p, struct client *c, void *to, size_t size)
{
	bool shared = c->pagemap >= 0;

	if (shared) {
		fcntl(c->uffd, F_SETFL, O_NONBLOCK);
		if (!set_alarm(p, ALARM_NS))
			return errno = EINTR, -1; /* later */
	}
	ssize_t n = read(c->uffd, to, size);
	int error = errno;
	if (shared)
		set_alarm(p, 0);
	/* A signal that comes otherwise interrupts a read that doesn't wait, too. */
	if (n < 0 && error == EINTR && !(fcntl(c->uffd, F_GETFL) & O_NONBLOCK))
		end_hostile(c);
	errno = error;
	return n;
}

/* Of messages that were read into the journal's room, events stay there. */
static void note_read(struct journal *j, const struct uffd_msg *msg, unsigned count)
{
	unsigned events = 0;

	for (unsigned i = 0; i < count; i++)
		events += msg[i].event != UFFD_EVENT_PAGEFAULT;
	if (events > 0)
		journal_keep(j, count);
	else
		journal_discard(j, count);
}

static void points_read(const struct uffd_msg *msg, unsigned count)
{
	static const enum point of[UINT8_MAX + 1] = {[UFFD_EVENT_FORK] = POINT_read_fork,
		[UFFD_EVENT_REMAP] = POINT_read_remap,
		[UFFD_EVENT_REMOVE] = POINT_read_remove,
		[UFFD_EVENT_UNMAP] = POINT_read_unmap};

	point(POINT_read);
	for (unsigned i = 0; points_chosen && i < count; i++)
		if (msg[i].event != UFFD_EVENT_PAGEFAULT)
			point(of[msg[i].event]);
}

/* Is something there all the same? A FORK stays queued, and its client waits, until there is a
 * descriptor and memory for it. After that, or a signal, no edge will tell of it again. */
static bool note_error(struct pager *p, struct client *c, int error)
{
	if (error == 0 || error == EAGAIN || error == ESRCH)
		return false;
	if (error == EMFILE || error == ENFILE)
		trouble_set(p->worker, TROUBLE_FILES, true);
	else if (error != EINTR && error != c->read_error) {
		c->read_error = error;
		log_warn("client %llu (%s): its userfaultfd can't be read: %s; it is tried "
			 "again and again",
			(unsigned long long)c->id, c->exe, strerror(error));
	}
	return true;
}

int pager_read(struct pager *p, struct client *c, struct uffd_msg *msg)
{
	unsigned room = PAGER_MESSAGES;
	/* Straight into the journal: what the kernel has told is told once. */
	struct uffd_msg *to = c->journal ? journal_room(c->journal, &room) : msg;
	const size_t size = room * sizeof(*msg);
	struct iovec iov = {to, size};
	ssize_t n;

	/* O_NONBLOCK is a flag of the open file, which an attached client has too: it can't be
	 * relied on. */
	if (c->parent)
		n = read_forked(p, c, to, size);
	else
		n = preadv2(c->uffd, &iov, 1, -1, RWF_NOWAIT);
	int error = n < 0 ? errno : 0;
	c->read_again = note_error(p, c, error);
	if (n < 0)
		return error == ESRCH ? -ESRCH : 0;
	unsigned count = (unsigned)((size_t)n / sizeof(*msg));
	if (c->journal) {
		memcpy(msg, to, count * sizeof(*msg));
		note_read(c->journal, msg, count);
	}
	for (unsigned i = 0; i < count; i++)
		if (msg[i].event == UFFD_EVENT_FORK)
			birth_read_fork(c, (int)msg[i].arg.fork.ufd);
	points_read(msg, count);
	return (int)count;
}

/* Reads once. Returns the number of messages, 0 when there are none. */
static int read_some(struct pager *p, struct client *c)
{
	struct uffd_msg msg[PAGER_MESSAGES];
	int count = pager_read(p, c, msg);

	for (int i = 0; i < count; i++)
		pager_take(c, &msg[i]);
	return count;
}

/* Tries every deferred fault once; keeps those that must wait. Where one found no memory, the
 * next wouldn't either, and each such try takes long. */
static int answer_deferred(struct pager *p, struct client *c)
{
	unsigned kept = 0;
	int r = 0;

	for (unsigned i = 0; i < c->deferred_count; i++) {
		if (r != -ESRCH && r != -ENOMEM)
			r = answer(p, c, &c->deferred[i]);
		if (r < 0)
			c->deferred[kept++] = c->deferred[i];
	}
	c->deferred_count = kept;
	c->starved = r == -ENOMEM;
	return r == -ESRCH ? r : 0;
}

int pager_drain(struct pager *p, struct client *c)
{
	int r, tries = 0, reads = 0;

	if (client_state(c) == CLIENT_GONE)
		return -ESRCH;
	if (c->hostile)
		return 0;
	if (sequence_pause(c)) {
		worker_retry_later(p->worker, c, RETRY_NS);
		return 0;
	}
	if (c->birth) {
		r = birth_settle(p, c);
		if (r < 0 && r != -ESRCH)
			worker_retry_later(p->worker, c, RETRY_BIRTH_NS);
		if (r < 0)
			return r == -ESRCH ? r : 0;
	}
	for (;;) {
		r = read_some(p, c);
		if (r < 0)
			return r;
		bool paused = sequence_pause(c), more = r > 0 && ++reads < READS_MAX && !paused;
		if (c->waiting_count > 0 && !more && !uffd_fence_up(c->uffd)) {
			journal_add(c->journal, JOURNAL_FLUSH, 0, 0, 0, 0);
			point(POINT_flush_told);
			sequence_flush(c);
		}
		/* What is in doubt is settled before anything is answered from it. */
		r = settle_doubt(c);
		if (r == -ESRCH)
			return r;
		if (r == 0 && c->deferred_count > 0) {
			settle_calm(c); /* a fault may wait for it (answer) */
			r = answer_deferred(p, c);
			if (r < 0)
				return r;
		}
		bool waits = c->deferred_count > 0 || space_in_doubt(&c->space);
		if (!more && (!waits || paused || c->starved || ++tries == FENCE_TRIES))
			break;
	}
	settle_calm(c);
	if (c->deferred_count > 0 || c->waiting_count > 0 || space_unsettled(&c->space) ||
		c->read_again || reads == READS_MAX)
		worker_retry_later(p->worker, c, c->starved ? RETRY_STARVED_NS : RETRY_NS);
	return 0;
}
