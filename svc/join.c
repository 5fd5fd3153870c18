#include "join.h"
#include "birth.h"
#include "cleanup.h"
#include "pagemap.h"
#include "sequence.h"
#include "uffd.h"
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

int join_prove(int uffd, int pagemap, uint64_t bell, unsigned questions)
{
	uint64_t word;
	uint32_t rounds;
	int r = uffd_register(uffd, bell, PAGE_SIZE, UFFDIO_REGISTER_MODE_WP);

	if (r < 0)
		return r;
	if (getrandom(&rounds, sizeof(rounds), GRND_NONBLOCK) < 0)
		rounds = 0x5a5a5a5a;
	rounds = (rounds & ~3u) | 1; /* on and off at least */
	/* At random, so that nobody who toggles the bit by other means answers right. */
	for (int i = 0; r == 0 && i < (int)questions; i++) {
		int on = rounds >> i & 1;
		r = uffd_protect(uffd, bell, PAGE_SIZE, on);
		if (r == 0)
			r = pagemap_words(pagemap, bell, 1, &word);
		if (r == 0 && (word & PM_UFFD_WP ? 1 : 0) != on)
			r = -EPERM;
	}
	if (r == 0)
		r = uffd_protect(uffd, bell, PAGE_SIZE, true);
	if (r < 0) {
		uffd_unregister(uffd, bell, PAGE_SIZE);
		/* Its shim may ring already. The kernel wakes whoever waits in what it
		 * unregisters only where that waits for missing pages. */
		uffd_wake(uffd, bell, PAGE_SIZE);
	}
	return r;
}

pid_t join_pid_of(int pidfd)
{
	char path[64], text[1024];
	int pid;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n < 0)
		return -EBADF;
	text[n] = '\0';
	const char *line = strstr(text, "\nPid:");
	if (!line || sscanf(line, "\nPid: %d", &pid) != 1)
		return -EBADF;
	return pid > 0 ? pid : -ESRCH;
}

/* Any program that is taken over may have forked it; that it has may not be known yet. */
bool join_expected(struct worker *w)
{
	pthread_mutex_lock(&w->lock);
	bool any = w->client_count + w->ended_count > 0;
	pthread_mutex_unlock(&w->lock);
	return any;
}

uint32_t join_random_page(void)
{
	const uint32_t first = (1ULL << 40) / PAGE_SIZE;
	uint32_t page = 0;

	while (page < first)
		if (getrandom(&page, sizeof(page), 0) < 0)
			usleep(1000);
	return page;
}

/* The gate is let go, with what came meanwhile for somebody to look at: a client that has no
 * faults and no events is looked at by nobody else. */
static void let_go(struct client *c, bool doubtful)
{
	pthread_mutex_unlock(&c->gate);
	if (doubtful || atomic_load(&c->pending))
		worker_retry_later(c->worker, c, 1);
}

static int by_id(const void *a, const void *b)
{
	const struct client *const *x = a, *const *y = b;
	return ((*x)->id > (*y)->id) - ((*x)->id < (*y)->id);
}

/* Those with a higher id than `above`, which are mostly none, in the order of their ids. */
static int take_above(
	struct worker *w, uint64_t above, bool ended, struct client ***ret, size_t *ret_count)
{
	struct client **client;
	size_t count, n = 0;
	int r = ended ? worker_clients_and_ended(w, &client, &count)
		      : worker_clients(w, &client, &count);

	if (r < 0)
		return r;
	for (size_t i = 0; i < count; i++)
		if (client[i]->id > above)
			client[n++] = client[i];
		else
			client_unref(client[i]);
	qsort(client, n, sizeof(struct client *), by_id);
	*ret = client;
	*ret_count = n;
	return 0;
}

/* ---- parents ---- */

/* Is there no FORK of its that was read and isn't applied? Whoever reads one has the gate until
 * it is applied, or put where it waits. */
static bool is_clear(struct client *c)
{
	if (atomic_load(&c->dropped))
		return true;
	if (pthread_mutex_trylock(&c->gate) != 0)
		return false;
	bool clear = !sequence_has_fork(c) && !birth_has_fork(c);
	let_go(c, !clear);
	return clear;
}

/* A child that is made meanwhile has a higher id than its parent. */
static int clear_parents(struct worker *w, struct join_search *s, uid_t uid)
{
	bool patient = s->turns < JOIN_TURNS_FOR_PARENTS, clear = true;
	struct client **client;
	size_t count;

	if (take_above(w, s->cleared, true, &client, &count) < 0)
		return -EAGAIN;
	for (size_t i = 0; i < count; i++) {
		struct client *c = client[i];
		clear = clear && (is_clear(c) || (!patient && (c->uid != uid || c->hostile)));
		if (clear)
			s->cleared = c->id;
		client_unref(c);
	}
	free(client);
	return clear ? 0 : -EAGAIN;
}

/* ---- the child ---- */

static bool is_expected(const struct client *c)
{
	return client_state(c) == CLIENT_FORKED && c->agent_pid == 0;
}

/* To register a page that is registered already, and take that back, would lose what is out
 * there: so not where anything of ours is, nor while that may just be changing. */
static int ask(struct client *c, int pagemap, uint64_t bell)
{
	int r = -EAGAIN;

	if (pthread_mutex_trylock(&c->gate) != 0)
		return r;
	if (space_region_at(&c->space, bell))
		r = -EPERM;
	else if (!space_in_doubt(&c->space)) /* with the fence up, EAGAIN */
		r = uffd_registered(c->uffd, bell);
	if (r == 0)
		r = join_prove(c->uffd, pagemap, bell, 32);
	else if (r == 1)
		r = -EPERM;
	let_go(c, space_in_doubt(&c->space));
	return r;
}

/* Asking changes nothing in a child that has nothing mapped there, and only this one has. It
 * has had its bell since before it was looked for, so who isn't it never will be. */
static int ask_all(struct worker *w, struct join_search *s, uid_t uid, int pagemap,
	uint64_t bell, struct client **ret)
{
	bool patient = s->turns < JOIN_TURNS_FOR_CHILDREN;
	struct client **client, *found = NULL;
	size_t count;
	int result = -ENOENT;
	unsigned asks = 0;

	if (take_above(w, s->asked, false, &client, &count) < 0)
		return -EAGAIN;
	for (size_t i = 0; i < count; i++) {
		struct client *c = client[i];
		int r = -ENOENT;
		if (!found && asks <= JOIN_ASKS && is_expected(c))
			r = ++asks > JOIN_ASKS ? -EAGAIN : ask(c, pagemap, bell);
		if (r == 0)
			found = c;
		else if (r == -EAGAIN && (patient || c->uid == uid || asks > JOIN_ASKS))
			result = r;
		if (result == -ENOENT)
			s->asked = c->id;
		if (c != found)
			client_unref(c);
	}
	free(client);
	if (!found)
		return result;
	*ret = found;
	return 0;
}

int join_find(struct worker *w, struct join_search *s, uid_t uid, int pagemap, uint64_t bell,
	struct client **ret)
{
	int r = ask_all(w, s, uid, pagemap, bell, ret);

	/* What was applied since isn't among those that were asked. */
	if (r == -ENOENT) {
		r = clear_parents(w, s, uid);
		if (r == 0)
			r = ask_all(w, s, uid, pagemap, bell, ret);
	}
	s->turns++;
	return r;
}
