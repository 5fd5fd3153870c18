/* Runs beside the program on a stack of its own. No libc call, no TLS, no global that is
 * written: the thread pointer is still that of the thread that started us. */
#include "agent.h"
#include "kernel.h"
#include "link.h"
#include "protocol.h"
#include "rawcall.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>

enum {
	/* Between two orders of one batch the service needs some 10 to 30 us; a sleep and a
	 * wake-up cost 50 us when the CPU has gone idle, so it pays to look a little longer. */
	SPIN_ROUNDS = 3000,
	KEPT_FDS = 6,
	POLLED_FDS = 4,
};

#if defined(__x86_64__)
#define AGENT_ARCH AUDIT_ARCH_X86_64
#else
#define AGENT_ARCH AUDIT_ARCH_AARCH64
#endif

static void agent_exit(void)
{
	for (;;)
		RAWCALL(SYS_exit_group, 0, 0, 0, 0, 0, 0);
}

/* Closes every descriptor that the program had, so that we keep none of its files open. */
static void close_others(const int *keep, int count)
{
	unsigned from = 0;

	for (;;) {
		unsigned next = ~0U;
		for (int i = 0; i < count; i++)
			if (keep[i] >= 0 && (unsigned)keep[i] >= from &&
				(unsigned)keep[i] < next)
				next = (unsigned)keep[i];
		if (next > from)
			RAWCALL(SYS_close_range, from, next == ~0U ? next : next - 1, 0, 0, 0,
				0);
		if (next == ~0U)
			return;
		from = next + 1;
	}
}

static void drop_privilege(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[2] = {{0, 0, 0}, {0, 0, 0}};

	RAWCALL(SYS_capset, &head, none, 0, 0, 0, 0);
	RAWCALL(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0);
}

/* Whoever takes the program over can write to our stack. So nothing that opens, maps, executes,
 * sends or signals, and read and write only where they can do no harm: reading the uffd would
 * steal the service's events. */
static int install_filter(const struct agent *a)
{
#define LOAD(field)	      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define IF_NOT_SKIP(value, n) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(value), 0, (n))
#define ALLOW		      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define DENY		      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM)
#define ALLOW_CALL(nr)	      IF_NOT_SKIP(nr, 1), ALLOW
/* The accumulator holds the call number before and, when this falls through, after. */
#define ALLOW_ARG(nr, arg, value)                                                              \
	IF_NOT_SKIP(nr, 4), LOAD(args[arg]), IF_NOT_SKIP(value, 1), ALLOW, DENY
#define IF_SKIP(value, n) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(value), (n), 0)
#define ALLOW_ARG_AMONG(nr, arg, a, b, c)                                                      \
	IF_NOT_SKIP(nr, 6), LOAD(args[arg]), IF_SKIP(a, 2), IF_SKIP(b, 1), IF_NOT_SKIP(c, 1),  \
		ALLOW, DENY
	struct sock_filter code[] = {
		LOAD(arch),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AGENT_ARCH, 1, 0),
		DENY,
		LOAD(nr),
		ALLOW_ARG(SYS_ioctl, 1, UFFDIO_MOVE),
		ALLOW_ARG_AMONG(
			SYS_madvise, 2, MADV_DONTNEED, MADV_POPULATE_WRITE, MADV_COLLAPSE),
		ALLOW_ARG(SYS_read, 0, a->doorbell),
		ALLOW_ARG(SYS_write, 0, a->socket),
		ALLOW_ARG(SYS_futex, 1, FUTEX_WAKE),
		ALLOW_CALL(SYS_ppoll),
		ALLOW_CALL(SYS_exit_group),
		DENY,
	};
	struct sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};

	return (int)RAWCALL(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program, 0, 0, 0);
}

static int send_ready(const struct agent *a)
{
	struct message_ready ready = {
		.head = {PROTOCOL_MAGIC, PROTOCOL_VERSION, MESSAGE_READY},
		.reserved = {0, 0},
		.staging = a->staging,
		.bell = a->bell,
	};
	struct iovec iov = {&ready, sizeof(ready)};
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr msg = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = CMSG_SPACE(sizeof(int))};

	control.head.cmsg_level = SOL_SOCKET;
	control.head.cmsg_type = SCM_RIGHTS;
	control.head.cmsg_len = CMSG_LEN(sizeof(int));
	*(int *)(void *)CMSG_DATA(&control.head) = a->uffd;
	return (int)RAWCALL(SYS_sendmsg, a->socket, &msg, MSG_NOSIGNAL, 0, 0, 0);
}

static void mark_moved(struct link *l, uint32_t slot, uint64_t bytes)
{
	for (uint32_t i = slot; i < slot + bytes / LINK_PAGE; i++)
		l->head.moved[i / 64] |= 1ULL << i % 64;
}

/* Moves what can be moved. A page that the kernel refuses is passed over; a fence stops us, for
 * only the service can let it down. */
static void move_run(const struct agent *a, uint64_t from, uint32_t slot, uint32_t pages)
{
	struct link_head *head = &a->link->head;
	uint64_t to = a->staging + (uint64_t)slot * LINK_PAGE;
	uint64_t done = 0, len = (uint64_t)pages * LINK_PAGE, step = len;

	while (done < len) {
		struct uffdio_move m = {.dst = to + done,
			.src = from + done,
			.len = step < len - done ? step : len - done,
			.mode = 1 /* UFFDIO_MOVE_MODE_DONTWAKE: nobody waits in staging */};
		long r = RAWCALL(SYS_ioctl, a->uffd, UFFDIO_MOVE, &m, 0, 0, 0);
		uint64_t moved = r == 0 ? m.len : m.move > 0 ? (uint64_t)m.move : 0;

		if (moved > 0) {
			/* Rule 2: moved and copied within one order. */
			rawcopy(a->link->data[slot + done / LINK_PAGE],
				(const void *)(uintptr_t)(to + done), moved);
			mark_moved(a->link, slot + (uint32_t)(done / LINK_PAGE), moved);
			done += moved;
			continue; /* when short, the next call tells why */
		}
		/* A range that reaches into a second mapping is refused as a whole. */
		if (r == -EINVAL && m.len > LINK_PAGE) {
			step = LINK_PAGE;
			continue;
		}
		head->error = (int32_t)r;
		if (r == -EAGAIN)
			return;
		head->busy_pages += r == -EBUSY;
		done += LINK_PAGE;
	}
}

static void execute(const struct agent *a)
{
	struct link_head *head = &a->link->head;
	uint32_t op = head->op, slot = head->slot, pages = head->pages;

	head->error = 0;
	head->busy_pages = 0;
	for (unsigned i = 0; i < LINK_SLOTS / 64; i++)
		head->moved[i] = 0;
	if (slot >= LINK_SLOTS || pages == 0 || pages > LINK_SLOTS - slot)
		head->error = -EINVAL;
	else if (op == LINK_MOVE)
		move_run(a, head->addr, slot, pages);
	else if (op == LINK_ZAP)
		head->error =
			(int32_t)RAWCALL(SYS_madvise, a->staging + (uint64_t)slot * LINK_PAGE,
				(uint64_t)pages * LINK_PAGE, MADV_DONTNEED, 0, 0, 0);
	else if (op == LINK_UNSHARE || op == LINK_COLLAPSE)
		head->error = (int32_t)RAWCALL(SYS_madvise, head->addr,
			(uint64_t)pages * LINK_PAGE,
			op == LINK_UNSHARE ? MADV_POPULATE_WRITE : MADV_COLLAPSE, 0, 0, 0);
	else
		head->error = -EINVAL;
}

static void run_orders(const struct agent *a)
{
	struct link_head *head = &a->link->head;
	uint32_t done = atomic_load_explicit(&head->done_seq, memory_order_relaxed);

	for (unsigned idle = 0;;) {
		if (atomic_load_explicit(&head->exit, memory_order_relaxed))
			agent_exit();
		uint32_t seq = atomic_load_explicit(&head->seq, memory_order_acquire);
		if (seq == done) {
			if (!atomic_load_explicit(&head->busy, memory_order_relaxed) ||
				++idle > SPIN_ROUNDS)
				return;
			rawpause();
			continue;
		}
		execute(a);
		done = seq;
		idle = 0;
		atomic_store(&head->done_seq, done);
		if (atomic_load(&head->waiting))
			RAWCALL(SYS_futex, &head->done_seq, FUTEX_WAKE, 1, 0, 0, 0);
	}
}

/* Sleeps until there is something to do. */
static void agent_wait(const struct agent *a, struct pollfd *fds)
{
	struct link_head *head = &a->link->head;
	char rung[64];

	atomic_store(&head->asleep, 1);
	/* An order that was posted before `asleep` could be seen is found here. */
	if (atomic_load(&head->seq) == atomic_load(&head->done_seq))
		RAWCALL(SYS_ppoll, fds, POLLED_FDS, 0, 0, 0, 0);
	atomic_store(&head->asleep, 0);
	if (fds[0].revents & POLLIN)
		RAWCALL(SYS_read, a->doorbell, rung, sizeof(rung), 0, 0, 0);
	else if (fds[0].revents)
		fds[0].fd = -1; /* the service is gone */
}

int agent_main(void *arg)
{
	struct agent *a = arg;

	a->pidfd = (int)RAWCALL(SYS_pidfd_open, a->program, 0, 0, 0, 0, 0);
	int keep[KEPT_FDS] = {
		a->uffd, a->socket, a->doorbell, a->link_fd, a->exec_pipe, a->pidfd};

	close_others(keep, KEPT_FDS);
	/* Signals to the program's process group or terminal aren't for us. */
	RAWCALL(SYS_setsid, 0, 0, 0, 0, 0, 0);
	RAWCALL(SYS_prctl, PR_SET_NAME, "larder-agent", 0, 0, 0, 0);
	if (a->pidfd < 0 || (a->join && agent_join(a) < 0))
		agent_exit();
	drop_privilege();
	if ((!a->join && send_ready(a) < 0) || install_filter(a) < 0)
		agent_exit();

	struct pollfd fds[POLLED_FDS] = {{a->doorbell, POLLIN, 0}, {a->pidfd, POLLIN, 0},
		{a->exec_pipe, 0, 0}, {a->socket, 0, 0}};
	for (;;) {
		agent_wait(a, fds);
		if (fds[1].revents)
			agent_exit(); /* the program ended */
		if (fds[2].revents) {
			/* Exec, or just closefrom(3): the service can tell (kcmp). */
			atomic_store(&a->link->head.hung_up, 1);
			RAWCALL(SYS_write, a->socket, "h", 1, 0, 0, 0);
			fds[2].fd = -1;
		}
		if (fds[3].revents && atomic_load(&a->link->head.accepted) == LINK_PENDING) {
			/* It died before anybody could know of us. Nothing was taken. */
			atomic_store(&a->link->head.closed, LINK_LEFT);
			agent_exit();
		}
		if (fds[3].revents)
			fds[3].fd = -1; /* service gone: stay, we keep the uffd open */
		for (int i = 0; i < POLLED_FDS; i++)
			fds[i].revents = 0;
		run_orders(a);
	}
}
