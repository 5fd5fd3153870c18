/* Each path with its answer, who may ask for it, and what it tells. */
#include "test_cmocka.h"

#include "server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct ask {
	const char *request;
	int status;
	const char *contains; /* somewhere in the answer, headers included */
} asks[] = {
	{"GET /v1/status", 200, "Content-Type: application/json\r\n"},
	{"GET /v1/status?x=y", 200, "\"clients\":["},
	{"HEAD /v1/status", 200, "Content-Type: application/json\r\n"},
	{"GET /v1/clients/101", 200, "\"exe\":\"/usr/bin/one\""},
	{"GET /metrics", 200, "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"},
	{"POST /v1/clients/101/evict", 200, "\"moved_pages\":"},
	{"POST /v1/clients/101/release", 200, "\"restored_pages\":"},
	{"POST /v1/release", 200, "\"left_pages\":0"},
	{"POST /v1/reload", 200, "{\"reloaded\":true,\"message\":\"nothing changed\"}"},
	{"POST /v1/stop", 200, "{\"stopping\":true,\"keep\":false}"},
	{"POST /v1/stop/keep", 200, "{\"stopping\":true,\"keep\":true}"},

	{"GET /", 404, "{\"error\":\"no such path\"}"},
	{"GET /v1/status/", 404, "no such path"},
	{"GET /v1/clients", 404, "no such path"},
	{"GET /v1/clients/101/", 404, "no such path"},
	{"GET /v1/clients/101/evict/x", 404, "no such path"},
	{"GET /v1/clients/55", 404, "{\"error\":\"process 55: not a client of this service\"}"},
	{"POST /v1/clients/55/evict", 404, "process 55: not a client"},
	{"POST /v1/clients/55/release", 404, "process 55: not a client"},
	{"GET /v1/clients/", 400, "the path has no process id"},
	{"GET /v1/clients/0", 400, "the path has no process id"},
	{"GET /v1/clients/-1", 400, "the path has no process id"},
	{"GET /v1/clients/+101", 400, "the path has no process id"},
	{"GET /v1/clients/101x", 400, "the path has no process id"},
	{"GET /v1/clients/4294967397", 400, "the path has no process id"}, /* 2^32 + 101 */
	{"GET /v1/clients/18446744073709551717", 400, "the path has no process id"},
	{"POST /v1/clients//evict", 400, "the path has no process id"},
	{"POST /v1/clients/self/release", 400, "the path has no process id"},
	{"POST /v1/status", 405, "Allow: GET\r\n"},
	{"DELETE /v1/clients/101", 405, "Allow: GET\r\n"},
	{"PUT /metrics", 405, "Allow: GET\r\n"},
	{"GET /v1/clients/101/evict", 405, "Allow: POST\r\n"},
	{"HEAD /v1/clients/101/release", 405, "Allow: POST\r\n"},
	{"GET /v1/release", 405, "{\"error\":\"only POST is possible here\"}"},
	{"GET /v1/reload", 405, "{\"error\":\"only POST is possible here\"}"},
};

static void every_path_answers(void **state)
{
	struct server *s = *state;
	for (size_t i = 0; i < sizeof(asks) / sizeof(asks[0]); i++) {
		struct reply r;
		ask_as(s, 0, asks[i].request, &r);
		if (r.status != asks[i].status || !strstr(r.text, asks[i].contains))
			fail_msg("%s wanted %d with %s, got %d:\n%s", asks[i].request,
				asks[i].status, asks[i].contains, r.status, r.text);
		reply_done(&r);
	}
	/* Refused requests reached nobody. */
	assert_int_equal(s->worker.evicts, 1);
	assert_int_equal(s->worker.releases, 1);
	assert_int_equal(s->worker.all_releases, 1);
	assert_int_equal(s->worker.reloads, 1);
	assert_int_equal(s->worker.stops, 1);
	assert_int_equal(s->worker.keeps, 1);
}

static void the_status_shows_every_statistic(void **state)
{
	struct server *s = *state;
	struct json_object *o = json_as(s, 0, "GET /v1/status", 200), *service, *clients;
	assert_true(json_object_object_get_ex(o, "service", &service));
	assert_true(json_object_object_get_ex(o, "clients", &clients));
#define X(name, type, help)                                                                    \
	assert_int_equal(json_number(service, #name), s->worker.service.name);
	SERVICE_STATS(X)
#undef X
	assert_int_equal(json_number(service, "pid"), getpid());
	assert_string_equal(json_text(service, "version"), LARDER_VERSION);
	struct json_object *fault;
	assert_true(json_object_object_get_ex(service, "fault_us", &fault));
	assert_int_equal(json_number(fault, "p50"), s->worker.service.fault_p50_us);
	assert_int_equal(json_number(fault, "p99"), s->worker.service.fault_p99_us);
	assert_int_equal(json_number(fault, "max"), s->worker.service.fault_max_us);

	assert_int_equal(json_object_array_length(clients), 3);
	for (size_t i = 0; i < 3; i++) {
		const struct client_info *want = &s->worker.clients[i];
		struct json_object *c = json_object_array_get_idx(clients, i);
#define X(name, type, help) assert_int_equal(json_number(c, #name), want->stats.name);
		CLIENT_STATS(X)
#undef X
		assert_int_equal(json_number(c, "pid"), want->pid);
		assert_int_equal(json_number(c, "ns_pid"), want->ns_pid);
		assert_int_equal(json_number(c, "id"), want->id);
		assert_int_equal(json_number(c, "parent"), want->parent);
		assert_int_equal(json_number(c, "uid"), want->uid);
		assert_int_equal(json_number(c, "agent_pid"), want->agent_pid);
		assert_int_equal(json_number(c, "uptime_ms"), 20000);
		assert_string_equal(json_text(c, "policy"), "default");
		assert_string_equal(json_text(c, "state"), "managed");
	}
	json_object_put(o);
}

/* By uid, whatever the order of the clients. */
static void owners_are_charged_with_the_sum_of_their_clients(void **state)
{
	struct server *s = *state;
	static const struct {
		uint64_t uid, charged;
	} want[] = {{1000, 5}, {1001, 2}};
	s->worker.clients[0].stats.charged_bytes = 1;
	s->worker.clients[1].stats.charged_bytes = 2;
	s->worker.clients[2].stats.charged_bytes = 4;
	s->worker.service.owner_limit_bytes = 77;
	snprintf(s->worker.clients[1].why, sizeof(s->worker.clients[1].why), "too much");
	struct json_object *o = json_as(s, 0, "GET /v1/status", 200), *owners, *clients;
	assert_true(json_object_object_get_ex(o, "owners", &owners));
	assert_int_equal(json_object_array_length(owners), 2);
	for (size_t i = 0; i < 2; i++) {
		struct json_object *owner = json_object_array_get_idx(owners, i);
		assert_int_equal(json_number(owner, "uid"), want[i].uid);
		assert_int_equal(json_number(owner, "charged_bytes"), want[i].charged);
		assert_int_equal(json_number(owner, "limit_bytes"), 77);
	}
	assert_true(json_object_object_get_ex(o, "clients", &clients));
	assert_string_equal(
		json_text(json_object_array_get_idx(clients, 1), "why"), "too much");
	json_object_put(o);
}

static void what_was_saved_can_be_less_than_nothing(void **state)
{
	struct server *s = *state;
	static const struct {
		uint64_t evicted, stored, overhead;
		int64_t saved;
	} cases[] = {{1000, 300, 100, 600}, {0, 0, 4096, -4096}, {100, 80, 20, 0}};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		s->worker.service.evicted_bytes = cases[i].evicted;
		s->worker.service.stored_bytes = cases[i].stored;
		s->worker.service.overhead_bytes = cases[i].overhead;
		struct json_object *o = json_as(s, 0, "GET /v1/status", 200), *service, *saved;
		assert_true(json_object_object_get_ex(o, "service", &service));
		assert_true(json_object_object_get_ex(service, "saved_bytes", &saved));
		assert_true(json_object_get_int64(saved) == cases[i].saved);
		json_object_put(o);
	}
}

static void stall_is_a_share_of_the_time_under_care(void **state)
{
	struct server *s = *state;
	s->worker.clients[0].uptime_ms = 20000;
	s->worker.clients[0].stats.stall_us = 5000; /* of 20 s */
	struct json_object *o = json_as(s, 0, "GET /v1/clients/101", 200), *stall;
	assert_true(json_object_object_get_ex(o, "stall_pct", &stall));
	assert_true(json_object_is_type(stall, json_type_double));
	assert_string_equal(json_object_get_string(stall), "0.0250");
	json_object_put(o);

	s->worker.clients[0].uptime_ms = 0;
	o = json_as(s, 0, "GET /v1/clients/101", 200);
	assert_true(json_object_object_get_ex(o, "stall_pct", &stall));
	assert_true(json_object_get_double(stall) == 0);
	json_object_put(o);
}

static void odd_names_are_valid_json(void **state)
{
	struct server *s = *state;
	struct json_object *o = json_as(s, 0, "GET /v1/clients/102", 200);
	assert_string_equal(json_text(o, "exe"), "/odd/\"quoted\"\\path\nline\xef\xbf\xbd");
	json_object_put(o);
}

static void evict_tells_all_of_its_result(void **state)
{
	struct server *s = *state;
	s->worker.evict = (struct evict_result){.moved_pages = 1,
		.seen_pages = 2,
		.shared_pages = 3,
		.suspect_pages = 4,
		.huge_pages = 5,
		.failed_pages = 6,
		.busy_pages = 7,
		.refused_bytes = {[MAPS_FILE] = 4096, [MAPS_SMALL] = 8192},
		.why = "the store is full"};
	struct json_object *o = json_as(s, 0, "POST /v1/clients/101/evict", 200), *refused;
	assert_int_equal(json_number(o, "pid"), 101);
	assert_int_equal(json_number(o, "moved_pages"), 1);
	assert_int_equal(json_number(o, "seen_pages"), 2);
	assert_int_equal(json_number(o, "shared_pages"), 3);
	assert_int_equal(json_number(o, "suspect_pages"), 4);
	assert_int_equal(json_number(o, "huge_pages"), 5);
	assert_int_equal(json_number(o, "failed_pages"), 6);
	assert_int_equal(json_number(o, "busy_pages"), 7);
	assert_string_equal(json_text(o, "why"), "the store is full");
	assert_true(json_object_object_get_ex(o, "refused_bytes", &refused));
	assert_int_equal(json_object_object_length(refused), 2);
	assert_int_equal(json_number(refused, "file-backed"), 4096);
	assert_int_equal(json_number(refused, "too small"), 8192);
	json_object_put(o);
}

static void trouble_has_a_name_and_an_age(void **state)
{
	struct server *s = *state;
	struct json_object *o = json_as(s, 0, "GET /v1/status", 200), *service, *list;
	assert_true(json_object_object_get_ex(o, "service", &service));
	assert_true(json_object_object_get_ex(service, "trouble", &list));
	assert_int_equal(json_object_array_length(list), 0);
	json_object_put(o);

	s->worker.service.trouble_ms[TROUBLE_INDEX] = 2500;
	o = json_as(s, 0, "GET /v1/status", 200);
	assert_true(json_object_object_get_ex(o, "service", &service));
	assert_true(json_object_object_get_ex(service, "trouble", &list));
	assert_int_equal(json_object_array_length(list), 1);
	struct json_object *t = json_object_array_get_idx(list, 0);
	assert_string_equal(json_text(t, "name"), "index");
	assert_int_equal(json_number(t, "since_s"), 2);
	json_object_put(o);
}

static void release_tells_its_result(void **state)
{
	struct server *s = *state;
	s->worker.release.restored_pages = 77;
	struct json_object *o = json_as(s, 0, "POST /v1/clients/101/release", 200);
	assert_int_equal(json_number(o, "pid"), 101);
	assert_int_equal(json_number(o, "restored_pages"), 77);
	json_object_put(o);
}

/* Who may do what */

static const struct permission {
	uid_t uid;
	const char *request;
	int status;
} permissions[] = {
	{ALICE, "GET /v1/clients/101", 200},
	{ALICE, "GET /v1/clients/102", 403},
	{ALICE, "POST /v1/clients/101/evict", 200},
	{ALICE, "POST /v1/clients/102/evict", 403},
	{ALICE, "POST /v1/clients/101/release", 200},
	{ALICE, "POST /v1/clients/102/release", 403},
	{ALICE, "POST /v1/release", 403},
	{ALICE, "POST /v1/reload", 403},
	{ALICE, "POST /v1/stop", 403},
	{ALICE, "POST /v1/stop/keep", 403},
	{BOB, "POST /v1/clients/102/evict", 200},
	{BOB, "POST /v1/clients/101/evict", 403},
	{STRANGER, "GET /v1/status", 200},
	{STRANGER, "GET /metrics", 200},
	{STRANGER, "GET /v1/clients/101", 403},
	{STRANGER, "POST /v1/clients/101/release", 403},
	{SERVICE_UID, "GET /v1/clients/101", 200},
	{SERVICE_UID, "POST /v1/clients/102/evict", 200},
	{SERVICE_UID, "POST /v1/release", 200},
	{SERVICE_UID, "POST /v1/reload", 200},
	{SERVICE_UID, "POST /v1/stop", 200},
	{0, "POST /v1/stop/keep", 200},
	{0, "POST /v1/release", 200},
	{0, "POST /v1/clients/102/release", 200},
	{(uid_t)-1, "POST /v1/clients/101/evict", 403},
};

static unsigned orders_given(const struct server *s)
{
	return s->worker.evicts + s->worker.releases + s->worker.all_releases +
	       s->worker.reloads + s->worker.stops + s->worker.keeps;
}

static void only_owners_and_root_may(void **state)
{
	struct server *s = *state;
	for (size_t i = 0; i < sizeof(permissions) / sizeof(permissions[0]); i++) {
		const struct permission *p = &permissions[i];
		unsigned before = orders_given(s);
		struct reply r;
		ask_as(s, p->uid, p->request, &r);
		if (r.status != p->status)
			fail_msg("%s as %u: %d instead of %d", p->request, p->uid, r.status,
				p->status);
		if (r.status == 403)
			assert_int_equal(orders_given(s), before);
		reply_done(&r);
	}
}

/* Not for its number, which may be another's by the time that the order is carried out. */
static void an_order_is_for_the_client_whose_owner_was_checked(void **state)
{
	struct server *s = *state;
	static const char *const orders[] = {"evict", "release"};
	for (size_t i = 0; i < 2; i++)
		for (size_t c = 0; c < 2; c++) {
			char path[64];
			snprintf(path, sizeof(path), "POST /v1/clients/%d/%s",
				(int)s->worker.clients[c].pid, orders[i]);
			json_object_put(json_as(s, 0, path, 200));
			assert_int_equal(s->worker.ordered, s->worker.clients[c].id);
		}
}

static void users_see_the_totals_and_their_own_clients(void **state)
{
	static const struct {
		uid_t uid;
		size_t clients;
	} cases[] = {{0, 3}, {SERVICE_UID, 3}, {ALICE, 2}, {BOB, 1}, {STRANGER, 0}};
	struct server *s = *state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct json_object *o = json_as(s, cases[i].uid, "GET /v1/status", 200);
		struct json_object *service, *clients;
		assert_true(json_object_object_get_ex(o, "service", &service));
		assert_int_equal(json_number(service, "clients"), s->worker.service.clients);
		assert_true(json_object_object_get_ex(o, "clients", &clients));
		assert_int_equal(json_object_array_length(clients), cases[i].clients);
		for (size_t c = 0; c < cases[i].clients && cases[i].uid >= ALICE; c++)
			assert_int_equal(
				json_number(json_object_array_get_idx(clients, c), "uid"),
				cases[i].uid);
		json_object_put(o);
	}
}

static void metrics_hide_the_clients_of_others(void **state)
{
	struct server *s = *state;
	struct reply r;
	ask_as(s, BOB, "GET /metrics", &r);
	assert_non_null(strstr(r.body, "pid=\"102\""));
	assert_null(strstr(r.body, "pid=\"101\""));
	assert_non_null(strstr(r.body, "\nlarder_clients "));
	reply_done(&r);
}

/* Without the hook: the kernel says who asks. */
static int status_as_nobody(int listen_fd, const char *path)
{
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		struct reply r;
		if (setgid(65534) < 0 || setuid(65534) < 0)
			_exit(1);
		request(listen_fd, path, &r);
		_exit(r.status / 10);
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status) * 10;
}

static void the_kernel_says_who_asks(void **state)
{
	(void)state;
	if (getuid() != 0)
		skip();
	struct worker w;
	struct http *h;
	struct reply r;
	fake_init(&w);
	w.clients[1].uid = 65534;
	int listen_fd = listen_somewhere();
	assert_int_equal(http_start(&h, &w, listen_fd, SERVICE_UID), 0);
	request(listen_fd, "POST /v1/clients/101/evict", &r);
	assert_int_equal(r.status, 200);
	reply_done(&r);
	assert_int_equal(status_as_nobody(listen_fd, "POST /v1/clients/101/evict"), 400);
	assert_int_equal(w.evicts, 1);
	assert_int_equal(status_as_nobody(listen_fd, "POST /v1/clients/102/evict"), 200);
	assert_int_equal(w.evicts, 2);
	http_stop(h);
	close(listen_fd);
}

/* Failures */

static void failures_have_their_status(void **state)
{
	static const struct {
		int error, status;
		const char *text;
	} cases[] = {
		{-ESRCH, 404, "process 101: not a client of this service"},
		{-EOPNOTSUPP, 409, "process 101: has no agent (a forked child)"},
		{-EAGAIN, 503, "process 101: is leaving, or busy: try again"},
		{-ENOMEM, 503, "process 101: out of memory"},
		{-EMFILE, 503, "process 101: out of file descriptors"},
		{-EIO, 500, "process 101: Input/output error"},
		{-123456, 500, "process 101: unknown error"},
	};
	static const char *const paths[] = {
		"POST /v1/clients/101/evict", "POST /v1/clients/101/release"};
	struct server *s = *state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		s->worker.evict_error = s->worker.release_error = cases[i].error;
		for (size_t p = 0; p < 2; p++) {
			struct json_object *o = json_as(s, 0, paths[p], cases[i].status);
			assert_string_equal(json_text(o, "error"), cases[i].text);
			json_object_put(o);
		}
	}
}

static void a_list_that_cannot_be_made_is_an_error(void **state)
{
	struct server *s = *state;
	s->worker.clients_error = -ENOMEM;
	struct json_object *o = json_as(s, 0, "GET /v1/status", 503);
	assert_string_equal(json_text(o, "error"), "out of memory");
	json_object_put(o);
	json_object_put(json_as(s, 0, "GET /metrics", 503));
}

static void release_all_tells_its_result(void **state)
{
	struct server *s = *state;
	s->worker.release_all = (struct release_all_result){.clients = 3,
		.restored_pages = 77,
		.left_clients = 2,
		.left_pages = 55,
		.why = "no more room"};
	struct json_object *o = json_as(s, 0, "POST /v1/release", 200);
	assert_int_equal(json_number(o, "clients"), 3);
	assert_int_equal(json_number(o, "restored_pages"), 77);
	assert_int_equal(json_number(o, "left_clients"), 2);
	assert_int_equal(json_number(o, "left_pages"), 55);
	assert_string_equal(json_text(o, "why"), "no more room");
	json_object_put(o);
}

static void reload_tells_what_is_wrong(void **state)
{
	struct server *s = *state;
	s->worker.reload_error = -EINVAL;
	s->worker.reload_message = "larder.conf:3: unknown key";
	struct json_object *o = json_as(s, 0, "POST /v1/reload", 409);
	assert_string_equal(json_text(o, "error"), "larder.conf:3: unknown key");
	json_object_put(o);

	s->worker.reload_error = -ENOENT;
	s->worker.reload_message = "larder.conf: No such file or directory";
	o = json_as(s, 0, "POST /v1/reload", 409);
	assert_string_equal(json_text(o, "error"), "larder.conf: No such file or directory");
	json_object_put(o);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, server_setup, server_teardown)
	const struct CMUnitTest tests[] = {
		T(every_path_answers),
		T(the_status_shows_every_statistic),
		T(owners_are_charged_with_the_sum_of_their_clients),
		T(what_was_saved_can_be_less_than_nothing),
		T(stall_is_a_share_of_the_time_under_care),
		T(odd_names_are_valid_json),
		T(evict_tells_all_of_its_result),
		T(trouble_has_a_name_and_an_age),
		T(release_tells_its_result),
		T(release_all_tells_its_result),
		T(only_owners_and_root_may),
		T(an_order_is_for_the_client_whose_owner_was_checked),
		T(users_see_the_totals_and_their_own_clients),
		T(metrics_hide_the_clients_of_others),
		cmocka_unit_test(the_kernel_says_who_asks),
		T(failures_have_their_status),
		T(a_list_that_cannot_be_made_is_an_error),
		T(reload_tells_what_is_wrong),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
