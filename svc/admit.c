#include "admit.h"
#include "policy.h"
#include "worker.h"

#include <pwd.h>
#include <stdio.h>
#include <string.h>

/* A user or group made meanwhile waits for no longer than this. */
enum { KNOWN_MS = 5000 };

static size_t read_groups(int socket_fd, gid_t gid, gid_t *ret)
{
	socklen_t size = ADMIT_GROUPS * sizeof(*ret);

	/* In more groups than fit: then only the first counts. */
	if (getsockopt(socket_fd, SOL_SOCKET, SO_PEERGROUPS, ret, &size) < 0)
		size = 0;
	size_t count = size / sizeof(*ret);
	if (count < ADMIT_GROUPS)
		ret[count++] = gid;
	return count;
}

static bool is_known(
	const struct admit_user *u, const struct admit_user *want, uint64_t generation)
{
	return u->until_ms > worker_now_ms() && u->generation == generation &&
	       u->uid == want->uid && u->group_count == want->group_count &&
	       memcmp(u->group, want->group, want->group_count * sizeof(gid_t)) == 0;
}

static void look_up(struct worker *w, struct admit_user *u)
{
	struct passwd entry, *found = NULL;
	char scratch[4096];

	if (getpwuid_r(u->uid, &entry, scratch, sizeof(scratch), &found) == 0 && found &&
		strlen(found->pw_name) < sizeof(u->name))
		snprintf(u->name, sizeof(u->name), "%s", found->pw_name);
	else
		snprintf(u->name, sizeof(u->name), "%u", u->uid);
	pthread_mutex_lock(&w->config_lock);
	u->generation = w->config_generation;
	u->may_attach = policy_may_attach(w->config, u->uid, u->group, u->group_count);
	pthread_mutex_unlock(&w->config_lock);
	u->until_ms = worker_now_ms() + KNOWN_MS;
}

const struct admit_user *admit_peer(struct worker *w, int socket_fd, uid_t uid, gid_t gid)
{
	struct admit_user want, *known = &w->admit.user[(uid ^ gid) % ADMIT_USERS];

	want.uid = uid;
	want.group_count = read_groups(socket_fd, gid, want.group);
	pthread_mutex_lock(&w->config_lock);
	uint64_t generation = w->config_generation;
	pthread_mutex_unlock(&w->config_lock);
	if (is_known(known, &want, generation))
		return known;
	known->uid = uid;
	known->group_count = want.group_count;
	memcpy(known->group, want.group, want.group_count * sizeof(gid_t));
	look_up(w, known);
	return known;
}
