/* The handshake of attach.sock (protocol.h). The main thread's; nothing here blocks. */
#ifndef LARDER_ATTACH_H
#define LARDER_ATTACH_H

struct worker;
struct attachment;

/* Accepts one connection and decides whether the peer may attach. NULL in *ret with 0: it was
 * turned away. */
int attach_accept(struct worker *w, struct attachment **ret);
int attach_fd(const struct attachment *a);

/* The socket is readable or hung up. 0: wait for more. 1: done, with or without a new client.
 * Negative errno: failed. In the last two cases the attachment is over and freed. */
int attach_advance(struct worker *w, struct attachment *a);
void attach_free(struct attachment *a);

#endif
