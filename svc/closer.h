/* Closing what a client may have sent, or holds an end of: a close can wait (a TCP socket that
 * lingers, a file of a file system in user space), and a socket's own close closes what is
 * still queued in it. So other threads do it, as many as there are closes that wait. */
#ifndef LARDER_CLOSER_H
#define LARDER_CLOSER_H

/* Takes the descriptors; -1 is fine. Never blocks. While too many closes wait already, they
 * stay open: better late than waited for. */
void closer_close(int fd);
/* The same for one whose peer waits for nothing: within the next few, or by closer_flush. */
void closer_close_later(int fd);
void closer_flush(void);
void closer_close_all(const int *fds, unsigned count);
/* How many are open still. */
unsigned closer_waiting(void);

#endif
