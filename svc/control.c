#include "control.h"
#include "cleanup.h"
#include "evictor.h"
#include "histogram.h"
#include "quota.h"
#include "log.h"
#include "pager.h"
#include "pidns.h"
#include "readers.h"
#include "release.h"
#include "restorer.h"
#include "settings.h"
#include "state.h"
#include "waits.h"
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- one client ---- */

/* From a statm file; 0: none there. */
static uint64_t statm_resident(int dir, const char *name)
{
	char text[128];
	unsigned long long total, resident;
	_cleanup_fd_ int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (n <= 0)
		return 0;
	text[n] = '\0';
	return sscanf(text, "%llu %llu", &total, &resident) == 2 ? resident * PAGE_SIZE : 0;
}

/* Resident bytes of the program; 0 for a child whose pid isn't known. A leader that has exited
 * has no memory any more, though its threads go on: its agent's is the same. */
static uint64_t resident_bytes(const struct client *c)
{
	char name[32];
	pid_t agent = atomic_load(&c->agent_pid);
	uint64_t bytes = c->procdir < 0 ? 0 : statm_resident(c->procdir, "statm");

	if (bytes > 0 || agent == 0)
		return bytes;
	snprintf(name, sizeof(name), "/proc/%d/statm", (int)agent);
	return statm_resident(AT_FDCWD, name);
}

/* Packed bytes behind a client's pages, a leaf at a time so that no fault waits for long. */
static uint64_t stored_bytes(struct pager *p, struct client *c)
{
	struct store *store = c->worker->store;
	uint64_t bytes = 0, number = 0;

	for (bool more = true; more;) {
		gate_lock(c);
		size_t at = space_block_index(&c->space, number);
		more = at < c->space.block_count;
		if (more) {
			const struct leaf *leaf = c->space.block[at].leaf;
			number = c->space.block[at].number + 1;
			for (unsigned i = 0; leaf->out > 0 && i < BLOCK_PAGES; i++)
				if (entry_state(leaf->entry[i]) == PAGE_STORED)
					bytes += store_blob_length(
						store, entry_value(leaf->entry[i]));
		}
		gate_unlock(p, c);
	}
	return bytes;
}

/* Gate held. */
static void fill_waits(const struct client *c, struct client_stats *s)
{
	struct waits waits;

	waits_of(c, &waits);
	s->waiting_faults = waits.faults;
	s->oldest_fault_ms = waits.oldest_fault_ms;
	s->waiting_events = waits.events;
	s->unborn_ms = waits.unborn_ms;
	s->request_ms = waits.request_ms;
}

static void fill_stats(struct pager *p, struct client *c, struct client_stats *s)
{
	struct client_counts counts;
	struct terms terms;

	memset(s, 0, sizeof(*s));
	client_counted(c, &counts);
#define X(name) s->name = counts.name;
	CLIENT_COUNTERS(X)
#undef X
	s->resident_bytes = resident_bytes(c);
	s->stored_bytes = stored_bytes(p, c);
	s->charged_bytes = quota_charge(p, c);
	quota_terms(c->worker, c, &terms);
	s->limit_bytes = terms.client_limit;
	gate_lock(c);
	for (size_t i = 0; i < c->space.region_count; i++)
		s->managed_bytes += c->space.region[i].end - c->space.region[i].start;
	s->evicted_bytes = c->space.out_pages * PAGE_SIZE;
	fill_waits(c, s);
	gate_unlock(p, c);
}

/* Our number, as the view has it; 0 when it has none there. */
static pid_t in_view(int view, pid_t pid)
{
	pid_t number = 0;
	if (view == CONTROL_OURS || pid == 0)
		return view == CONTROL_OURS ? pid : 0;
	return pidns_number(view, pid, &number) < 0 ? 0 : number;
}

static bool is_seen(const struct client *c, int view)
{
	return view == CONTROL_OURS || in_view(view, c->pid) > 0;
}

static void fill_info(struct pager *p, struct client *c, int view, struct client_info *i)
{
	memset(i, 0, sizeof(*i));
	i->id = c->id;
	i->pid = in_view(view, c->pid);
	i->agent_pid = in_view(view, c->agent_pid);
	if (c->pidfd >= 0)
		pidns_own_number(c->pidfd, c->pid, &i->ns_pid);
	i->parent = c->parent;
	i->uid = c->uid;
	i->state = client_state(c);
	memcpy(i->exe, c->exe, sizeof(i->exe));
	memcpy(i->policy, c->policy, sizeof(i->policy));
	i->uptime_ms = worker_now_ms() - c->born_ms;
	gate_lock(c);
	memcpy(i->why, c->why, sizeof(i->why));
	gate_unlock(p, c);
	fill_stats(p, c, &i->stats);
}

int control_clients(struct worker *w, int view, struct client_info **ret, size_t *ret_count)
{
	struct client **client;
	struct client_info *info;
	struct pager pager;
	size_t count, seen = 0;
	int r = pager_init(&pager, w);

	if (r < 0)
		return r;
	r = worker_clients(w, &client, &count);
	if (r < 0) {
		pager_done(&pager);
		return r;
	}
	info = calloc(count ? count : 1, sizeof(*info));
	for (size_t i = 0; i < count; i++) {
		if (info && is_seen(client[i], view))
			fill_info(&pager, client[i], view, &info[seen++]);
		client_unref(client[i]);
	}
	free(client);
	pager_done(&pager);
	if (!info)
		return -ENOMEM;
	*ret = info;
	*ret_count = seen;
	return 0;
}

/* A reference, or NULL. */
static struct client *find_in_view(struct worker *w, int view, pid_t number)
{
	pid_t pid = number, again = number;

	if (number <= 0 || (view != CONTROL_OURS && pidns_our_number(view, number, &pid) < 0))
		return NULL;
	struct client *c = worker_find(w, pid);
	if (!c || view == CONTROL_OURS)
		return c;
	/* Still so, now that we hold the client: else the number went to another process
	 * between the two look-ups. */
	if (pidns_our_number(view, number, &again) == 0 && again == pid)
		return c;
	client_unref(c);
	return NULL;
}

int control_client(struct worker *w, int view, pid_t pid, struct client_info *ret)
{
	struct client *c = find_in_view(w, view, pid);
	struct pager pager;
	int r;

	if (!c)
		return -ESRCH;
	r = pager_init(&pager, w);
	if (r == 0) {
		fill_info(&pager, c, view, ret);
		pager_done(&pager);
	}
	client_unref(c);
	return r;
}

/* ---- the service ---- */

static uint64_t allocated_bytes(int fd)
{
	struct stat st;
	return fd >= 0 && fstat(fd, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

static void sum_clients(struct worker *w, struct service_stats *s, uint64_t *ret_links,
	struct client_counts *ret_counts)
{
	struct client **client;
	size_t count;

	if (worker_clients(w, &client, &count) < 0)
		return;
	s->clients = count;
	for (size_t i = 0; i < count; i++) {
		struct client *c = client[i];
		struct waits waits;

		pthread_mutex_lock(&c->gate);
		for (size_t k = 0; k < c->space.region_count; k++)
			s->managed_bytes += c->space.region[k].end - c->space.region[k].start;
		waits_of(c, &waits);
		pthread_mutex_unlock(&c->gate);
		if (waits.oldest_fault_ms > s->oldest_fault_ms)
			s->oldest_fault_ms = waits.oldest_fault_ms;
		if (atomic_load(&c->pending))
			worker_retry_later(w, c, 1);
		if (!c->counted)
			counters_add(ret_counts, &c->counts);
		*ret_links += allocated_bytes(c->link_fd);
		client_unref(c);
	}
	free(client);
}

void control_service_stats(struct worker *w, struct service_stats *s)
{
	struct store_stats st;
	struct histogram_sum latency;
	struct client_counts counts;
	uint64_t links = 0;

	memset(s, 0, sizeof(*s));
	memset(&counts, 0, sizeof(counts));
	memset(&latency, 0, sizeof(latency));
	store_stats(w->store, &st);
	readers_latency(w->readers, &latency);
	sum_clients(w, s, &links, &counts);
	s->stopping = restorer_releases(w->restorer);
	s->uptime_s = (worker_now_ms() - w->started_ms) / 1000;
	/* A page that forked children share counts once, as its memory would. */
	s->evicted_bytes = st.blobs * STORE_PAGE;
	s->stored_bytes = st.blob_bytes;
	s->leaf_bytes = atomic_load(&w->graveyard.leaves) * sizeof(struct leaf);
	s->link_bytes = links;
	s->overhead_bytes = st.header_bytes + st.dead_bytes + st.index_bytes + st.table_bytes +
			    s->leaf_bytes + s->link_bytes;
	s->dead_bytes = st.dead_bytes;
	s->baseline_bytes = w->baseline_bytes;
	s->store_limit_bytes = st.limit_bytes;
	pthread_mutex_lock(&w->config_lock);
	s->owner_limit_bytes = settings_owner_limit(w->config);
	pthread_mutex_unlock(&w->config_lock);
#define X(codec, id)                                                                           \
	s->codec##_pages = st.codec_blobs[id];                                                 \
	s->codec##_bytes = st.codec_bytes[id];
	X(fill, CODEC_FILL)
	X(raw, CODEC_RAW)
	X(lz4, CODEC_LZ4)
	X(zstd, CODEC_ZSTD)
#undef X
#define X(name) s->name = atomic_load(&worker_counts(w)->name);
	WORKER_COUNTERS(X)
#undef X
	counters_add_up(w->counters, &counts);
	counters_add(&counts, &w->slotless);
	s->faults = counts.faults;
	s->pages_evicted = counts.pages_evicted;
	s->pages_restored = counts.pages_restored;
	s->moves_unreported = counts.moves_unreported;
	s->events = counts.events_fork + counts.events_remap + counts.events_remove +
		    counts.events_unmap;
	s->fault_p50_us = histogram_percentile(&latency, 50);
	s->fault_p99_us = histogram_percentile(&latency, 99);
	s->fault_max_us = latency.max_us;
	trouble_ages(w, s->trouble_ms);
	s->upgrades = atomic_load(&w->state->upgrades);
	s->pause_ms = atomic_load(&w->state->idle_ms);
}

/* ---- orders ---- */

int control_evict(struct worker *w, uint64_t id, struct evict_result *ret)
{
	struct client *c = worker_by_id(w, id);
	int r;

	if (!c)
		return -ESRCH;
	r = evictor_evict(w->evictor, c, ret);
	client_unref(c);
	return r;
}

int control_release(struct worker *w, uint64_t id, struct release_result *ret)
{
	struct client *c = worker_by_id(w, id);
	struct pager pager;
	int r;

	if (!c)
		return -ESRCH;
	r = pager_init(&pager, w);
	if (r == 0) {
		uint64_t before = atomic_load(&client_counts(c)->pages_restored);
		r = release_client(&pager, c);
		if (r == 0)
			ret->restored_pages =
				atomic_load(&client_counts(c)->pages_restored) - before;
		pager_done(&pager);
	}
	client_unref(c);
	return r;
}

int control_release_all(struct worker *w, struct release_all_result *ret)
{
	struct pager pager;
	int r = pager_init(&pager, w);

	if (r < 0)
		return r;
	release_all(&pager, ret);
	pager_done(&pager);
	return 0;
}
