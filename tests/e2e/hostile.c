/* A client that means harm. It speaks the attach protocol itself, one misbehaviour a run:
 *
 *   hostile MODE [SEED]
 *
 * It prints "ready" when it has done its worst, or is about to. Modes that the service must
 * turn away check that it does, and end: 0, or 1 and a reason. The others go on until they are
 * killed. Nothing here waits for a time, but for what the service does. */
#include "hostile.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	GARBAGE_ROUNDS = 300,
	CONNECTIONS = 400,
	LINGERING = 16,
	QUIET_MS = 300,
	MESSAGE_MAX = 20000,
};

static void ready(void)
{
	puts("ready");
	fflush(stdout);
}

static void stay(void)
{
	ready();
	for (;;)
		pause();
}

static void serve_nothing(struct hostile *h)
{
	(void)h;
	for (;;)
		pause();
}

/* ---- turned away ---- */

static void garbage(void)
{
	static uint8_t message[MESSAGE_MAX];

	for (int i = 0; i < GARBAGE_ROUNDS; i++) {
		int fd = dial();
		bool welcomed = roll() % 2;
		if (welcomed)
			say_hello(fd);
		roll_bytes(message, sizeof(message));
		const struct message_head head = {
			PROTOCOL_MAGIC, PROTOCOL_VERSION, (uint16_t)(roll() % 5)};
		size_t size = roll() % (roll() % 2 ? 128 : sizeof(message));
		if (roll() % 2)
			memcpy(message, &head, sizeof(head));
		/* Neither a HELLO nor a READY by accident. */
		if (size == sizeof(struct message_hello) ||
			size == sizeof(struct message_ready))
			size++;
		say(fd, message, size, NULL, 0);
		expect_end(fd, "garbage is taken");
	}
}

static void wrong_head(void)
{
	const struct message_head heads[] = {
		{PROTOCOL_MAGIC + 1, PROTOCOL_VERSION, MESSAGE_HELLO},
		{PROTOCOL_MAGIC, PROTOCOL_VERSION + 1, MESSAGE_HELLO},
		{PROTOCOL_MAGIC, 0, MESSAGE_HELLO}, {PROTOCOL_MAGIC, PROTOCOL_VERSION, 0},
		{PROTOCOL_MAGIC, PROTOCOL_VERSION, MESSAGE_WELCOME},
		{PROTOCOL_MAGIC, PROTOCOL_VERSION, MESSAGE_READY}};

	for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
		const struct message_hello hello = {.head = heads[i]};
		int fd = dial();
		say(fd, &hello, sizeof(hello), NULL, 0);
		expect_end(fd, "a wrong head is taken");
	}
	struct message_hello endless = {
		.head = {PROTOCOL_MAGIC, PROTOCOL_VERSION, MESSAGE_HELLO}};
	memset(endless.policy, 'x', sizeof(endless.policy));
	int fd = dial();
	say(fd, &endless, sizeof(endless), NULL, 0);
	expect_end(fd, "a policy without an end is taken");
}

static void out_of_order(void)
{
	struct hostile h = introduce();
	struct hostile early = h;

	early.socket = dial();
	say_ready(&early, (uintptr_t)h.staging, (uintptr_t)h.bell, &h.uffd, 1);
	expect_end(early.socket, "READY before WELCOME is taken");
	say_hello(h.socket);
	expect_end(h.socket, "a second HELLO is taken");
}

/* After READY: who asks by the link must hear that nobody will answer. */
static void expect_refused(const struct hostile *h, const char *what)
{
	expect_end(h->socket, what);
	if (!atomic_load(&h->link->head.closed)) {
		errno = 0;
		die("the link of one that was turned away isn't closed");
	}
}

static void descriptors(void)
{
	const struct message_hello hello = {
		.head = {PROTOCOL_MAGIC, PROTOCOL_VERSION, MESSAGE_HELLO}};
	const size_t counts[] = {0, 2, 3, 4, 5, 12, 13, FDS_MAX};
	int fds[FDS_MAX];

	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		struct hostile h = introduce();
		for (size_t k = 0; k < FDS_MAX; k++)
			fds[k] = h.uffd;
		say_ready(&h, (uintptr_t)h.staging, (uintptr_t)h.bell, fds, counts[i]);
		expect_refused(&h, "a wrong number of descriptors is taken");
		int fd = dial();
		say(fd, &hello, sizeof(hello), fds, counts[i] ? counts[i] : 1);
		expect_end(fd, "HELLO with descriptors is taken");
		fd = dial();
		say(fd, "x", 0, fds, FDS_MAX);
		expect_end(fd, "nothing, with descriptors, is taken");
		forget(&h);
	}
}

static void not_uffd(void)
{
	int pair[2], files[4];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
		die("socketpair");
	files[0] = open("/dev/null", O_RDWR | O_CLOEXEC);
	files[1] = eventfd(0, EFD_CLOEXEC);
	files[2] = memfd_create("anon_inode:[userfaultfd]", MFD_CLOEXEC);
	files[3] = pair[0];
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]) + WELCOME_FDS; i++) {
		struct hostile h = introduce();
		int fd = i < WELCOME_FDS ? h.fds[i] : files[i - WELCOME_FDS];
		say_ready(&h, (uintptr_t)h.staging, (uintptr_t)h.bell, &fd, 1);
		expect_refused(&h, "what is no userfaultfd is taken");
		forget(&h);
	}
}

/* The userfaultfd of another process: the two have all addresses in common, but no memory. */
static void foreign_uffd(void)
{
	struct hostile h = introduce();
	int pair[2], fd = -1;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		die("socketpair");
	pid_t child = fork();
	if (child == 0) {
		fd = new_uffd(&h);
		say(pair[1], "u", 1, &fd, 1);
		pause();
	}
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	char byte;
	struct iovec iov = {&byte, 1};
	struct msghdr msg = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control)};
	if (child < 0 || recvmsg(pair[0], &msg, MSG_CMSG_CLOEXEC) != 1)
		die("no userfaultfd from the child");
	memcpy(&fd, CMSG_DATA(&control.head), sizeof(fd));
	say_ready(&h, (uintptr_t)h.staging, (uintptr_t)h.bell, &fd, 1);
	/* Whether it was taken shows before the child's end would end it. */
	expect_refused(&h, "a userfaultfd of another process is taken");
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
}

/* HELLO for a child, ourselves, by whoever connected. */
static void say_hello_forked(int fd)
{
	const struct message_hello hello = {
		.head = {PROTOCOL_MAGIC, PROTOCOL_VERSION, MESSAGE_HELLO},
		.flags = HELLO_FORKED};
	int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);

	say(fd, &hello, sizeof(hello), &pidfd, 1);
	close(pidfd);
}

/* Connects, and ends; its connection and its number are left. */
static int number_connects(void *ret_fd)
{
	struct message_welcome welcome;
	int fds[WELCOME_FDS], next;

	*(int *)ret_fd = dial();
	/* They are accepted one after the other. */
	next = dial();
	say_hello(next);
	return hear(next, &welcome, sizeof(welcome), fds, WELCOME_FDS) ? 0 : 1;
}

static _Atomic bool number_taken;

/* A process of that number which has our memory, and our stack: we don't go on before its end.
 */
static void *take_number(void *number)
{
	const struct clone_args args = {.flags = CLONE_VM | CLONE_VFORK,
		.set_tid = (uintptr_t)number,
		.set_tid_size = 1};

	if (syscall(SYS_clone3, &args, sizeof(args)) != 0)
		die("clone3 with a number"); /* perhaps somebody was quicker */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	atomic_store(&number_taken, true);
	for (;;)
		pause();
}

/* An agent that ended, and whose number somebody got who does share our memory. */
static void borrowed_number(void)
{
	uint8_t *stack = (uint8_t *)map(BLOCK) + BLOCK;
	struct message_welcome welcome;
	int fds[WELCOME_FDS], fd = -1, status = 0;
	pthread_t thread;
	pid_t number = clone(number_connects, stack, CLONE_VM | CLONE_FILES | SIGCHLD, &fd);

	if (number < 0 || waitpid(number, &status, 0) != number || status != 0)
		die("no connection");
	if (pthread_create(&thread, NULL, take_number, &number) != 0)
		die("pthread_create");
	while (!atomic_load(&number_taken))
		sched_yield();
	say_hello_forked(fd);
	if (hear(fd, &welcome, sizeof(welcome), fds, WELCOME_FDS))
		die("an agent that has ended is welcome");
	_exit(0);
}

/* A client's bell is write-protected. */
static void expect_taken(const struct hostile *h, uint64_t bell)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	struct pollfd end = {.fd = h->socket, .events = POLLIN};
	uint64_t word = 0;

	for (int i = 0; !(word & PM_UFFD_WP); i++) {
		if (poll(&end, 1, 10) != 0 || i == PATIENCE_MS / 10)
			die("what is right isn't taken");
		if (pread(pagemap, &word, sizeof(word),
			    (off_t)(bell / LINK_PAGE * sizeof(word))) != sizeof(word))
			die("pagemap");
	}
	close(pagemap);
}

static void addresses(void)
{
	const uint64_t kernel = 0xffff888000000000, top = (1ULL << 47) - BLOCK;
	uint64_t staging = (uintptr_t)map_aligned(STAGING), bell = (uintptr_t)map(LINK_PAGE);
	*(volatile uint8_t *)bell = 1; /* there, so that it can be write-protected */
	const struct {
		uint64_t staging, bell;
	} bad[] = {{staging + LINK_PAGE, bell}, {staging + 1, bell}, {staging, bell + 1},
		{0, bell}, {staging, 0}, {kernel, bell}, {staging, kernel}, {top, bell},
		{staging, (1ULL << 47) - LINK_PAGE}, {~(uint64_t)(BLOCK - 1), bell},
		{staging, ~(uint64_t)(LINK_PAGE - 1)}, {1ULL << 63, 1ULL << 63},
		/* The bell where nothing is, where code is. */
		{staging, LINK_PAGE},
		{staging, (uintptr_t)&addresses & ~(uintptr_t)(LINK_PAGE - 1)}};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct hostile h = introduce();
		say_ready(&h, bad[i].staging, bad[i].bell, &h.uffd, 1);
		expect_refused(&h, "a bad address is taken");
		forget(&h);
	}
	/* Nothing else was wrong with them. */
	struct hostile h = introduce();
	say_ready(&h, staging, bell, &h.uffd, 1);
	expect_taken(&h, bell);
}

static void sealed(void)
{
	struct hostile h = introduce();
	int fd = h.fds[WELCOME_FD_LINK];

	if (ftruncate(fd, 0) == 0 || ftruncate(fd, LINK_BYTES - LINK_PAGE) == 0 ||
		ftruncate(fd, LINK_BYTES + LINK_PAGE) == 0 ||
		fallocate(fd, 0, LINK_BYTES, LINK_PAGE) == 0 ||
		pwrite(fd, "x", 1, LINK_BYTES) > 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) == 0)
		die("the link can be resized or sealed");
}

/* ---- in the way ---- */

static void silent(void)
{
	for (int i = 0; i < CONNECTIONS; i++) {
		int fd = dial();
		if (i % 2)
			say_hello(fd);
	}
	stay();
}

/* One process, many clients. */
static void many(void)
{
	for (int i = 0; i < CONNECTIONS / 4; i++) {
		struct hostile h = introduce();
		say_ready(&h, (uintptr_t)h.staging, (uintptr_t)h.bell, &h.uffd, 1);
		forget(&h);
	}
	stay();
}

/* ---- descriptors that wait when they are closed ---- */

/* A connection to ourselves that is full and that nobody reads. */
static int full_connection(void)
{
	struct sockaddr_in addr = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(addr);
	const struct linger linger = {.l_onoff = 1, .l_linger = 3600};
	static const char block[65536];
	int server = socket(AF_INET, SOCK_STREAM, 0), fd = socket(AF_INET, SOCK_STREAM, 0);

	if (bind(server, (struct sockaddr *)&addr, len) < 0 || listen(server, 1) < 0 ||
		getsockname(server, (struct sockaddr *)&addr, &len) < 0 ||
		connect(fd, (struct sockaddr *)&addr, len) < 0 ||
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) < 0)
		die("no TCP");
	while (send(fd, block, sizeof(block), MSG_DONTWAIT) > 0)
		;
	return fd;
}

static void *close_one(void *fd)
{
	close((int)(intptr_t)fd);
	return NULL;
}

/* Whoever closes a lingering descriptor last waits for its peer. When the service is quicker
 * that is us: so each is closed by a thread of its own, and there are many. */
static void lingering(void)
{
	for (int i = 0; i < LINGERING; i++) {
		struct hostile h = introduce();
		pthread_t thread;
		int fd = full_connection();

		say_ready(&h, (uintptr_t)h.staging, (uintptr_t)h.bell, &fd, 1);
		if (pthread_create(&thread, NULL, close_one, (void *)(intptr_t)fd) != 0)
			die("pthread_create");
	}
	stay();
}

static void set_blocking(int fd)
{
	if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK) < 0)
		die("F_SETFL");
}

/* Flags belong to the open file, which both have: reading the userfaultfd waits from now on. */
static void serve_blocking(struct hostile *h)
{
	/* Again and again, for the service makes it non-blocking when it takes it. */
	for (;;) {
		set_blocking(h->uffd);
		sched_yield();
	}
}

static void blocking(void)
{
	attach(serve_blocking);
	stay();
}

/* Events one at a time: after each there is nothing to read for longer than the service waits.
 */
static void *discard_slowly(void *area)
{
	for (;;) {
		madvise(area, BLOCK, MADV_DONTNEED);
		poll(NULL, 0, QUIET_MS);
	}
	return NULL;
}

/* A child that was forked while it had memory with the service, and that gets its userfaultfd
 * from there: it is the agent itself, and answers nothing. False: it wasn't looked after. */
static bool join(uint8_t *prey)
{
	struct message_welcome welcome;
	struct hostile h = {.socket = dial()};

	say_hello_forked(h.socket);
	if (!hear(h.socket, &welcome, sizeof(welcome), h.fds, WELCOME_FDS))
		die("no WELCOME for a child");
	if (welcome.bell_page == 0)
		return false;
	h.bell = mmap((void *)((uintptr_t)welcome.bell_page * LINK_PAGE), LINK_PAGE,
		PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
		0);
	if (h.bell == MAP_FAILED)
		die("mmap of the bell");
	*h.bell = 1;
	h.staging = map_aligned(STAGING);
	struct message_head answer;
	do {
		say_ready(&h, (uintptr_t)h.staging, (uintptr_t)h.bell, NULL, 0);
		if (!hear(h.socket, &answer, sizeof(answer), &h.uffd, 1))
			die("no answer to a child");
	} while (answer.type == MESSAGE_AGAIN);
	if (answer.type != MESSAGE_ADOPTED)
		return false;
	pthread_t thread;
	if (pthread_create(&thread, NULL, discard_slowly, prey) != 0)
		die("pthread_create");
	ready();
	serve_blocking(&h);
	return true;
}

static void forked_blocking(void)
{
	const struct hostile *h = attach(serve_nothing);

	/* So that a child is looked after only when there is memory with the service. */
	madvise(h->bell, LINK_PAGE, MADV_DONTFORK);
	puts("evict me");
	fflush(stdout);
	for (;;) {
		pid_t child = fork();
		if (child == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			_exit(join(h->prey) ? 0 : 1);
		}
		waitpid(child, NULL, 0);
	}
}

/* A doorbell that is full, and whose next ring waits. */
static void full_doorbell(void)
{
	const struct hostile *h = attach(serve_nothing);
	int fd = h->fds[WELCOME_FD_DOORBELL];
	static const char full[LINK_PAGE];

	while (write(fd, full, sizeof(full)) > 0)
		;
	if (errno != EAGAIN)
		die("doorbell");
	set_blocking(fd);
	atomic_store(&h->link->head.asleep, 1);
	stay();
}

static void deaf(void)
{
	attach(serve_nothing);
	stay();
}

/* Executes no order, and says that it has. */
static void serve_lies(struct hostile *h)
{
	struct link_head *head = &h->link->head;
	static const int32_t errors[] = {
		0, -EAGAIN, -ETIME, -EBUSY, -ESRCH, -EIO, 1, INT32_MIN, INT32_MAX};

	for (uint32_t done = 0;;) {
		uint32_t seq = atomic_load(&head->seq);
		if (seq == done) {
			sched_yield();
			continue;
		}
		memset(head->moved, 0xff, sizeof(head->moved));
		head->busy_pages = (uint32_t)roll();
		head->error = errors[roll() % (sizeof(errors) / sizeof(errors[0]))];
		roll_bytes(h->link->data[roll() % LINK_SLOTS], LINK_PAGE);
		atomic_store(&head->done_seq, done = seq);
	}
}

static void liar(void)
{
	attach(serve_lies);
	stay();
}

/* Moves nothing and writes anywhere, in the service's own fields too, but answers mostly. */
static void serve_scribbles(struct hostile *h)
{
	uint32_t *word = (uint32_t *)(void *)h->link;

	for (;;) {
		uint64_t r = roll();
		size_t words = r & 1 ? sizeof(struct link_head) : LINK_DATA_AT;
		if (r & 2)
			words = LINK_BYTES;
		*(volatile uint32_t *)&word[(r >> 8) % (words / sizeof(*word))] =
			(uint32_t)roll();
		if ((r >> 40) % 16 == 0)
			atomic_store(&h->link->head.done_seq, atomic_load(&h->link->head.seq));
		if ((r >> 44) % 1024 == 0 &&
			fallocate(h->fds[WELCOME_FD_LINK],
				FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				(off_t)((r >> 54) % (LINK_BYTES / LINK_PAGE) * LINK_PAGE),
				LINK_PAGE) < 0)
			die("fallocate");
	}
}

static void scribbler(void)
{
	attach(serve_scribbles);
	stay();
}

/* ---- requests ---- */

static void *ring(void *bell)
{
	for (;;)
		*(volatile uint8_t *)bell = 1;
	return NULL;
}

/* Requests without end: each is posted again as soon as it was answered. */
static void demanding(void)
{
	const struct hostile *h = attach(serve_nothing);
	pthread_t thread;

	if (pthread_create(&thread, NULL, ring, h->bell) != 0)
		die("pthread_create");
	ready();
	bool senseless[LINK_REQUESTS] = {false};
	for (unsigned i = 0;; i = (i + 1) % LINK_REQUESTS) {
		struct link_request *q = &h->link->request[i];
		if (atomic_load(&q->state) == LINK_POSTED)
			continue;
		if (senseless[i] && q->result != -EINVAL)
			die("a senseless request is carried out");
		q->op = (uint32_t)(roll() % 4 ? LINK_GIVE_BACK : roll());
		q->addr = roll() % 2 ? roll() : (uintptr_t)h->prey;
		q->len = roll() % 2 ? roll() : PREY;
		q->result = 0;
		senseless[i] =
			q->op != LINK_GIVE_BACK || q->len == 0 || q->addr + q->len <= q->addr;
		atomic_store(&q->state, LINK_POSTED);
	}
}

static void *discard(void *area)
{
	for (;;)
		madvise(area, BLOCK, MADV_DONTNEED);
	return NULL;
}

/* Events without end, so that the kernel lets nobody touch its memory; requests meanwhile. */
static void restless(void)
{
	const struct hostile *h = attach(serve_lies);
	struct link_request *q = &h->link->request[0];
	pthread_t thread;

	for (size_t i = 0; i < PREY / BLOCK / 2; i++)
		if (pthread_create(&thread, NULL, discard, h->prey + i * BLOCK) != 0)
			die("pthread_create");
	if (pthread_create(&thread, NULL, ring, h->bell) != 0)
		die("pthread_create");
	ready();
	for (;;) {
		q->op = LINK_GIVE_BACK;
		q->addr = (uintptr_t)h->prey;
		q->len = PREY;
		atomic_store(&q->state, LINK_POSTED);
		while (atomic_load(&q->state) == LINK_POSTED)
			sched_yield();
	}
}

/* ---- the end, at each step ---- */

static void die_connected(void)
{
	for (int i = 0; i < CONNECTIONS; i++)
		close(dial());
}

static void die_hello(void)
{
	for (int i = 0; i < CONNECTIONS; i++) {
		int fd = dial();
		say_hello(fd);
		close(fd);
	}
}

static void die_welcomed(void)
{
	introduce();
}

static void die_ready(void)
{
	attach(serve_nothing);
}

/* In the middle of an order. */
static void serve_death(struct hostile *h)
{
	while (atomic_load(&h->link->head.seq) == 0)
		sched_yield();
	kill(getppid(), SIGKILL);
}

static void die_ordered(void)
{
	attach(serve_death);
	stay();
}

static const struct mode {
	const char *name;
	void (*run)(void);
} modes[] = {{"garbage", garbage}, {"wrong_head", wrong_head}, {"out_of_order", out_of_order},
	{"descriptors", descriptors}, {"not_uffd", not_uffd}, {"foreign_uffd", foreign_uffd},
	{"borrowed_number", borrowed_number}, {"addresses", addresses}, {"sealed", sealed},
	{"silent", silent}, {"many", many}, {"lingering", lingering}, {"blocking", blocking},
	{"full_doorbell", full_doorbell}, {"forked_blocking", forked_blocking}, {"deaf", deaf},
	{"liar", liar}, {"scribbler", scribbler}, {"demanding", demanding},
	{"restless", restless}, {"die_connected", die_connected}, {"die_hello", die_hello},
	{"die_welcomed", die_welcomed}, {"die_ready", die_ready}, {"die_ordered", die_ordered},
	{"swapped", left_swapped}, {"relinked", left_relinked}, {"deafened", left_deafened},
	{"execed", left_execed}, {"impostor", left_impostor}};

int main(int argc, char **argv)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	if (argc > 2)
		chance_seed(strtoull(argv[2], NULL, 10));
	for (size_t i = 0; argc > 1 && i < sizeof(modes) / sizeof(modes[0]); i++)
		if (strcmp(modes[i].name, argv[1]) == 0) {
			modes[i].run();
			return 0;
		}
	fprintf(stderr, "usage: hostile MODE [SEED]\n");
	return 2;
}
