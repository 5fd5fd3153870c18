#include "order.h"
#include "batch.h"
#include "cleanup.h"
#include "journal.h"
#include "log.h"
#include "pagemap.h"
#include "points.h"
#include "pulse.h"
#include "rawcall.h"
#include "uffd.h"
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* (A test that is about something else has more of it.) */
#ifndef PATIENCE
#define PATIENCE 1
#endif
enum {
	/* Some 20 us: a run of 64 pages takes the agent 15 to 40 us when it is awake. */
	SPIN_ROUNDS = 2000,
	/* The gate is held for at most this long: a stall that a client's threads can feel, but
	 * longer than a busy machine mostly lets a runnable process wait. */
	MOVE_TIMEOUT_MS = 20 * PATIENCE,
	/* Nobody waits for a zap. */
	ZAP_TIMEOUT_MS = 2000 * PATIENCE,
	ADVICE_TIMEOUT_MS = 2000 * PATIENCE,
	/* Of all: only an agent that waits for a CPU is worth so much. After so many looks in
	 * a row that find it asleep it is taken for stopped or frozen, for with an order to
	 * carry out it sleeps for moments only. Others' evictions wait meanwhile. */
	LOOK_MS = 20,
	LOOKS_ASLEEP = 10,
};

bool order_answered(const struct client *c)
{
	return atomic_load_explicit(&c->link->head.done_seq, memory_order_acquire) ==
	       c->order_seq;
}

/* Has it a CPU, or waits for one? */
static bool agent_runs(const struct client *c)
{
	char path[32], text[512], state;
	pid_t pid = atomic_load(&c->agent_pid);

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	_cleanup_fd_ int fd = pid == 0 ? -1 : open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return false;
	text[n] = '\0';
	/* Behind the name, which may have anything in it. */
	const char *name_end = strrchr(text, ')');
	return name_end && sscanf(name_end + 1, " %c", &state) == 1 && state == 'R';
}

/* Sleeps until it is answered, for LOOK_MS at most. */
static void sleep_for_answer(struct client *c, uint64_t ns)
{
	_Atomic uint32_t *done = &c->link->head.done_seq;
	uint32_t seen = atomic_load(done);
	struct timespec left = {.tv_nsec = LOOK_MS * 1000000L};

	if (ns < LOOK_MS * 1000000ULL)
		left.tv_nsec = (long)ns;
	if (seen != c->order_seq)
		syscall(SYS_futex, done, FUTEX_WAIT, seen, &left, NULL, 0);
}

static void ring_agent(int doorbell)
{
	/* Full: it was rung already. Broken: there is no agent; its answer will not come. */
	if (write(doorbell, "o", 1) < 0 && errno != EAGAIN && errno != EPIPE)
		log_debug("an agent's doorbell: %s", strerror(errno));
}

static bool wait_answer(struct client *c, unsigned timeout_ms)
{
	struct link_head *head = &c->link->head;
	uint64_t now = worker_now_ns(), until = now + timeout_ms * 1000000ULL;
	unsigned asleep = 0;

	for (unsigned i = 0; i < SPIN_ROUNDS; i++) {
		if (order_answered(c))
			return true;
		rawpause();
	}
	atomic_store(&head->waiting, 1);
	while (!order_answered(c) && (now = worker_now_ns()) < until && asleep < LOOKS_ASLEEP) {
		sleep_for_answer(c, until - now);
		if (order_answered(c) || now + LOOK_MS * 1000000ULL > until)
			continue;
		/* Was it never rung? The pipe found no memory for it. */
		if (atomic_load(&head->asleep))
			ring_agent(c->doorbell);
		if (!client_agent_alive(c))
			break;
		asleep = agent_runs(c) ? 0 : asleep + 1;
	}
	atomic_store(&head->waiting, 0);
	return order_answered(c);
}

static void post(
	struct client *c, enum link_op op, uint64_t addr, unsigned slot, unsigned pages)
{
	struct link_head *head = &c->link->head;

	head->op = op;
	head->addr = addr;
	head->slot = slot;
	head->pages = pages;
	c->clock++;
	atomic_store(&head->seq, ++c->order_seq);
	point(POINT_posted);
	if (atomic_load(&head->asleep))
		ring_agent(c->doorbell);
}

void order_remind(struct client *c)
{
	ring_agent(c->doorbell);
}

void order_busy(struct client *c, bool busy)
{
	atomic_store_explicit(&c->link->head.busy, busy, memory_order_relaxed);
}

int order_open(struct client *c)
{
	if (!order_answered(c))
		return -EBUSY;
	return uffd_register(
		c->uffd, c->staging, sizeof(c->link->data), UFFDIO_REGISTER_MODE_WP);
}

void order_close(struct client *c)
{
	/* From here on a late MOVE has to fail (rule 2): it isn't for want of memory that it
	 * would not. */
	while (uffd_unregister(c->uffd, c->staging, sizeof(c->link->data)) == -ENOMEM &&
		!client_memory_gone(c))
		pulse_wait_for_memory();
}

static bool is_moved(const struct order_result *res, unsigned slot)
{
	return res->moved[slot / 64] >> slot % 64 & 1;
}

/* Copies what staging holds into the link, in the agent's stead. By the descriptor, not by pid:
 * that number may be another process's by now, or the process another program. */
static int copy_for_agent(struct client *c, unsigned slot)
{
	ssize_t n;

	for (;;) {
		pulse_call_begin();
		n = pread(c->mem, c->link->data[slot], PAGE_SIZE,
			(off_t)(c->staging + slot * PAGE_SIZE));
		bool no_memory = n < 0 && errno == ENOMEM;
		pulse_call_end();
		if (!no_memory)
			break;
		pulse_wait_for_memory();
	}
	if (n == (ssize_t)PAGE_SIZE)
		return 0;
	return pagemap_alive(c->pagemap) ? -EIO : -ESRCH;
}

/* Once an order was given there is no going back: what it moved has to be found. */
static int look_at_pages(struct client *c, uint64_t addr, unsigned count, uint8_t *ret)
{
	int r;

	while ((r = pagemap_read(c->pagemap, addr, count, ret)) == -ENOMEM)
		pulse_wait_for_memory();
	return r == 0 || r == -ESRCH ? r : -EIO;
}

static bool is_zero(const uint8_t *page)
{
	return page[0] == 0 && memcmp(page, page + 1, PAGE_SIZE - 1) == 0;
}

/* What of an order lies in staging, besides what was reported. Once staging isn't registered
 * any more, the kernel may make a huge page of it and fill its holes: zeros of a page that is
 * still where it was are no page. (What is there may as well be another's by now, the event of
 * which is still to be read; then zeros are what a page without a record reads.) How many, or
 * an error. */
static int find_moved(struct client *c, uint64_t addr, unsigned first, unsigned count,
	struct order_result *res)
{
	uint8_t staged[LINK_SLOTS], left[LINK_SLOTS];
	int found = 0;
	int r = look_at_pages(c, c->staging + first * PAGE_SIZE, count, staged);

	if (r == 0)
		r = look_at_pages(c, addr, count, left);
	for (unsigned i = 0; i < count && r == 0; i++) {
		unsigned slot = first + i;
		/* (Or it is full since an earlier order.) */
		if (is_moved(res, slot) || staged[i] == PAGE_NONE ||
			(c->batch && batch_has(c->batch, slot)))
			continue;
		r = copy_for_agent(c, slot);
		if (r == 0 && left[i] == PAGE_HERE && is_zero(c->link->data[slot]))
			continue;
		res->moved[slot / 64] |= 1ULL << slot % 64;
		found++;
	}
	return r < 0 ? r : found;
}

static int revoke_order(struct client *c, uint64_t addr, unsigned first, unsigned count,
	struct order_result *res)
{
	order_close(c); /* from here on a late MOVE fails */
	point(POINT_revoked);
	atomic_fetch_add(&client_counts(c)->orders_revoked, 1);
	res->error = -ETIME;
	int r = find_moved(c, addr, first, count, res);
	return r < 0 ? r : 0;
}

/* The kernel doesn't always tell of all that it has moved. Linux 6.18.0 to 6.18.50 and 6.19 to
 * 7.2.4 don't count what is moved by a second try within the call (fixed by "userfaultfd: reset
 * err to be 0 when move_pages_ptes succeeded"; some ten pages of 10^8), and none does what is
 * moved when it can't write its answer. They would be lost with the next zap. */
static int take_answer(struct client *c, uint64_t addr, unsigned first, unsigned count,
	struct order_result *res)
{
	const struct link_head *head = &c->link->head;
	bool all = true;

	/* Read once each; only slots that were ordered count. */
	for (unsigned i = first; i < first + count; i++) {
		res->moved[i / 64] |= head->moved[i / 64] & 1ULL << i % 64;
		all &= is_moved(res, i);
	}
	res->error = head->error;
	res->busy_pages = head->busy_pages;
	int r = all ? 0 : find_moved(c, addr, first, count, res);
	if (r > 0)
		atomic_fetch_add(&client_counts(c)->moves_unreported, (unsigned)r);
	return r < 0 ? r : 0;
}

int order_move(struct client *c, uint64_t block, unsigned first, unsigned count,
	struct order_result *ret)
{
	struct order_result res = {.error = 0};
	uint64_t addr = (block << BLOCK_SHIFT) + first * PAGE_SIZE;

	for (unsigned i = first; i < first + count; i++)
		c->link->slot[i] = (struct link_slot){
			.addr = addr + (i - first) * PAGE_SIZE, .seq = c->order_seq + 1};
	journal_add(c->journal, JOURNAL_ORDER, block, first, first + count, 0);
	point(POINT_order_told);
	post(c, LINK_MOVE, addr, first, count);
	point(POINT_order_posted);
	c->staging_used = true;
	int r = wait_answer(c, MOVE_TIMEOUT_MS) ? take_answer(c, addr, first, count, &res)
						: revoke_order(c, addr, first, count, &res);
	if (r == 0)
		*ret = res;
	return r;
}

int order_zap(struct client *c)
{
	if (!c->staging_used)
		return 0;
	/* After a revoked order the agent still owes its answer; mostly it only waits for a
	 * CPU. */
	if (!order_answered(c) && !wait_answer(c, ZAP_TIMEOUT_MS))
		return -EBUSY;
	post(c, LINK_ZAP, 0, 0, LINK_SLOTS);
	point(POINT_zap_posted);
	if (!wait_answer(c, ZAP_TIMEOUT_MS))
		return -ETIME;
	if (c->link->head.error < 0)
		return -EIO;
	memset(c->link->slot, 0, sizeof(c->link->slot));
	c->staging_used = false;
	return 0;
}

static int order_advice(struct client *c, enum link_op op, uint64_t addr, unsigned pages)
{
	if (!order_answered(c))
		return -EBUSY;
	post(c, op, addr, 0, pages);
	return wait_answer(c, ADVICE_TIMEOUT_MS) ? c->link->head.error : -ETIME;
}

int order_unshare(struct client *c, uint64_t addr, unsigned pages)
{
	return order_advice(c, LINK_UNSHARE, addr, pages);
}

int order_collapse(struct client *c, uint64_t block)
{
	return order_advice(c, LINK_COLLAPSE, block << BLOCK_SHIFT, BLOCK_PAGES);
}

void order_exit(struct link *link, int doorbell)
{
	if (!link || doorbell < 0)
		return;
	atomic_store(&link->head.exit, 1);
	ring_agent(doorbell);
}
