/* The statistics server: HTTP/1.1 on a unix socket, the only door for `larder status`,
 *Prometheus and scripts. It knows the worker only by control.h.
 *
 *	GET  /v1/status              service and clients
 *	GET  /v1/clients/PID         one client
 *	GET  /metrics                the same as Prometheus text
 *	POST /v1/clients/PID/evict   takes all that may be taken, answers when it is done
 *	POST /v1/clients/PID/release puts everything back
 *	POST /v1/reload              reads the config file again
 *
 * Who asks is told by SO_PEERCRED and SO_PEERPIDFD as the connection begins. A PID is the
 *number that the asker itself would use: whoever is in another pid namespace than the service
 *(a container) speaks of, and sees, programs in that namespace and those below it. root and the
 *service's own user see and may do everything; others see the service's totals and their own
 *clients, and may evict and release these. Errors are {"error": "..."} with 400, 403, 404, 405,
 *409, 413, 500 or 503. */
#ifndef LARDER_HTTP_H
#define LARDER_HTTP_H

#include <sys/types.h>

struct http;
struct worker;

/* Whose the other end of a connected socket is. */
struct http_peer {
	uid_t uid;
	int view; /* as in control.h; owned by the connection */
};
/* 0 or negative errno. */
typedef int http_peer_fn(int fd, struct http_peer *ret);

/* Serves on listen_fd, a listening AF_UNIX stream socket, until http_stop; each connection has
 * a thread of its own. listen_fd stays the caller's (it is duplicated), and so does w, which
 * must outlive the server. Ignore SIGPIPE first. 0 or negative errno. */
int http_start(struct http **ret, struct worker *w, int listen_fd, uid_t service_uid);

/* The same with another way to tell who asks (tests). */
int http_start_peer(struct http **ret, struct worker *w, int listen_fd, uid_t service_uid,
	http_peer_fn *peer);

/* Waits for requests that are being answered, so call it before control functions stop working.
 * NULL is fine. */
void http_stop(struct http *h);

#endif
