/* Requests that nobody should send, and many at once. */
#include "test_cmocka.h"

#include "server.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void assert_still_answers(struct server *s)
{
	struct reply r;
	ask_as(s, 0, "GET /v1/status", &r);
	assert_int_equal(r.status, 200);
	reply_done(&r);
}

static int status_of(struct server *s, const char *bytes, size_t size)
{
	struct reply r;
	exchange(connect_to(s->listen_fd), bytes, size, &r);
	int status = r.status;
	reply_done(&r);
	return status;
}

static const struct odd {
	const char *text;
	int status; /* 0: closed without a word */
} odds[] = {
	{"", 0},
	{"\r\n\r\n", 0},
	{"GET /v1/status HTTP/1.1\r\nHost: x\r\n", 0}, /* never ends */
	{"POST /v1/clients/101/evict HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nshort",
		0},
	{"GET /v1/status HTTP/1.0\r\n\r\n", 200},
	{"GET /v1/status HTTP/9.9\r\nHost: x\r\n\r\n", 505},
	{"GET /v1/status%00hidden HTTP/1.0\r\n\r\n", 200},
	{"GET /v1/%zz HTTP/1.0\r\n\r\n", 404},
	{"GET /../../etc/passwd HTTP/1.0\r\n\r\n", 404},
	{"POST /v1/reload HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello", 200},
	{"POST /v1/reload HTTP/1.0\r\nContent-Length: 4096\r\n\r\n", 0}, /* and never comes */
	{"POST /v1/reload HTTP/1.0\r\nContent-Length: 4097\r\n\r\n", 413},
	{"POST /v1/reload HTTP/1.0\r\nContent-Length: 18446744073709551614\r\n\r\n", 413},
	{"POST /v1/reload HTTP/1.0\r\nContent-Length: x\r\n\r\n", 400},
	{"POST /v1/reload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: "
	 "chunked\r\n\r\n5\r\nhello\r\n",
		400},
	{"GET /v1/status HTTP/1.0\r\nContent-Length: 5000\r\n\r\n", 413},
};

static void odd_requests_get_their_status(void **state)
{
	struct server *s = *state;
	for (size_t i = 0; i < sizeof(odds) / sizeof(odds[0]); i++) {
		int status = status_of(s, odds[i].text, strlen(odds[i].text));
		if (status != odds[i].status)
			fail_msg("%d instead of %d for:\n%s", status, odds[i].status,
				odds[i].text);
	}
	assert_int_equal(s->worker.evicts, 0);
	assert_still_answers(s);
}

static void long_headers_and_paths_are_refused(void **state)
{
	static const char *const heads[] = {
		"GET /", "GET /v1/status HTTP/1.1\r\nHost: x\r\nX-Long: "};
	struct server *s = *state;
	const size_t size = 1 << 20;
	char *text = malloc(size);
	for (size_t i = 0; i < 2; i++) {
		memset(text, 'a', size);
		memcpy(text, heads[i], strlen(heads[i]));
		int status = status_of(s, text, size);
		if (status != 0 && (status < 400 || status > 499))
			fail_msg("%d for %s...", status, heads[i]);
	}
	free(text);
	assert_still_answers(s);
}

static uint64_t seed;

static uint64_t next(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static const char *const pieces[] = {"GET ", "POST ", "/v1/status", "/v1/clients/", "101",
	"102", "/evict", "/release", "/v1/reload", "/metrics", " HTTP/1.1\r\n", " HTTP/1.0\r\n",
	"\r\n", "Host: x\r\n", "Content-Length: ", "Transfer-Encoding: chunked\r\n", "5\r\n",
	"hello", ":", "%41", "%", "?", "&", "=", "\t", "Connection: close\r\n",
	"Expect: 100-continue\r\n"};

static size_t make_garbage(char *text, size_t max)
{
	size_t size = 0, count = next() % 30;
	for (size_t i = 0; i < count; i++) {
		const char *piece = pieces[next() % (sizeof(pieces) / sizeof(pieces[0]))];
		if (size + strlen(piece) > max)
			break;
		memcpy(text + size, piece, strlen(piece));
		size += strlen(piece);
	}
	for (size_t flips = next() % 4; size > 0 && flips > 0; flips--)
		text[next() % size] = (char)next();
	return size;
}

static void garbage_does_no_harm(void **state)
{
	struct server *s = *state;
	const char *given = getenv("LARDER_SEED");
	seed = given ? strtoull(given, NULL, 0) : 0x5eed0f9a7b3c1d2eull;
	print_message("LARDER_SEED=%llu\n", (unsigned long long)seed);
	be_user(STRANGER); /* who may change nothing, whatever the bytes say */
	for (int round = 0; round < 2000; round++) {
		char text[1024];
		size_t size = make_garbage(text, sizeof(text));
		int status = status_of(s, text, size);
		assert_true(status == 0 || (status >= 100 && status <= 599));
	}
	assert_int_equal(s->worker.evicts + s->worker.releases + s->worker.reloads, 0);
	assert_still_answers(s);
}

static void a_connection_takes_several_requests(void **state)
{
	static const char two[] =
		"GET /v1/clients/101 HTTP/1.1\r\nHost: x\r\n\r\n"
		"GET /v1/clients/102 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
	struct server *s = *state;
	struct reply r;
	be_user(0);
	exchange(connect_to(s->listen_fd), two, strlen(two), &r);
	assert_non_null(strstr(r.text, "\"pid\":101"));
	assert_non_null(strstr(r.text, "\"pid\":102"));
	reply_done(&r);
}

/* Many at once */

static void *ask_often(void *arg)
{
	static const char *const paths[] = {"GET /v1/status", "GET /metrics",
		"POST /v1/clients/101/evict", "GET /v1/clients/102", "GET /nowhere"};
	static const int wanted[] = {200, 200, 200, 200, 404};
	struct server *s = arg;
	uintptr_t wrong = 0;
	for (size_t i = 0; i < 100; i++) {
		struct reply r;
		request(s->listen_fd, paths[i % 5], &r);
		wrong += r.status != wanted[i % 5];
		reply_done(&r);
	}
	return (void *)wrong;
}

static void many_ask_at_once(void **state)
{
	enum { THREADS = 8 };
	struct server *s = *state;
	pthread_t threads[THREADS];
	be_user(0);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, ask_often, s), 0);
	for (int i = 0; i < THREADS; i++) {
		void *wrong;
		assert_int_equal(pthread_join(threads[i], &wrong), 0);
		assert_null(wrong);
	}
	assert_int_equal(s->worker.evicts, THREADS * 20);
}

static void *evict_once(void *arg)
{
	struct server *s = arg;
	struct reply r;
	request(s->listen_fd, "POST /v1/clients/101/evict", &r);
	uintptr_t status = (uintptr_t)r.status;
	reply_done(&r);
	return (void *)status;
}

static void an_evict_that_takes_long_holds_nobody_up(void **state)
{
	struct server *s = *state;
	pthread_t thread;
	void *status;
	be_user(0);
	fake_hold_evicts(&s->worker);
	assert_int_equal(pthread_create(&thread, NULL, evict_once, s), 0);
	fake_wait_for_evict(&s->worker);
	assert_still_answers(s);
	fake_let_evicts_go(&s->worker);
	assert_int_equal(pthread_join(thread, &status), 0);
	assert_int_equal((uintptr_t)status, 200);
}

static int quiet_status(struct server *s)
{
	struct reply r;
	request(s->listen_fd, "GET /v1/status", &r);
	int status = r.status;
	reply_done(&r);
	return status;
}

static void one_user_cannot_take_all_connections(void **state)
{
	enum { ALLOWED = 16 };
	struct server *s = *state;
	int fds[ALLOWED];
	be_user(ALICE);
	for (int i = 0; i < ALLOWED; i++) {
		fds[i] = connect_to(s->listen_fd);
		/* An answer on each says that it is counted. */
		static const char ask[] = "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n";
		char byte;
		assert_int_equal(send(fds[i], ask, strlen(ask), 0), strlen(ask));
		assert_int_equal(recv(fds[i], &byte, 1, 0), 1);
	}
	assert_int_equal(quiet_status(s), 0);
	be_user(BOB);
	assert_int_equal(quiet_status(s), 200);
	be_user(0);
	assert_int_equal(quiet_status(s), 200);

	for (int i = 0; i < ALLOWED; i++)
		close(fds[i]);
	be_user(ALICE);
	while (quiet_status(s) != 200) /* until the server has seen the ends */
		sched_yield();
}

static void a_stopped_server_leaves_the_socket(void **state)
{
	(void)state;
	struct worker w;
	fake_init(&w);
	int listen_fd = listen_somewhere();
	for (int i = 0; i < 3; i++) {
		struct http *h;
		struct reply r;
		assert_int_equal(http_start(&h, &w, listen_fd, getuid()), 0);
		request(listen_fd, "GET /v1/status", &r);
		assert_int_equal(r.status, 200);
		reply_done(&r);
		http_stop(h);
	}
	close(listen_fd);
	http_stop(NULL);
}

static void a_bad_descriptor_is_refused(void **state)
{
	(void)state;
	struct http *h = NULL;
	struct worker w;
	fake_init(&w);
	assert_true(http_start(&h, &w, -1, 0) < 0);
	assert_null(h);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, server_setup, server_teardown)
	const struct CMUnitTest tests[] = {
		T(odd_requests_get_their_status),
		T(long_headers_and_paths_are_refused),
		T(garbage_does_no_harm),
		T(a_connection_takes_several_requests),
		T(many_ask_at_once),
		T(an_evict_that_takes_long_holds_nobody_up),
		T(one_user_cannot_take_all_connections),
		cmocka_unit_test(a_stopped_server_leaves_the_socket),
		cmocka_unit_test(a_bad_descriptor_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
