#include "gone.h"
#include "attach.h"
#include "birth.h"
#include "cleanup.h"
#include "evictor.h"
#include "fdstore.h"
#include "log.h"
#include "maps.h"
#include "order.h"
#include "owner.h"
#include "points.h"
#include "pulse.h"
#include "readers.h"
#include "sequence.h"
#include "waits.h"
#include "worker.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

/* An agent that isn't stopped follows its program within a millisecond of CPU time. */
enum { FOLLOW_MS = 500 };

static void drop_client(struct worker *w, struct client *c)
{
	if (client_agent_end(c) >= 0)
		epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, client_agent_end(c), NULL);
	if (c->pidfd >= 0)
		epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, c->pidfd, NULL);
	readers_remove(w->readers, c);
	fdstore_forget(c);

	/* First: whoever finds its leaves dead finds it there, and its rows go with theirs. */
	worker_table_end(w, c);

	/* An eviction that is under way finds an empty space. */
	pthread_mutex_lock(&c->gate);
	/* Forks of its that were read live on. */
	birth_pass_on(c);
	sequence_flush(c);
	space_done(&c->space);
	atomic_store(&c->dropped, true);
	pthread_mutex_unlock(&c->gate);
	if (!c->counted)
		counters_add(w->counters ? &w->counters->slotless : &w->slotless, &c->counts);
	if (c->brief_key)
		brief_ended(&w->brief, c->brief_key,
			worker_now_ms() - c->born_ms < c->brief_age_ms, worker_now_ms());
	evictor_forget(w->evictor, atomic_load(&c->indexed));
}

/* Only the kernel's word that the address space is gone frees pages (rule 3): a hang-up or a
 * dead leader is a hint, for others may share the memory. */
static bool is_gone(const struct client *c)
{
	return client_state(c) == CLIENT_GONE || client_memory_gone(c);
}

/* The program is gone from this memory, and the agent has nothing to do there any more. It sees
 * so, or is told; one that is stopped or frozen would keep the memory for ever. */
static void end_agent(struct client *c)
{
	if (c->ended_ms == 0) {
		c->ended_ms = worker_now_ms();
		order_exit(c->link, c->doorbell);
	} else if (worker_now_ms() - c->ended_ms >= FOLLOW_MS && client_agent_alive(c)) {
		log_debug("client %d (%s): its agent doesn't follow, and is killed",
			(int)c->pid, c->exe);
		syscall(SYS_pidfd_send_signal, c->agent_pidfd, SIGKILL, NULL, 0);
	}
}

/* Does the agent still share its program's memory? If not, the program runs another image, and
 * the old one lives by the agent only. A hang-up of the exec pipe is a hint: closefrom(3) makes
 * one too, and a forked child that holds the pipe prevents it. */
static void end_if_execed(struct client *c)
{
	pid_t task;

	if (process_share_memory(c->pid, c->pidfd, c->agent_pid, -1) == 0 &&
		/* A leader that has exited has no memory; its threads go on. */
		maps_memory_task(c->procdir, c->agent_pid, &task) == -ENOENT)
		end_agent(c);
}

/* A forked child that is answered no more, and has no agent: without a name for it, nobody
 * could tell which one hangs. Here, as it takes longer than a reader has. True: it was looked
 * for. One a second will do: others want this thread too. */
static bool name_failed(struct client *c)
{
	pid_t pid;

	if (c->named || c->pidfd >= 0 || pthread_mutex_trylock(&c->gate) != 0)
		return false;
	bool failed = c->failed;
	pthread_mutex_unlock(&c->gate);
	if (atomic_load(&c->pending))
		worker_retry_later(c->worker, c, 1);
	if (!failed)
		return false;
	/* A long path is known by its end only. */
	_cleanup_fd_ int pidfd = owner_find(c->uffd, c->exe[0] == '/' ? c->exe : NULL, &pid);
	if (pidfd == -EAGAIN)
		return true;
	c->named = true;
	if (pidfd >= 0)
		log_error("client %llu (%s): the child that isn't answered is process %d",
			(unsigned long long)c->id, c->exe, (int)pid);
	return true;
}

static bool drop_if_gone(struct worker *w, struct client *c)
{
	if (!is_gone(c))
		return false;
	log_debug("client %d (%s): gone", (int)c->pid, c->exe);
	point(POINT_ended);
	drop_client(w, c);
	return true;
}

/* Does anything need the timer? Any client does: those without a pidfd, those on their way out,
 * and all others because an exec after closefrom(3) is told by nobody. */
bool gone_sweep(struct worker *w)
{
	struct client **client;
	size_t count;
	bool again = false, searched = false;

	if (worker_clients(w, &client, &count) < 0)
		return true;
	for (size_t i = 0; i < count; i++) {
		struct client *c = client[i];
		pulse_begin();
		if (!drop_if_gone(w, c)) {
			again = true;
			if (c->ended_ms > 0)
				end_agent(c);
			else if (c->pidfd >= 0 && c->agent_pid != 0)
				end_if_execed(c);
			else if (!searched)
				searched = name_failed(c);
			fdstore_sweep(c);
			waits_look(c);
		}
		pulse_end();
		client_unref(c);
	}
	free(client);
	return again;
}

/* Where programs end by the thousand, a look at all of them for each would be too much. */
static void look_after(struct worker *w, struct client *c)
{
	if (!drop_if_gone(w, c))
		worker_arm_timer(w);
}

void gone_agent(struct worker *w, uint64_t id)
{
	struct client *c = worker_by_id(w, id);

	if (!c)
		return;
	/* All it ever says is that its exec pipe hung up. */
	if (c->socket >= 0 && attach_discard(c->socket)) {
		end_if_execed(c);
	} else {
		/* The agent is gone; the program mostly too. If not, it is served, but no more
		 * is taken. */
		epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, client_agent_end(c), NULL);
		c->agent_pid = 0;
		look_after(w, c);
	}
	client_unref(c);
}

void gone_program(struct worker *w, uint64_t id)
{
	struct client *c = worker_by_id(w, id);

	if (!c)
		return;
	epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, c->pidfd, NULL);
	/* The agent sees the same and ends; its hang-up brings us back. */
	end_agent(c);
	look_after(w, c);
	client_unref(c);
}
