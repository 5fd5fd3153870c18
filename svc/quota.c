#include "quota.h"
#include "pager.h"
#include "policy.h"
#include "settings.h"
#include "worker.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(
	(int)POLICY_LEVEL_MAX == (int)STORE_ZSTD_LEVEL_MAX, "policies may say what zstd knows");

_Static_assert((int)POLICY_UNSHARE_NEVER == (int)UNSHARE_NEVER &&
		       (int)POLICY_UNSHARE_ALWAYS == (int)UNSHARE_ALWAYS,
	"the same choices");

static const double MIB = 1 << 20;

/* config_lock held. A policy that a reload removed: that of all others. */
static const struct policy *policy_locked(const struct worker *w, const struct client *c)
{
	struct policy_subject subject = {.exe = c->exe, .uid = c->uid, .policy = c->policy};
	const struct policy *p = policy_match(w->config, &subject);

	if (p)
		return p;
	subject.policy = "default";
	return policy_match(w->config, &subject);
}

void quota_terms(struct worker *w, const struct client *c, struct terms *ret)
{
	pthread_mutex_lock(&w->config_lock);
	const struct policy *p = policy_locked(w, c);
	bool zstd = p->codec == POLICY_ZSTD;
	*ret = (struct terms){
		.how = {.codec = zstd ? CODEC_ZSTD : CODEC_LZ4,
			.level = zstd ? (int)p->level : 0},
		.later = {.codec = CODEC_ZSTD, .level = (int)p->level},
		.recompress_after_ms = p->recompress_after_ms,
		.unshare = (enum unshare)p->unshare,
		.keep_huge = p->keep_huge,
		.client_limit = p->memory_limit,
		.owner_limit = settings_owner_limit(w->config),
	};
	pthread_mutex_unlock(&w->config_lock);
}

static uint64_t charge_leaf(const struct store *store, const struct leaf *leaf)
{
	uint32_t sharers = atomic_load(&leaf->refs);
	uint64_t bytes = 0;

	for (unsigned i = 0; leaf->out > 0 && i < BLOCK_PAGES; i++)
		if (entry_state(leaf->entry[i]) == PAGE_STORED)
			bytes += store_blob_share(store, entry_value(leaf->entry[i]), sharers);
	return bytes;
}

uint64_t quota_charge(struct pager *p, struct client *c)
{
	uint64_t bytes = 0, number = 0;

	for (bool more = true; more;) {
		gate_lock(c);
		size_t at = space_block_index(&c->space, number);
		more = at < c->space.block_count;
		if (more) {
			number = c->space.block[at].number + 1;
			bytes += charge_leaf(c->worker->store, c->space.block[at].leaf);
		}
		gate_unlock(p, c);
	}
	return bytes;
}

static int charge_owner(struct pager *p, uid_t uid, uint64_t *ret)
{
	struct client **client;
	uint64_t bytes = 0;
	size_t count;
	int r = worker_clients(p->worker, &client, &count);

	if (r < 0)
		return r;
	for (size_t i = 0; i < count; i++) {
		if (client[i]->uid == uid)
			bytes += quota_charge(p, client[i]);
		client_unref(client[i]);
	}
	free(client);
	*ret = bytes;
	return 0;
}

static uint64_t left(uint64_t limit, uint64_t charge)
{
	return limit > charge ? limit - charge : 0;
}

int quota_room(struct pager *p, struct client *c, const struct terms *t, uint64_t *ret_room,
	char *why, size_t why_size)
{
	uint64_t charge;
	int r = charge_owner(p, c->uid, &charge);

	if (r < 0)
		return r;
	uint64_t room = left(t->owner_limit, charge);
	snprintf(why, why_size,
		"owner-limit in [store]: the programs of uid %u may have %.1f MiB in the "
		"store; "
		"raise it, or release one of them",
		c->uid, (double)t->owner_limit / MIB);
	if (t->client_limit != 0) {
		charge = quota_charge(p, c);
		if (left(t->client_limit, charge) < room) {
			room = left(t->client_limit, charge);
			snprintf(why, why_size,
				"memory-limit of policy %s: the program may have %.1f MiB in "
				"the store; raise it, or release the program",
				c->policy, (double)t->client_limit / MIB);
		}
	}
	*ret_room = room;
	return 0;
}

void quota_store_full(struct worker *w, char *why, size_t why_size)
{
	struct store_stats st;

	store_stats(w->store, &st);
	snprintf(why, why_size,
		"the store is full: memory-limit in [store] is %.1f MiB; raise it, or release "
		"programs",
		(double)st.limit_bytes / MIB);
}
