/* libmicrohttpd's only user. A thread per connection, because evict blocks its thread until all
 * is stored. What one user can take from the others is bounded: connections, idle time, header
 * and body size. */
#include "http.h"

#include "cleanup.h"
#include "kernel.h"
#include "pidns.h"
#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <microhttpd.h>
#include <pthread.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>

enum {
	CONNECTIONS = 64,
	USER_CONNECTIONS = 16,	  /* of one user who isn't privileged */
	IDLE_SECONDS = 10,	  /* a connection that says nothing for so long is closed */
	HEADER_BYTES = 16 * 1024, /* request line, headers and the buffer for both ways */
	BODY_BYTES = 4 * 1024,	  /* no request needs one, but tools send them */
	STACK_BYTES = 256 * 1024, /* the service locks its memory: 8 MiB each would be pinned */
};

struct user {
	uid_t uid;
	unsigned connections; /* 0: the slot is free */
};

struct http {
	struct worker *w; /* borrowed */
	uid_t service_uid;
	http_peer_fn *peer;
	struct MHD_Daemon *daemon;	/* owned */
	pthread_mutex_t lock;		/* a leaf: nothing is called under it */
	struct user users[CONNECTIONS]; /* lock */
};

/* Who is connected */

/* An asker that ended is turned away: nobody can say whose numbers it spoke in. */
static int view_of_socket(int fd, int *ret)
{
	int pidfd;
	socklen_t size = sizeof(pidfd);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size) < 0)
		return -errno;
	int pidns = pidns_open(pidfd);
	close(pidfd);
	if (pidns < 0)
		return pidns;
	if (pidns_is_ours(pidns)) {
		close(pidns);
		pidns = CONTROL_OURS;
	}
	*ret = pidns;
	return 0;
}

static int peer_of_socket(int fd, struct http_peer *ret)
{
	struct ucred cred;
	socklen_t size = sizeof(cred);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0)
		return -errno;
	ret->uid = cred.uid;
	return view_of_socket(fd, &ret->view);
}

static void peer_free(struct http_peer *peer)
{
	if (peer && peer->view >= 0)
		close(peer->view);
	free(peer);
}

static bool is_privileged(const struct http *h, uid_t uid)
{
	return uid == 0 || uid == h->service_uid;
}

static struct user *user_slot_locked(struct http *h, uid_t uid)
{
	struct user *free_slot = NULL;
	for (size_t i = 0; i < CONNECTIONS; i++) {
		struct user *u = &h->users[i];
		if (u->connections > 0 && u->uid == uid)
			return u;
		if (u->connections == 0)
			free_slot = u;
	}
	if (free_slot)
		free_slot->uid = uid;
	return free_slot;
}

static bool user_enter(struct http *h, uid_t uid)
{
	pthread_mutex_lock(&h->lock);
	struct user *u = user_slot_locked(h, uid);
	bool may = u && (is_privileged(h, uid) || u->connections < USER_CONNECTIONS);
	if (may)
		u->connections++;
	pthread_mutex_unlock(&h->lock);
	return may;
}

static void user_leave(struct http *h, uid_t uid)
{
	pthread_mutex_lock(&h->lock);
	struct user *u = user_slot_locked(h, uid);
	if (u)
		u->connections--;
	pthread_mutex_unlock(&h->lock);
}

/* NULL: unknown, or has enough connections. */
static struct http_peer *peer_new(struct http *h, int fd)
{
	struct http_peer *peer = malloc(sizeof(*peer));
	if (!peer)
		return NULL;
	peer->view = CONTROL_OURS;
	if (h->peer(fd, peer) < 0 || !user_enter(h, peer->uid)) {
		peer_free(peer);
		return NULL;
	}
	return peer;
}

/* libmicrohttpd calls this as a connection begins and as it ends. */
static void on_connection(void *cls, struct MHD_Connection *connection, void **context,
	enum MHD_ConnectionNotificationCode code)
{
	struct http *h = cls;
	if (code == MHD_CONNECTION_NOTIFY_STARTED) {
		int fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)
				 ->connect_fd;
		*context = peer_new(h, fd);
		if (!*context)
			shutdown(fd, SHUT_RDWR); /* it then sees an end and closes */
		return;
	}
	struct http_peer *peer = *context;
	if (peer)
		user_leave(h, peer->uid);
	peer_free(peer);
	*context = NULL;
}

/* Requests */

struct request {
	struct http *h;
	struct MHD_Connection *connection;
	uid_t uid;
	int view; /* borrowed from the connection */
	bool privileged;
	pid_t pid; /* of the path and in the view, 0 = has none */
	/* the answer */
	unsigned status;
	char *body; /* owned; NULL: out of memory */
	const char *content_type;
	const char *allow; /* with 405 */
};

__attribute__((format(printf, 3, 4))) static void answer_error(
	struct request *req, unsigned status, const char *format, ...)
{
	char message[512];
	va_list ap;
	va_start(ap, format);
	vsnprintf(message, sizeof(message), format, ap);
	va_end(ap);
	req->status = status;
	req->body = report_error(message);
}

static void answer(struct request *req, char *body)
{
	req->status = MHD_HTTP_OK;
	req->body = body;
}

/* What the errors of control.h mean over HTTP. */
static const struct failure {
	int error;
	unsigned status;
	const char *text;
} failures[] = {
	{ESRCH, MHD_HTTP_NOT_FOUND, "not a client of this service"},
	{EOPNOTSUPP, MHD_HTTP_CONFLICT, "has no agent (a forked child)"},
	{EAGAIN, MHD_HTTP_SERVICE_UNAVAILABLE, "is leaving, or busy: try again"},
	{ENOSPC, MHD_HTTP_SERVICE_UNAVAILABLE,
		"the machine has no more room for its pages: add swap or end programs, and "
		"release it again"},
	{ETIMEDOUT, MHD_HTTP_SERVICE_UNAVAILABLE,
		"not all could be put back: its memory limit leaves no room, or its events "
		"don't end; release it again"},
	{EBADMSG, MHD_HTTP_CONFLICT, "a page is damaged and stays out: see the service's log"},
	{ENOMEM, MHD_HTTP_SERVICE_UNAVAILABLE, "out of memory"},
	{EMFILE, MHD_HTTP_SERVICE_UNAVAILABLE, "out of file descriptors"},
};

static void answer_failure(struct request *req, int r)
{
	unsigned status = MHD_HTTP_INTERNAL_SERVER_ERROR;
	const char *text = strerrordesc_np(-r);
	for (size_t i = 0; i < sizeof(failures) / sizeof(failures[0]); i++) {
		if (failures[i].error == -r) {
			status = failures[i].status;
			text = failures[i].text;
		}
	}
	if (!text)
		text = "unknown error";
	if (req->pid)
		answer_error(req, status, "process %d: %s", (int)req->pid, text);
	else
		answer_error(req, status, "%s", text);
}

static bool may_see(const struct request *req, const struct client_info *client)
{
	return req->privileged || client->uid == req->uid;
}

/* The clients that the asking user may see. */
static int visible_clients(struct request *req, struct client_info **ret, size_t *ret_count)
{
	struct client_info *clients;
	size_t count, kept = 0;
	int r = control_clients(req->h->w, req->view, &clients, &count);
	if (r < 0)
		return r;
	for (size_t i = 0; i < count; i++)
		if (may_see(req, &clients[i]))
			clients[kept++] = clients[i];
	*ret = clients;
	*ret_count = kept;
	return 0;
}

typedef char *report_fn(
	const struct service_stats *service, const struct client_info *clients, size_t count);

static void answer_report(struct request *req, report_fn *report)
{
	_cleanup_free_ struct client_info *clients = NULL;
	struct service_stats service;
	size_t count = 0;
	int r = visible_clients(req, &clients, &count);
	if (r < 0) {
		answer_failure(req, r);
		return;
	}
	control_service_stats(req->h->w, &service);
	answer(req, report(&service, clients, count));
}

static void get_status(struct request *req)
{
	answer_report(req, report_status);
}

static void get_metrics(struct request *req)
{
	answer_report(req, report_metrics);
	if (req->status == MHD_HTTP_OK)
		req->content_type = "text/plain; version=0.0.4; charset=utf-8";
}

/* The client of the path, if there is one and it is the asking user's; else answers. */
static bool find_client(struct request *req, struct client_info *ret)
{
	struct client_info client;
	int r = control_client(req->h->w, req->view, req->pid, &client);
	if (r < 0) {
		answer_failure(req, r);
		return false;
	}
	if (!may_see(req, &client)) {
		answer_error(req, MHD_HTTP_FORBIDDEN, "process %d belongs to another user",
			(int)req->pid);
		return false;
	}
	*ret = client;
	return true;
}

static void get_client(struct request *req)
{
	struct client_info client;
	if (find_client(req, &client))
		answer(req, report_client(&client));
}

static void post_evict(struct request *req)
{
	struct client_info client;
	if (!find_client(req, &client))
		return;
	struct evict_result result = {0};
	int r = control_evict(req->h->w, client.id, &result);
	if (r < 0)
		answer_failure(req, r);
	else
		answer(req, report_evict(req->pid, &result));
}

static void post_release(struct request *req)
{
	struct client_info client;
	if (!find_client(req, &client))
		return;
	struct release_result result = {0};
	int r = control_release(req->h->w, client.id, &result);
	if (r < 0)
		answer_failure(req, r);
	else
		answer(req, report_release(req->pid, &result));
}

static void post_release_all(struct request *req)
{
	struct release_all_result result = {0};
	if (!req->privileged) {
		answer_error(req, MHD_HTTP_FORBIDDEN, "only root may release all programs");
		return;
	}
	int r = control_release_all(req->h->w, &result);
	if (r < 0)
		answer_failure(req, r);
	else
		answer(req, report_release_all(&result));
}

static void post_reload(struct request *req)
{
	char message[400] = "";
	if (!req->privileged) {
		answer_error(req, MHD_HTTP_FORBIDDEN, "only root may reload the configuration");
		return;
	}
	int r = control_reload(req->h->w, message, sizeof(message));
	if (r < 0)
		answer_error(req, MHD_HTTP_CONFLICT, "%s", message);
	else
		answer(req, report_reload(message));
}

static void stop(struct request *req, bool keep)
{
	if (!req->privileged) {
		answer_error(req, MHD_HTTP_FORBIDDEN, "only root may end the service");
		return;
	}
	control_stop(req->h->w, keep);
	answer(req, report_stop(keep));
}

static void post_stop(struct request *req)
{
	stop(req, false);
}

static void post_keep(struct request *req)
{
	stop(req, true);
}

/* Routes */

#define PID "PID" /* stands for a process id in a path */

static const struct route {
	const char *method, *path;
	void (*answer)(struct request *req);
} routes[] = {
	{"GET", "/v1/status", get_status},
	{"GET", "/v1/clients/" PID, get_client},
	{"GET", "/metrics", get_metrics},
	{"POST", "/v1/clients/" PID "/evict", post_evict},
	{"POST", "/v1/clients/" PID "/release", post_release},
	{"POST", "/v1/release", post_release_all},
	{"POST", "/v1/reload", post_reload},
	{"POST", "/v1/stop", post_stop},
	{"POST", "/v1/stop/keep", post_keep},
};

static bool parse_pid(const char *text, size_t length, pid_t *ret)
{
	long n = 0;
	if (length == 0 || length > 10)
		return false;
	for (size_t i = 0; i < length; i++) {
		if (text[i] < '0' || text[i] > '9')
			return false;
		n = n * 10 + (text[i] - '0');
	}
	if (n < 1 || n > INT_MAX)
		return false;
	*ret = (pid_t)n;
	return true;
}

/* Does the URL fit the path? *ret_pid is 0 when PID doesn't stand for a process id in it. */
static bool path_matches(const char *path, const char *url, pid_t *ret_pid)
{
	const char *gap = strstr(path, PID);
	*ret_pid = 0;
	if (!gap)
		return strcmp(path, url) == 0;
	size_t before = (size_t)(gap - path);
	if (strncmp(path, url, before) != 0)
		return false;
	url += before;
	size_t length = strcspn(url, "/");
	if (strcmp(gap + strlen(PID), url + length) != 0)
		return false;
	parse_pid(url, length, ret_pid);
	return true;
}

static void route(struct request *req, const char *method, const char *url)
{
	/* The answer to HEAD is that to GET; libmicrohttpd leaves the body out. */
	if (strcmp(method, MHD_HTTP_METHOD_HEAD) == 0)
		method = MHD_HTTP_METHOD_GET;
	for (size_t i = 0; i < sizeof(routes) / sizeof(routes[0]); i++) {
		const struct route *candidate = &routes[i];
		if (!path_matches(candidate->path, url, &req->pid))
			continue;
		if (strcmp(candidate->method, method) != 0) {
			req->allow = candidate->method;
			continue;
		}
		if (strstr(candidate->path, PID) && req->pid == 0)
			answer_error(req, MHD_HTTP_BAD_REQUEST, "the path has no process id");
		else
			candidate->answer(req);
		return;
	}
	if (req->allow)
		answer_error(req, MHD_HTTP_METHOD_NOT_ALLOWED, "only %s is possible here",
			req->allow);
	else
		answer_error(req, MHD_HTTP_NOT_FOUND, "no such path");
}

/* libmicrohttpd */

static enum MHD_Result send_answer(struct request *req)
{
	static char out_of_memory[] = "{\"error\":\"out of memory\"}";
	struct MHD_Response *response;
	if (req->body) {
		response = MHD_create_response_from_buffer(
			strlen(req->body), req->body, MHD_RESPMEM_MUST_FREE);
		if (!response)
			free(req->body);
	} else {
		req->status = MHD_HTTP_SERVICE_UNAVAILABLE;
		req->content_type = "application/json";
		response = MHD_create_response_from_buffer(
			strlen(out_of_memory), out_of_memory, MHD_RESPMEM_PERSISTENT);
	}
	if (!response)
		return MHD_NO;
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, req->content_type);
	MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
	if (req->status == MHD_HTTP_METHOD_NOT_ALLOWED)
		MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, req->allow);
	enum MHD_Result sent = MHD_queue_response(req->connection, req->status, response);
	MHD_destroy_response(response);
	return sent;
}

/* Looks at what the headers say of the body, before any of it is read. False: it answered. */
static bool body_acceptable(struct request *req)
{
	const char *length = MHD_lookup_connection_value(
		req->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
	if (MHD_lookup_connection_value(
		    req->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_TRANSFER_ENCODING)) {
		answer_error(req, MHD_HTTP_BAD_REQUEST, "a body must have a Content-Length");
		return false;
	}
	if (length && strtoull(length, NULL, 10) > BODY_BYTES) {
		answer_error(req, MHD_HTTP_CONTENT_TOO_LARGE,
			"no body here has more than %d bytes", BODY_BYTES);
		return false;
	}
	return true;
}

/* An answer that took long is no silence of the client's. libmicrohttpd 0.9.75 sends it all the
 * same, but nothing in its manual promises that. Setting a timeout where there was none
 * restarts the clock. */
static void restart_idle_clock(struct MHD_Connection *connection)
{
	MHD_set_connection_option(connection, MHD_CONNECTION_OPTION_TIMEOUT, 0u);
	MHD_set_connection_option(
		connection, MHD_CONNECTION_OPTION_TIMEOUT, (unsigned)IDLE_SECONDS);
}

/* Called once with the headers, then for pieces of the body, then to answer. */
static enum MHD_Result on_request(void *cls, struct MHD_Connection *connection, const char *url,
	const char *method, const char *version, const char *body, size_t *body_size,
	void **begun)
{
	struct http *h = cls;
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
	const struct http_peer *peer = info ? info->socket_context : NULL;
	(void)version;
	(void)body;
	if (!peer)
		return MHD_NO;
	struct request req = {
		.h = h,
		.connection = connection,
		.uid = peer->uid,
		.view = peer->view,
		.privileged = is_privileged(h, peer->uid),
		.content_type = "application/json",
	};
	if (!*begun) {
		*begun = h;
		return body_acceptable(&req) ? MHD_YES : send_answer(&req);
	}
	if (*body_size > 0) {
		*body_size = 0; /* nothing in it matters */
		return MHD_YES;
	}
	route(&req, method, url);
	restart_idle_clock(connection);
	return send_answer(&req);
}

static int start_daemon(struct http *h, int listen_fd)
{
	int fd = fcntl(listen_fd, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		return -errno;
	h->daemon = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD |
					     MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL |
					     MHD_USE_ITC,
		0, NULL, NULL, on_request, h, MHD_OPTION_LISTEN_SOCKET, fd,
		MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS,
		MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_SECONDS,
		MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HEADER_BYTES,
		MHD_OPTION_THREAD_STACK_SIZE, (size_t)STACK_BYTES, MHD_OPTION_NOTIFY_CONNECTION,
		on_connection, h, MHD_OPTION_END);
	/* Where it fails, it has closed fd or not, depending on how far it got. A descriptor
	 * left open by a failed start is better than closing one that is another's by now. */
	return h->daemon ? 0 : -EIO;
}

int http_start_peer(struct http **ret, struct worker *w, int listen_fd, uid_t service_uid,
	http_peer_fn *peer)
{
	struct http *h = calloc(1, sizeof(*h));
	if (!h)
		return -ENOMEM;
	h->w = w;
	h->service_uid = service_uid;
	h->peer = peer;
	pthread_mutex_init(&h->lock, NULL);
	int r = start_daemon(h, listen_fd);
	if (r < 0) {
		http_stop(h);
		return r;
	}
	*ret = h;
	return 0;
}

int http_start(struct http **ret, struct worker *w, int listen_fd, uid_t service_uid)
{
	return http_start_peer(ret, w, listen_fd, service_uid, peer_of_socket);
}

void http_stop(struct http *h)
{
	if (!h)
		return;
	if (h->daemon)
		MHD_stop_daemon(h->daemon);
	pthread_mutex_destroy(&h->lock);
	free(h);
}
