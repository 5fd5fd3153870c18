#include "join.h"
#include "cleanup.h"
#include "pagemap.h"
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

static bool is_expected(const struct client *c)
{
	return client_state(c) == CLIENT_FORKED && c->agent_pid == 0;
}

bool join_expected(struct worker *w)
{
	bool any = false;

	pthread_mutex_lock(&w->lock);
	for (size_t i = 0; i < w->client_count && !any; i++)
		any = is_expected(w->client[i]);
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
	bool doubtful = space_in_doubt(&c->space);
	pthread_mutex_unlock(&c->gate);
	/* One that has no faults and no events is looked at by nobody else. */
	if (doubtful || atomic_load(&c->pending))
		worker_retry_later(c->worker, c, 1);
	return r;
}

/* Asking changes nothing in a child that has nothing mapped there, and only this one has. */
int join_find(struct worker *w, uid_t uid, int pagemap, uint64_t bell, struct client **ret)
{
	struct client **client, *found = NULL;
	size_t count;
	int r = worker_clients(w, &client, &count), result = -ENOENT;

	if (r < 0)
		return -EAGAIN;
	for (size_t i = 0; i < count; i++) {
		if (!found && client[i]->uid == uid && is_expected(client[i])) {
			r = ask(client[i], pagemap, bell);
			if (r == 0)
				found = client[i];
			else if (r == -EAGAIN)
				result = r;
		}
		if (client[i] != found)
			client_unref(client[i]);
	}
	free(client);
	if (!found)
		return result;
	*ret = found;
	return 0;
}
