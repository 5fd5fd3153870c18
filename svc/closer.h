/* Closing what a client may have sent, or holds an end of: a close can wait (a TCP socket that
 * lingers, a file of a file system in user space), and a socket's own close closes what is
 * still queued in it. So another thread does it. */
#ifndef LARDER_CLOSER_H
#define LARDER_CLOSER_H

/* Takes the descriptor; -1 is fine. Never blocks. When too many closes are waiting already, the
 * descriptor stays open: better lost than waited for. */
void closer_close(int fd);

#endif
