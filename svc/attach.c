#include "attach.h"
#include "admit.h"
#include "cleanup.h"
#include "client.h"
#include "closer.h"
#include "fdstore.h"
#include "join.h"
#include "log.h"
#include "message.h"
#include "order.h"
#include "pagemap.h"
#include "points.h"
#include "policy.h"
#include "process.h"
#include "protocol.h"
#include "restorer.h"
#include "state.h"
#include "uffd.h"
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>

enum {
	/* Of a client, and for a moment of its handshake. */
	CLIENT_FDS = 12,
	RESERVE_FDS = 256,
	/* Descriptors that clients passed and whose close waits: more than anybody needs. */
	CLOSES_MAX = 4096,
};

struct attachment {
	int socket;	       /* owned */
	int pidfd;	       /* owned: who connected, whatever happens to the number */
	int procdir;	       /* owned: /proc/PID, bound to the process */
	int link_fd, doorbell; /* owned, -1 before WELCOME */
	int bell_read;	       /* owned: the agent's end of the doorbell, until it is sent */
	struct link *link;     /* owned */
	struct ucred peer;
	uint16_t version; /* of the protocol, as it said; 0: nothing yet */
	char user[64];
	char exe[256];
	char policy[64];
	uint64_t min_age_ms, brief_age_ms;
	uint64_t brief_key; /* 0: an ancestor had no part in it, or its age doesn't matter */
	pid_t agent;	    /* of a forked child, which connected by itself; 0: a shim's */
	int agent_pidfd;    /* owned: the agent's; -1 before READY, of a shim's */
	uint64_t bell_at;   /* where it is to put its bell; 0: it brings its own userfaultfd */
	struct join_search search; /* for the forked child that it is */
};

int attach_fd(const struct attachment *a)
{
	return a->socket;
}

uid_t attach_uid(const struct attachment *a)
{
	return a->peer.uid;
}

void attach_free(struct attachment *a)
{
	if (!a)
		return;
	if (a->link) {
		/* Its shim may ask already: nobody will answer. */
		atomic_store(&a->link->head.closed, LINK_LEFT);
		munmap(a->link, sizeof(*a->link));
	}
	closer_close(a->socket);
	const int fds[] = {
		a->pidfd, a->agent_pidfd, a->procdir, a->link_fd, a->doorbell, a->bell_read};
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	free(a);
}

/* ---- who is it ---- */

static int open_process(struct attachment *a)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d", (int)a->peer.pid);
	a->procdir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (a->procdir < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	/* Alive after the directory was opened: it is the same process. */
	return process_alive(a->pidfd) ? 0 : -ESRCH;
}

static int identify(struct attachment *a)
{
	socklen_t len = sizeof(a->peer);

	if (getsockopt(a->socket, SOL_SOCKET, SO_PEERCRED, &a->peer, &len) < 0)
		return -errno;
	len = sizeof(a->pidfd);
	if (getsockopt(a->socket, SOL_SOCKET, SO_PEERPIDFD, &a->pidfd, &len) < 0)
		return -errno;
	if (a->peer.pid <= 0)
		return -ESRCH; /* from a pid namespace that we can't see into */
	return open_process(a);
}

static bool may_attach(struct worker *w, struct attachment *a)
{
	const struct admit_user *u = admit_peer(w, a->socket, a->peer.uid, a->peer.gid);

	memcpy(a->user, u->name, sizeof(a->user));
	return u->may_attach;
}

/* At once: the program waits for it. To close the socket is another thread's, and not worth a
 * wake-up each. */
static void refuse(struct attachment *a)
{
	const struct message_head head = {
		PROTOCOL_MAGIC, a->version ? a->version : PROTOCOL_OLDEST, MESSAGE_REFUSED};

	/* Nothing else was sent to it, so there is room. */
	send(a->socket, &head, sizeof(head), MSG_NOSIGNAL | MSG_DONTWAIT);
	closer_close_later(steal_fd(&a->socket));
}

/* Descriptors kept for what can't wait: a FORK that finds none holds its program up, and each
 * takes one and one for its journal. Half of them when the limit is low. The lowest free number
 * is what the next one gets, so a high one says that few are left (rule 13). So does one that
 * is in use a client's worth higher, when a low one was free by chance, of a handshake that
 * ended. Asked at each step: when many begin at once, all find enough. */
static bool eats_reserve(int fd)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return false;
	rlim_t reserve = limit.rlim_cur / 2 < RESERVE_FDS ? limit.rlim_cur / 2 : RESERVE_FDS;
	return (rlim_t)fd >= limit.rlim_cur - reserve ||
	       fcntl((int)(limit.rlim_cur - reserve) + CLIENT_FDS, F_GETFD) >= 0;
}

bool attach_descriptors_are_few(const struct worker *w)
{
	int fd = fcntl(w->device, F_DUPFD_CLOEXEC, 0);
	bool few = fd < 0 || eats_reserve(fd);

	if (fd >= 0)
		close(fd);
	return few;
}

int attach_accept(struct worker *w, size_t under_way, struct attachment **ret)
{
	int fd = accept4(w->attach_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct attachment *a;
	int r;

	if (fd < 0)
		return -errno;
	/* Those under way will take theirs before it does. */
	if (eats_reserve(fd + (int)under_way * CLIENT_FDS) || closer_waiting() > CLOSES_MAX) {
		/* Its program runs as if there were no service. */
		close(fd);
		return closer_waiting() > CLOSES_MAX ? -EBUSY : -EMFILE;
	}
	a = calloc(1, sizeof(*a));
	if (!a) {
		close(fd);
		return -ENOMEM;
	}
	a->socket = fd;
	a->pidfd = a->agent_pidfd = a->procdir = a->link_fd = a->doorbell = a->bell_read = -1;
	r = identify(a);
	if (r == 0 && !may_attach(w, a)) {
		log_debug(
			"process %d (uid %u) may not attach: not in allow-user or allow-group",
			(int)a->peer.pid, a->peer.uid);
		refuse(a);
		r = -EPERM;
	}
	if (r < 0) {
		attach_free(a);
		*ret = NULL;
		return r == -ESRCH || r == -EPERM ? 0 : r;
	}
	*ret = a;
	point(POINT_accepted);
	return 0;
}

/* ---- HELLO ---- */

static void read_exe(struct attachment *a)
{
	char path[4096];
	ssize_t n = readlinkat(a->procdir, "exe", path, sizeof(path) - 1);

	if (n < 0)
		n = 0;
	path[n] = '\0';
	if ((size_t)n < sizeof(a->exe))
		memcpy(a->exe, path, (size_t)n + 1);
	else
		snprintf(a->exe, sizeof(a->exe), "...%s", path + n - (sizeof(a->exe) - 4));
}

static int choose_policy(
	struct worker *w, struct attachment *a, const struct message_hello *hello)
{
	struct policy_subject subject = {.exe = a->exe,
		.user = a->user,
		.uid = a->peer.uid,
		.policy = hello->policy[0] ? hello->policy : NULL};

	pthread_mutex_lock(&w->config_lock);
	const struct policy *p = policy_match(w->config, &subject);
	int r = 0;
	if (!p) {
		log_warn("process %d asked for policy \"%s\", which doesn't exist: left alone",
			(int)a->peer.pid, hello->policy);
		r = -ENOENT;
	} else if (!p->manage || (!p->inherit && (hello->flags & HELLO_INHERITED))) {
		r = -EPERM;
	} else {
		snprintf(a->policy, sizeof(a->policy), "%s", p->name);
		a->min_age_ms = p->min_age_ms;
		a->brief_age_ms = p->brief_age_ms;
		if (a->brief_age_ms > 0 &&
			(hello->flags & (HELLO_INHERITED | HELLO_FORKED)) == HELLO_INHERITED)
			a->brief_key = hint_key(a->exe, hello->policy, a->peer.uid);
	}
	pthread_mutex_unlock(&w->config_lock);
	return r;
}

/* The agent's end as one that can write, too: for whoever has that, the pipe is never without
 * a writer, so it outlives the service, and another one rings at it (comeback.h). Opened, not
 * duplicated: its flags are its own. */
static int keep_pipe_open(int *fd)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", *fd);
	int both = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (both < 0)
		return -errno;
	close(*fd);
	*fd = both;
	return 0;
}

static int link_new(struct attachment *a)
{
	int fd = memfd_create("larder-link", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return -errno;
	a->link_fd = fd;
	if (ftruncate(fd, LINK_BYTES) < 0 ||
		/* The head is filled for good; the data slots before each eviction. */
		fallocate(fd, 0, 0, LINK_DATA_AT) < 0 ||
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return -errno;
	struct link *l = mmap(NULL, LINK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (l == MAP_FAILED)
		return -errno;
	l->head.magic = LINK_MAGIC;
	l->head.version = a->version;
	atomic_store(&l->head.accepted, LINK_PENDING);
	a->link = l;
	/* A pipe, of which we keep the writing end: flags that are ours alone, so that no
	 * client can make us wait in a write. */
	int ends[2];
	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	a->bell_read = ends[0];
	a->doorbell = ends[1];
	return keep_pipe_open(&a->bell_read);
}

static int send_welcome(struct worker *w, const struct attachment *a)
{
	const struct message_welcome welcome = {
		.head = {PROTOCOL_MAGIC, a->version, MESSAGE_WELCOME},
		.bell_page = (uint32_t)(a->bell_at / LINK_PAGE)};
	const int fds[WELCOME_FDS] = {[WELCOME_FD_DEVICE] = w->device,
		[WELCOME_FD_LINK] = a->link_fd,
		[WELCOME_FD_DOORBELL] = a->bell_read};

	return message_send(a->socket, &welcome, sizeof(welcome), fds, WELCOME_FDS);
}

/* Each costs descriptors and a process; a forked child that has no agent yet is there already.
 */
static bool is_one_too_many(struct worker *w, const struct attachment *a)
{
	pthread_mutex_lock(&w->config_lock);
	unsigned most = w->config->user_clients;
	pthread_mutex_unlock(&w->config_lock);
	if (a->peer.uid == 0 || worker_count_user(w, a->peer.uid) < most)
		return false;
	log_warn(
		"process %d: user %s has %u programs taken over (clients-per-user): left alone",
		(int)a->peer.pid, a->user, most);
	return true;
}

static int on_hello(struct worker *w, struct attachment *a, const struct message_hello *hello)
{
	int on = 1, r;

	if (memchr(hello->policy, '\0', sizeof(hello->policy)) == NULL)
		return -EBADMSG;
	read_exe(a);
	r = choose_policy(w, a, hello);
	if (r == 0 && a->brief_key &&
		brief_leave(
			&w->brief, a->brief_key, hello->flags & HELLO_SAMPLED, worker_now_ms()))
		r = -EPERM;
	if (r == 0 && is_one_too_many(w, a))
		r = -EUSERS;
	if (r < 0) {
		refuse(a);
		return 1; /* not managed: not an error */
	}
	r = link_new(a);
	if (r == 0 && eats_reserve(a->doorbell))
		r = -EMFILE;
	if (r < 0)
		return r;
	/* From here on the kernel says who sends: the agent, by its number in our namespace. */
	if (setsockopt(a->socket, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0)
		return -errno;
	if (a->agent && join_expected(w))
		a->bell_at = (uint64_t)join_random_page() * LINK_PAGE;
	point(POINT_hello);
	r = send_welcome(w, a);
	point(POINT_welcomed);
	close(steal_fd(&a->bell_read));
	return r;
}

/* That both have one memory is the kernel's word, whoever passed whichever pidfd. */
static int check_agent(const struct attachment *a)
{
	int r = process_share_memory(a->peer.pid, a->pidfd, a->agent, a->agent_pidfd);
	/* Another image could run by now, with memory of its own. */
	return r == 1 ? 0 : -ESRCH;
}

/* A forked child's agent connected: it is the program that counts. */
static int identify_forked(struct attachment *a, int pidfd)
{
	pid_t pid = join_pid_of(pidfd);

	if (pid < 0) {
		closer_close(pidfd);
		return pid;
	}
	a->agent_pidfd = a->pidfd;
	a->pidfd = pidfd;
	a->agent = a->peer.pid;
	a->peer.pid = pid;
	close(steal_fd(&a->procdir));
	int r = open_process(a);
	return r < 0 ? r : check_agent(a);
}

/* ---- READY ---- */

static int open_at(int dir, const char *name, int flags)
{
	int fd = openat(dir, name, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static bool sane_address(uint64_t addr, uint64_t bytes, uint64_t align)
{
	return addr != 0 && addr % align == 0 && addr < (1ULL << 47) - bytes;
}

/* Whoever is asked afterwards whether it shares the program's memory is this one, or this one
 * is gone: so we never signal another. */
static int open_agent(struct attachment *a, pid_t agent)
{
	if (a->agent_pidfd >= 0)
		return 0;
	a->agent_pidfd = (int)syscall(SYS_pidfd_open, agent, 0);
	return a->agent_pidfd < 0 ? -errno : 0;
}

/* Both are bound to the address space that is there at open; the proof covers both, for an exec
 * between the two would make it fail. */
static int open_memory(const struct attachment *a, int *ret_mem, int *ret_pagemap)
{
	int mem = open_at(a->procdir, "mem", O_RDONLY);
	int pagemap = mem < 0 ? mem : open_at(a->procdir, "pagemap", O_RDONLY);

	if (pagemap < 0) {
		if (mem >= 0)
			close(mem);
		return pagemap;
	}
	*ret_mem = mem;
	*ret_pagemap = pagemap;
	return 0;
}

/* Everything that a client has because of its agent. */
static void equip(
	struct client *c, struct attachment *a, pid_t agent, const struct message_ready *ready)
{
	c->pid = a->peer.pid;
	c->uid = a->peer.uid;
	c->protocol = a->version;
	c->min_age_ms = a->min_age_ms;
	c->brief_age_ms = a->brief_age_ms;
	c->brief_key = a->brief_key;
	memcpy(c->exe, a->exe, sizeof(c->exe));
	memcpy(c->policy, a->policy, sizeof(c->policy));
	c->staging = ready->staging;
	c->bell = ready->bell;
	c->link_fd = steal_fd(&a->link_fd);
	c->doorbell = steal_fd(&a->doorbell);
	c->procdir = steal_fd(&a->procdir);
	c->pidfd = steal_fd(&a->pidfd);
	c->agent_pidfd = steal_fd(&a->agent_pidfd);
	c->link = a->link;
	a->link = NULL;
	c->agent_pid = agent;
}

static int make_client(struct worker *w, struct attachment *a, int uffd, pid_t agent,
	const struct message_ready *ready, struct client **ret)
{
	struct client *c = worker_new_client(w, uffd);
	int r = open_agent(a, agent);

	if (r == 0)
		r = open_memory(a, &c->mem, &c->pagemap);
	equip(c, a, agent, ready);
	if (r == 0 && process_share_memory(c->pid, c->pidfd, agent, c->agent_pidfd) != 1)
		r = -ESRCH; /* it execed meanwhile, mostly */
	if (r == 0)
		r = uffd_api(uffd);
	if (r == 0)
		r = join_prove(uffd, c->pagemap, c->bell, 4);
	if (r < 0) {
		atomic_store(&c->link->head.closed, LINK_LEFT);
		order_exit(c->link, c->doorbell);
		client_unref(c);
		return r;
	}
	*ret = c;
	return 0;
}

static int on_ready(struct worker *w, struct attachment *a, const struct message_ready *ready,
	int uffd, pid_t agent)
{
	struct client *c;
	int r;

	if (!sane_address(ready->staging, LINK_SLOTS * LINK_PAGE, BLOCK_SIZE) ||
		!sane_address(ready->bell, PAGE_SIZE, PAGE_SIZE))
		r = -EBADMSG;
	else if (!uffd_is_one(uffd))
		r = -EBADF;
	else if (fcntl(uffd, F_SETFL, O_NONBLOCK) < 0)
		r = -errno;
	else if (eats_reserve(uffd))
		r = -EMFILE;
	else if (is_one_too_many(w, a)) /* others said HELLO at the same time */
		r = -EUSERS;
	else
		goto sane;
	closer_close(uffd);
	order_exit(a->link, a->doorbell);
	return r;
sane:
	point(POINT_ready);
	r = make_client(w, a, uffd, agent, ready, &c);
	if (r < 0)
		return r;
	point(POINT_proved);
	c->socket = steal_fd(&a->socket);
	atomic_store(&c->state, CLIENT_MANAGED);
	worker_record_client(w, c);
	point(POINT_recorded);
	atomic_store(&c->link->head.accepted, LINK_ACCEPTED);
	log_info("client %d (%s, uid %u): attached, policy %s, agent %d", (int)c->pid, c->exe,
		c->uid, c->policy, (int)agent);
	worker_publish_client(w, c);
	point(POINT_attached);
	return 1;
}

/* ---- READY of a forked child ---- */

/* fd -1: none. */
static int reply(int socket, uint16_t version, enum message_type type, int fd)
{
	const struct message_head head = {PROTOCOL_MAGIC, version, (uint16_t)type};
	return message_send(socket, &head, sizeof(head), &fd, fd < 0 ? 0 : 1);
}

int attach_adopted(struct client *c)
{
	atomic_store(&c->link->head.accepted, LINK_ACCEPTED);
	int r = reply(c->socket, c->protocol, MESSAGE_ADOPTED, c->uffd);
	if (r == 0 && c->record)
		atomic_store(&c->record->told, 1);
	return r;
}

/* The client exists, and others look at it: what it gets now it gets under its gate. */
static int join_client(struct worker *w, struct attachment *a, struct client *c, int mem,
	int pagemap, const struct message_ready *ready)
{
	int expected = CLIENT_FORKED;

	pthread_mutex_lock(&c->gate);
	bool still = atomic_compare_exchange_strong(&c->state, &expected, CLIENT_MANAGED);
	if (still) {
		c->mem = mem;
		c->pagemap = pagemap;
		equip(c, a, a->agent, ready);
		/* The socket too: its end tells the agent that the service is gone. */
		c->socket = steal_fd(&a->socket);
		worker_record_client(w, c);
	}
	pthread_mutex_unlock(&c->gate);
	if (!still)
		return -ESRCH;
	worker_retry_later(w, c, 1); /* for what arrived meanwhile */
	point(POINT_joined);
	int r = attach_adopted(c);
	point(POINT_joined_told);
	log_info("client %d (%s, uid %u): forked child of client %llu, policy %s, agent %d",
		(int)c->pid, c->exe, c->uid, (unsigned long long)c->parent, c->policy,
		(int)c->agent_pid);
	worker_watch_client(w, c);
	/* A ring that was read before there was a link found nothing to look at. */
	restorer_ring(w->restorer, c);
	if (r < 0)
		log_debug(
			"client %d: its agent is gone already: %s", (int)c->pid, strerror(-r));
	return 1;
}

static int on_ready_to_join(
	struct worker *w, struct attachment *a, const struct message_ready *ready)
{
	struct client *c;
	int mem, pagemap, r;

	if (!sane_address(ready->staging, LINK_SLOTS * LINK_PAGE, BLOCK_SIZE) ||
		ready->bell != a->bell_at)
		return -EBADMSG;
	r = open_agent(a, a->agent);
	if (r == 0)
		r = open_memory(a, &mem, &pagemap);
	if (r < 0)
		return r;
	r = eats_reserve(pagemap) ? -EMFILE : check_agent(a);
	point(POINT_join);
	if (r == 0)
		r = join_find(w, &a->search, a->peer.uid, pagemap, a->bell_at, &c);
	if (r == 0) {
		r = join_client(w, a, c, mem, pagemap, ready);
		client_unref(c);
		if (r > 0)
			return r;
	}
	close(mem);
	close(pagemap);
	if (r == -EAGAIN)
		return reply(a->socket, a->version, MESSAGE_AGAIN, -1);
	if (r != -ENOENT)
		return r;
	a->bell_at = 0;
	return reply(a->socket, a->version, MESSAGE_NONE, -1);
}

/* ---- messages ---- */

static const char *reason(int r)
{
	switch (r) {
	case -EBADMSG:
		return "its message is not of this protocol";
	case -EPROTONOSUPPORT:
		return "its liblarder.so speaks another version of the protocol: restart the "
		       "program "
		       "with the installed one";
	case -EBADF:
		return "the descriptor it sent is not a userfaultfd";
	case -EPERM:
		return "the userfaultfd is not of its own memory";
	case -EUSERS:
		return "its user has enough programs here";
	case -EMFILE:
		return "too few descriptors are left";
	case -ESRCH:
		return "it ended or execed meanwhile, or the agent doesn't share its memory";
	default:
		return strerror(-r);
	}
}

bool attach_discard(int socket_fd)
{
	struct message m;
	int r = message_receive(socket_fd, &m);

	closer_close(m.fd);
	return r != -EPIPE && r != -ECONNRESET;
}

int attach_advance(struct worker *w, struct attachment *a)
{
	struct message m;
	int r = message_receive(a->socket, &m);

	if (r == 0)
		return 0;
	if (r > 0) {
		bool welcomed = a->link != NULL;
		uint16_t type = m.body.head.type;
		if (a->version == 0)
			a->version = m.body.head.version;
		if (m.body.head.version != a->version)
			r = -EBADMSG;
		else if (type == MESSAGE_HELLO && !welcomed && m.size == sizeof(m.body.hello) &&
			 m.fds == (m.body.hello.flags & HELLO_FORKED ? 1 : 0)) {
			r = m.fds ? identify_forked(a, steal_fd(&m.fd)) : 0;
			if (r == 0)
				r = on_hello(w, a, &m.body.hello);
		} else if (type == MESSAGE_READY && welcomed && a->bell_at && m.fds == 0 &&
			   m.size == sizeof(m.body.ready))
			r = on_ready_to_join(w, a, &m.body.ready);
		else if (type == MESSAGE_READY && welcomed && m.fds == 1 &&
			 m.size == sizeof(m.body.ready))
			r = on_ready(w, a, &m.body.ready, steal_fd(&m.fd), m.sender);
		else
			r = -EBADMSG;
	}
	closer_close(m.fd);
	if (r == 0)
		return 0;
	/* It ended before its agent was heard of. */
	if (a->brief_key && a->link && r < 0)
		brief_ended(&w->brief, a->brief_key, true, worker_now_ms());
	if (r < 0)
		/* A program that was gone, or another one, before it was through is nothing to
		 * warn of. */
		log_line(r == -EPIPE || r == -ECONNRESET || r == -ESRCH ? LOG_DEBUG : LOG_WARN,
			"process %d (uid %u): not attached: %s", (int)a->peer.pid, a->peer.uid,
			reason(r));
	attach_free(a);
	return r;
}
