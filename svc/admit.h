/* What larder.conf says of users, for a while: the look-up of a name reads files or asks a
 * server, and thousands of programs may start in a second. The main thread's. */
#ifndef LARDER_ADMIT_H
#define LARDER_ADMIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { ADMIT_GROUPS = 256, ADMIT_USERS = 16 };

struct admit_user {
	bool may_attach;
	char name[64]; /* or the number, where it has no name */
	/* What this was found for. */
	uid_t uid;
	size_t group_count;
	gid_t group[ADMIT_GROUPS];
	uint64_t until_ms, generation; /* it holds for so long, and for these settings */
};

struct admit {
	struct admit_user user[ADMIT_USERS];
};

struct worker;

/* The peer of a connected socket, who is this user. Good until the next call. */
const struct admit_user *admit_peer(struct worker *w, int socket_fd, uid_t uid, gid_t gid);

#endif
