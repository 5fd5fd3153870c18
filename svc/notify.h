/* Tells the service manager (systemd, or who else sets NOTIFY_SOCKET) how the service is:
 * sd_notify(3)'s protocol, a datagram of lines. Nothing when there is none, or it doesn't
 * listen; never blocks. */
#ifndef LARDER_NOTIFY_H
#define LARDER_NOTIFY_H

#include <stdbool.h>

void notify_ready(void);
void notify_stopping(const char *status);
void notify_status(const char *status); /* a line for people */

/* How often it wants to hear that this process is well, in ms; 0: never, or another's. */
unsigned notify_alive_ms(void);
/* For notify_alive: what it says needs no descriptor then but this one; -1: nobody listens. */
int notify_open(void);
void notify_alive(int fd);
/* Another binary is to take over, and that nothing came of it. fd: the same. */
void notify_reloading(int fd);
void notify_ready_again(int fd);

/* Is there one? */
bool notify_can(void);
/* It keeps this descriptor under that name, and gives it to the next process that it starts.
 * False: it wasn't told. */
bool notify_store(const char *name, int fd);
void notify_store_remove(const char *name);

#endif
