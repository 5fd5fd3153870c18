#include "comeback.h"
#include "cleanup.h"
#include "closer.h"
#include "fdstore.h"
#include "journal.h"
#include "kernel.h"
#include "link.h"
#include "log.h"
#include "maps.h"
#include "process.h"
#include "state.h"
#include "uffd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	/* An agent has six descriptors. One that isn't ours could have any number. */
	LOOKS_MAX = 256,
};

/* What is fetched for one client; -1 = not (yet). Owned until its record has it. */
struct fetched {
#define X(name) int name;
	STATE_FDS(X)
#undef X
};

struct tally {
	unsigned taken, ended, without_agent, kept, lost;
};

/* ---- open ---- */

static bool agent_lives(const struct state_record *r)
{
	if (atomic_load(&r->id) == 0 || !atomic_load(&r->joined))
		return false;
	_cleanup_fd_ int fd = process_open(r->agent_pid, r->agent_inode);
	/* Whatever else hinders us now, says so later. */
	return fd != -ESRCH;
}

/* Of a child whose agent may not have got it: the very descriptor, or -1. */
static int kept_fd(const struct state_record *r, const struct fdstore *kept)
{
	for (unsigned i = 0; i < kept->count; i++) {
		int fd = kept->item[i].fd;
		if (kept->item[i].id == atomic_load(&r->id) &&
			descriptor_inode(fd) == r->uffd_inode && uffd_is_one(fd))
			return fd;
	}
	return -1;
}

static bool any_lives(const struct state *s, const struct fdstore *kept)
{
	for (uint32_t i = 0; i < atomic_load(&s->top); i++)
		if (agent_lives(&s->record[i]) || (atomic_load(&s->record[i].id) != 0 &&
							  kept_fd(&s->record[i], kept) >= 0))
			return true;
	return false;
}

static int open_left(struct state **ret, const char *dir)
{
	char why[STATE_WHY];
	int r = state_load(ret, dir, why);

	if (r < 0 && r != -ENOENT)
		log_error("%s/" STATE_FILE ": %s%s", dir, why[0] ? why : strerror(-r),
			r == -EBADMSG || r == -EPROTONOSUPPORT
				? "; programs of an earlier larderd may wait for their pages: "
				  "start one of that version, or remove the file, and they "
				  "wait for ever"
				: "");
	return r;
}

static int open_new(struct state **ret, const char *dir)
{
	int r = state_new(ret, dir);

	if (r == -ENOSPC)
		log_error("%s: no room in the tmpfs: what others put there has to go", dir);
	else if (r < 0)
		log_error("%s/" STATE_FILE ": %s", dir, strerror(-r));
	else
		journal_remove_others(dir, NULL, NULL);
	return r;
}

int comeback_open(struct state **ret, const char *dir, bool mounted, const struct fdstore *kept,
	bool *ret_left)
{
	struct state *s;
	int r = open_left(&s, dir);

	if (r == 0 && any_lives(s, kept)) {
		atomic_store(&s->numbers_gone, 1);
		atomic_store(&s->ending, 0);
		atomic_store(&s->kept, 0);
		*ret_left = true;
		*ret = s;
		return 0;
	}
	if (r == 0) {
		/* It died before it could unmount what it had mounted. */
		mounted |= s->mounted != 0;
		state_unmap(s);
	} else if (r != -ENOENT) {
		return r;
	}
	r = open_new(&s, dir);
	if (r < 0)
		return r;
	s->mounted = mounted;
	*ret_left = false;
	*ret = s;
	return 0;
}

void comeback_close(struct state *s, const char *dir)
{
	char path[600];

	state_unmap(s);
	journal_remove_others(dir, NULL, NULL);
	snprintf(path, sizeof(path), "%s/" STATE_FILE, dir);
	unlink(path);
}

/* ---- the dead ---- */

/* A userfaultfd whose memory is gone. */
static int make_dead(int device)
{
	int *fd = mmap(
		NULL, sizeof(*fd), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (fd == MAP_FAILED)
		return -errno;
	*fd = -ECHILD;
	pid_t pid = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, 0);
	if (pid == 0) {
		int new = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		int r = new < 0 ? -errno : uffd_api(new);
		*fd = r < 0 ? r : new;
		_exit(0);
	}
	int r = pid < 0 ? -errno : 0;
	while (r == 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	if (r == 0)
		r = *fd;
	munmap(fd, sizeof(*fd));
	return r;
}

static int another(int dead)
{
	int fd = fcntl(dead, F_DUPFD_CLOEXEC, 0);
	return fd < 0 ? -errno : fd;
}

/* Of a client that has nobody who keeps its userfaultfd. */
static int bury(struct state_record *r, int dead)
{
	int fd = another(dead);

	if (fd < 0)
		return fd;
	atomic_store(&r->joined, 0);
	r->uffd = fd;
	return 0;
}

/* ---- one client ---- */

static void drop(struct fetched *f)
{
#define X(name)                                                                                \
	if (f->name >= 0)                                                                      \
		closer_close(f->name);
	STATE_FDS(X)
#undef X
}

static int open_directory(pid_t pid, int pidfd, int *ret)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d", (int)pid);
	int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	/* Alive after the directory was opened: it is the same process. */
	if (!process_alive(pidfd)) {
		close(fd);
		return -ESRCH;
	}
	*ret = fd;
	return 0;
}

static int open_at(int dir, const char *name)
{
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* Both processes are those of then. If they share memory now they have ever since: an exec
 * would have given either memory of its own for good. So what is opened before this is asked is
 * of the memory that the userfaultfd is about. The program's leader may have exited, and its
 * threads live. */
static int check_memory(const struct state_record *r, const struct fetched *f)
{
	pid_t task;
	int e = process_share_memory(r->pid, f->pidfd, r->agent_pid, f->agent_pidfd);

	if (e == 0 && maps_memory_task(f->procdir, r->agent_pid, &task) == 0)
		e = 1;
	if (e == 0) {
		/* It runs another image, and the agent has the old one's memory for nobody. */
		syscall(SYS_pidfd_send_signal, f->agent_pidfd, SIGKILL, NULL, 0);
		return -ESRCH;
	}
	return e < 0 ? e : 0;
}

/* What the name says is only where to look: the descriptor could be another one by the time
 * that it is fetched. */
static bool looks_like(const char *name, const struct state_record *r)
{
	char pipe[48];

	snprintf(pipe, sizeof(pipe), "pipe:[%llu]", (unsigned long long)r->doorbell_inode);
	return strcmp(name, "anon_inode:[userfaultfd]") == 0 ||
	       strcmp(name, "/memfd:larder-link (deleted)") == 0 || strcmp(name, pipe) == 0;
}

/* The memory that we made, with the seals and the size that it had. */
static bool is_link(int fd)
{
	const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
	struct stat st;

	return fstat(fd, &st) == 0 && st.st_size == LINK_BYTES &&
	       fcntl(fd, F_GET_SEALS) == seals;
}

/* A writing end of our own: the agent's could be made to block. */
static int reopen_pipe(int fd)
{
	struct stat st;
	char path[32];

	if (fstat(fd, &st) < 0 || !S_ISFIFO(st.st_mode))
		return -1;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
}

static void take_if_right(const struct state_record *r, struct fetched *f, int fd)
{
	uint64_t inode = descriptor_inode(fd);

	if (f->uffd < 0 && inode == r->uffd_inode && uffd_is_one(fd))
		f->uffd = steal_fd(&fd);
	else if (f->link_fd < 0 && inode == r->link_inode && is_link(fd))
		f->link_fd = steal_fd(&fd);
	else if (f->doorbell < 0 && inode == r->doorbell_inode)
		f->doorbell = reopen_pipe(fd);
	if (fd >= 0)
		closer_close(fd);
}

static int fetch_one(
	const struct state_record *r, struct fetched *f, int dir, const char *number)
{
	char name[64];
	ssize_t n = readlinkat(dir, number, name, sizeof(name) - 1);

	if (n < 0)
		return 0;
	name[n] = '\0';
	if (!looks_like(name, r))
		return 0;
	int fd = (int)syscall(SYS_pidfd_getfd, f->agent_pidfd, atoi(number), 0);
	if (fd < 0)
		return errno == EBADF ? 0 : -errno;
	take_if_right(r, f, fd);
	return 0;
}

static int fetch_from_agent(const struct state_record *r, struct fetched *f, int agent_dir)
{
	int fd = openat(agent_dir, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	int e = dir ? 0 : -errno;

	if (!dir) {
		if (fd >= 0)
			close(fd);
		return e == -ENOENT ? -ESRCH : e;
	}
	struct dirent *d;
	for (int looks = 0; e == 0 && looks < LOOKS_MAX && (d = readdir(dir)); looks++)
		if (d->d_name[0] != '.')
			e = fetch_one(r, f, dirfd(dir), d->d_name);
	closedir(dir);
	return e;
}

static int fetch_processes(const struct state_record *r, struct fetched *f)
{
	_cleanup_fd_ int agent_dir = -1;

	int e = f->pidfd = process_open(r->pid, r->pid_inode);
	if (e >= 0)
		e = f->agent_pidfd = process_open(r->agent_pid, r->agent_inode);
	if (e == -ESRCH && f->pidfd >= 0 && process_alive(f->pidfd))
		return -ECHILD;
	if (e >= 0)
		e = open_directory(r->pid, f->pidfd, &f->procdir);
	if (e >= 0)
		e = open_directory(r->agent_pid, f->agent_pidfd, &agent_dir);
	if (e >= 0)
		e = f->mem = open_at(agent_dir, "mem");
	if (e >= 0)
		e = f->pagemap = open_at(agent_dir, "pagemap");
	if (e >= 0)
		e = check_memory(r, f);
	return e < 0 ? e : fetch_from_agent(r, f, agent_dir);
}

/* -ESRCH: it has ended. -ECHILD: it lives, and its agent doesn't. -ENODATA: that one has no
 * userfaultfd. */
static int fetch_client(const struct state_record *r, struct fetched *f)
{
	int e = fetch_processes(r, f);

	if (e < 0)
		return e;
	if (f->uffd < 0)
		return -ENODATA;
	if (fcntl(f->uffd, F_SETFL, O_NONBLOCK) < 0)
		return -errno;
	if (f->link_fd >= 0 && f->doorbell >= 0)
		return 0;
	/* With one of both it can be given no orders. */
	log_warn(
		"client %d (%s): its agent doesn't keep the link and doorbell that it had (its "
		"liblarder.so is older?): it is served, but nothing is taken from it, and "
		"calls "
		"like mlock wait; restart the program",
		(int)r->pid, r->exe);
	if (f->link_fd >= 0)
		close(steal_fd(&f->link_fd));
	if (f->doorbell >= 0)
		close(steal_fd(&f->doorbell));
	return 0;
}

/* ---- all ---- */

static void open_journal(struct state_record *r, const char *dir)
{
	char why[JOURNAL_WHY];
	uint64_t id = atomic_load(&r->id);

	r->journal = journal_open(dir, id, why);
	if (r->journal < 0 && (r->journal != -ENOENT || atomic_load(&r->joined)))
		log_error("%s/journal.%llu: %s", dir, (unsigned long long)id,
			why[0] ? why : strerror(-r->journal));
	if (r->journal < 0)
		r->journal = -1;
}

/* Permission and descriptors: what another try, or another service, may have. */
static bool may_pass(int e)
{
	return e == -EMFILE || e == -ENFILE || e == -ENOMEM || e == -EPERM || e == -EACCES ||
	       e == -ENOSYS;
}

static void say_why(const struct state_record *r, int e)
{
	log_error("client %d (%s): taking it over from its agent %d: %s%s; it waits",
		(int)r->pid, r->exe, (int)r->agent_pid, strerror(-e),
		e == -EPERM || e == -EACCES
			? ": larderd needs CAP_SYS_PTRACE here, and kernel.yama.ptrace_scope "
			  "below 3"
			: "");
}

static void count(const struct state_record *r, int e, struct tally *t)
{
	t->taken += e == 0;
	t->ended += e == -ESRCH;
	t->lost += e < 0 && e != -ESRCH;
	if (e < 0 && e != -ESRCH)
		log_error(
			"client %d (%s): its agent %d has not the userfaultfd that it had: it "
			"can't be taken over (%s)",
			(int)r->pid, r->exe, (int)r->agent_pid, strerror(-e));
}

static int fetch_child(
	struct state_record *r, int dead, const struct fdstore *kept, struct tally *t)
{
	int fd = kept_fd(r, kept);

	if (fd < 0) {
		t->without_agent++;
		return bury(r, dead);
	}
	t->kept++;
	atomic_store(&r->joined, 0);
	r->uffd = fd;
	return 0;
}

static int fetch_record(
	struct state_record *r, int dead, const struct fdstore *kept, struct tally *t)
{
	struct fetched f;
#define X(name) f.name = -1;
	STATE_FDS(X)
#undef X

	if (!atomic_load(&r->joined))
		return fetch_child(r, dead, kept, t);
	int e = fetch_client(r, &f);
	if (e < 0)
		drop(&f);
	if (may_pass(e)) {
		say_why(r, e);
		return e;
	}
	/* It joined, and hasn't the descriptor yet, or not any more. */
	if ((e == -ENODATA || e == -ECHILD) && kept_fd(r, kept) >= 0)
		return fetch_child(r, dead, kept, t);
	count(r, e, t);
	if (e < 0)
		return bury(r, dead);
#define X(name) r->name = f.name;
	STATE_FDS(X)
#undef X
	return 0;
}

/* ---- FORKs ---- */

/* FORKs in a journal that have no child yet: positions, in the order in which they were read.
 */
struct waiting {
	uint64_t *at; /* owned */
	size_t count, room;
};

static int waiting_add(struct waiting *w, uint64_t at)
{
	if (w->count == w->room) {
		size_t room = w->room ? w->room * 2 : 16;
		uint64_t *more = realloc(w->at, room * sizeof(*more));
		if (!more)
			return -ENOMEM;
		w->at = more;
		w->room = room;
	}
	w->at[w->count++] = at;
	return 0;
}

/* The first with that number has a child now. */
static void waiting_remove(struct waiting *w, const struct journal *j, uint64_t ufd)
{
	size_t i = 0;

	while (i < w->count && journal_at(j, w->at[i])->arg.fork.ufd != ufd)
		i++;
	if (i == w->count)
		return;
	w->count--;
	memmove(w->at + i, w->at + i + 1, (w->count - i) * sizeof(*w->at));
}

static int find_waiting(const struct journal *j, struct waiting *w)
{
	int e = 0;

	for (uint64_t at = journal_begin(j); at < journal_end(j) && e == 0; at++) {
		const struct uffd_msg *m = journal_at(j, at);
		if (m->event == UFFD_EVENT_FORK)
			e = waiting_add(w, at);
		else if (m->event == JOURNAL_CHILD)
			waiting_remove(w, j, m->arg.reserved.reserved1);
	}
	return e;
}

static bool is_told(const struct journal *j, uint64_t id)
{
	for (uint64_t at = journal_begin(j); at < journal_end(j); at++)
		if (journal_at(j, at)->event == JOURNAL_CHILD &&
			journal_at(j, at)->arg.reserved.reserved2 == id)
			return true;
	return false;
}

/* Its child had a descriptor and no agent, so it is gone for us. It may have a record, if the
 * worker died before it told its journal so. */
static int bury_child(
	struct state *s, struct journal *j, uint64_t parent, uint64_t at, int dead)
{
	int ufd = (int)journal_at(j, at)->arg.fork.ufd, fd = another(dead);

	if (fd < 0)
		return fd;
	for (uint32_t i = 0; i < atomic_load(&s->top); i++) {
		struct state_record *r = &s->record[i];
		if (atomic_load(&r->id) != 0 && r->parent == parent && r->uffd == ufd &&
			!atomic_load(&r->joined) && !is_told(j, atomic_load(&r->id)))
			state_remove(r);
	}
	journal_set_fork(j, at, fd);
	return 0;
}

static int bury_children(struct state *s, const struct state_record *r, int dead)
{
	struct waiting w = {0};
	struct journal *j;
	int own = r->journal < 0 ? -1 : fcntl(r->journal, F_DUPFD_CLOEXEC, 0);
	int e = own < 0 ? 0 : journal_adopt(&j, own);

	if (own < 0 || e < 0) {
		/* Then its client is failed, and its children with it. */
		if (own >= 0)
			close(own);
		return 0;
	}
	e = find_waiting(j, &w);
	for (size_t i = 0; i < w.count && e == 0; i++)
		e = bury_child(s, j, atomic_load(&r->id), w.at[i], dead);
	free(w.at);
	journal_free(j);
	return e;
}

/* ---- */

void comeback_forget_numbers(struct state *s)
{
	for (uint32_t i = 0; i < atomic_load(&s->top); i++) {
		struct state_record *r = &s->record[i];
		if (atomic_load(&r->id) == 0)
			continue;
		r->journal = -1;
		/* A child's number is what its FORK says, until that is looked at. */
		if (!atomic_load(&r->joined))
			continue;
#define X(name) r->name = -1;
		STATE_FDS(X)
#undef X
	}
}

static bool has_record(void *arg, uint64_t id)
{
	const struct state *s = arg;

	for (uint32_t i = 0; i < atomic_load(&s->top); i++)
		if (atomic_load(&s->record[i].id) == id)
			return true;
	return false;
}

static bool is_taken(void *arg, uint64_t id, int fd)
{
	const struct state *s = arg;

	for (uint32_t i = 0; i < atomic_load(&s->top); i++)
		if (atomic_load(&s->record[i].id) == id)
			return s->record[i].uffd == fd;
	return false;
}

static int fetch_all(
	struct state *s, const char *dir, int dead, const struct fdstore *kept, struct tally *t)
{
	int e = 0;

	for (uint32_t i = 0; i < atomic_load(&s->top); i++)
		if (atomic_load(&s->record[i].id) != 0)
			open_journal(&s->record[i], dir);
	for (uint32_t i = 0; i < atomic_load(&s->top) && e == 0; i++)
		if (atomic_load(&s->record[i].id) != 0)
			e = bury_children(s, &s->record[i], dead);
	for (uint32_t i = 0; i < atomic_load(&s->top) && e == 0; i++)
		if (atomic_load(&s->record[i].id) != 0)
			e = fetch_record(&s->record[i], dead, kept, t);
	return e;
}

int comeback_fetch(struct state *s, const char *dir, int device, struct fdstore *kept)
{
	struct tally t = {0};
	_cleanup_fd_ int dead = make_dead(device);
	int e = dead < 0 ? dead : fetch_all(s, dir, dead, kept, &t);

	if (e < 0) {
		log_error(
			"an earlier larderd's programs can't be taken over now: %s; they wait",
			strerror(-e));
		return e;
	}
	journal_remove_others(dir, has_record, s);
	fdstore_drop_others(kept, is_taken, s);
	atomic_store(&s->numbers_gone, 0);
	log_info(
		"an earlier larderd is gone: %u of its programs are taken over, %u have ended, "
		"%u can't be",
		t.taken, t.ended, t.lost);
	if (t.kept > 0)
		log_info("%u of their children had no agent, and were kept by the service "
			 "manager",
			t.kept);
	if (t.without_agent > 0)
		log_warn("%u of their children had no agent: those that live read zeros where "
			 "their memory was out",
			t.without_agent);
	return 0;
}
