/* The handshake of attach.sock (protocol.h). The main thread's; nothing here blocks. */
#ifndef LARDER_ATTACH_H
#define LARDER_ATTACH_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct client;
struct worker;
struct attachment;

/* Accepts one connection, while so many handshakes are under way, and decides whether the peer
 * may attach. NULL in *ret with 0: it was turned away. */
int attach_accept(struct worker *w, size_t under_way, struct attachment **ret);
/* So few that nobody is taken over for it. Any thread. */
bool attach_descriptors_are_few(const struct worker *w);
int attach_fd(const struct attachment *a);
uid_t attach_uid(const struct attachment *a);

/* The socket is readable or hung up. 0: wait for more. 1: done, with or without a new client.
 * Negative errno: failed. In the last two cases the attachment is over and freed. */
int attach_advance(struct worker *w, struct attachment *a);
void attach_free(struct attachment *a);

/* Tells a forked child's agent that it is one. Again, where a worker died before it noted that
 * it had. */
int attach_adopted(struct client *c);

/* Reads one message of an attached client's agent, and throws it away with all that came with
 * it. False: the other end is gone. */
bool attach_discard(int socket_fd);

#endif
