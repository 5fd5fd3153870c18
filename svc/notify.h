/* Tells the service manager (systemd, or who else sets NOTIFY_SOCKET) how the service is:
 * sd_notify(3)'s protocol, a datagram of lines. Nothing when there is none, or it doesn't
 * listen; never blocks. */
#ifndef LARDER_NOTIFY_H
#define LARDER_NOTIFY_H

void notify_ready(void);
void notify_stopping(const char *status);
void notify_status(const char *status); /* a line for people */

#endif
