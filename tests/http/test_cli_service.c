/* The commands that ask the service, against a server with a fake worker. */
#include "test_cmocka.h"

#include "command.h"
#include "server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

struct place {
	void *dir; /* of directory_setup */
	struct server *server;
};

static int place_setup(void **state)
{
	struct place *p = calloc(1, sizeof(*p));
	char path[256];
	assert_non_null(p);
	directory_setup(&p->dir);
	snprintf(path, sizeof(path), "%s/stats.sock", (char *)p->dir);
	p->server = server_new(listen_at(path));
	*state = p;
	return 0;
}

static int place_teardown(void **state)
{
	struct place *p = *state;
	void *server = p->server;
	server_teardown(&server);
	directory_teardown(&p->dir);
	free(p);
	return 0;
}

static const struct expect absents[] = {
	{"$larder status", 1, NULL, "larder: no larderd at "},
	{"$larder status", 1, NULL, "/stats.sock: No such file or directory: is it running?"},
	{"$larder --runtime-dir /nowhere status", 1, NULL,
		"no larderd at /nowhere/stats.sock: "},
	{"$larder status --runtime-dir=/nowhere", 1, NULL,
		"no larderd at /nowhere/stats.sock: "},
	{"LARDER_RUNTIME_DIR= $larder status --help", 0, "(LARDER_RUNTIME_DIR, /run/larder)",
		NULL},
	{"$larder evict 1", 1, NULL, "is it running?"},
	{"$larder release 1", 1, NULL, "is it running?"},
	{"$larder reload", 1, NULL, "is it running?"},
	{"$larder stop", 1, NULL, "is it running?"},
	{"$larder --runtime-dir $(printf '/%0200d' 1) status", 1, NULL,
		"too long for a socket's path"},
};

static void an_absent_service_is_named(void **state)
{
	expect_in(*state, absents, COUNT(absents));
}

static void a_dead_socket_is_named(void **state)
{
	char path[256];
	snprintf(path, sizeof(path), "%s/stats.sock", (char *)*state);
	close(listen_at(path));
	static const struct expect refused = {
		"$larder status", 1, NULL, "/stats.sock: Connection refused: is it running?"};
	expect_in(*state, &refused, 1);
}

static void set_numbers(struct worker *w)
{
	pthread_mutex_lock(&w->lock);
	w->service.uptime_s = 11520;
	w->service.evicted_bytes = 3ull << 29;
	w->service.stored_bytes = 400ull << 20;
	w->service.overhead_bytes = 12ull << 20;
	w->service.baseline_bytes = 20ull << 20;
	w->service.faults = 12345;
	w->service.fault_p50_us = 12;
	w->service.fault_p99_us = 85;
	w->service.fault_max_us = 2100;
	w->service.corrupt_pages = 0;
	w->service.lz4_pages = 1000;
	w->service.lz4_bytes = 1ull << 20;
	w->service.zstd_pages = 0;
	w->service.raw_pages = 2;
	w->service.raw_bytes = 8192;
	w->service.fill_pages = 0;
	snprintf(w->clients[0].why, sizeof(w->clients[0].why), "owner-limit in [store]");
	for (size_t i = 0; i < w->client_count; i++) {
		w->clients[i].stats.evicted_bytes = 1ull << 29;
		w->clients[i].stats.stored_bytes = 128ull << 20;
		w->clients[i].stats.stall_us = 250000; /* of 20 s */
	}
	pthread_mutex_unlock(&w->lock);
}

static const struct expect statuses[] = {
	{"$larder status", 0, ", up 3h 12m\n", NULL},
	{"$larder status", 0, "evicted   1.50 GiB, packed into 400 MiB (3.8:1)\n", NULL},
	{"$larder status", 0, "codecs    lz4 1000 pages in 1.00 MiB, raw 2 pages in 8.00 KiB\n",
		NULL},
	{"$larder status | grep '^101: '", 0, "101: owner-limit in [store]\n", NULL},
	{"$larder status | grep -c '^102: '", 1, "0\n", NULL},
	{"$larder status 101", 0, "\nlast eviction: owner-limit in [store]\n", NULL},
	{"$larder status", 0, "saved     1.10 GiB, after 12.0 MiB of overhead\n", NULL},
	{"$larder status", 0, "baseline  20.0 MiB for the service itself\n", NULL},
	{"$larder status", 0,
		"faults    12345, answered in 12 us (median), 85 us (99 %), 2.10 ms "
		"(longest)\n",
		NULL},
	{"$larder status | grep -c CORRUPT", 1, "0\n", NULL},
	{"$larder status | grep '^ *PID  STATE  *POLICY  *RESIDENT  *MANAGED  *EVICTED  *STORED"
	 "  *RATIO  *FAULTS  *STALL  *EXE$'",
		0, "PID", NULL},
	{"$larder status | grep '^  101  managed  default .* 512 MiB  128 MiB  4.0:1 .* 1.25%  "
	 "/usr/bin/one$'",
		0, "101", NULL},
	{"$larder status | grep '^    ?  managed'", 0, "?", NULL},
	{"$larder status | grep '^102/7  managed'", 0, "102/7", NULL},
	{"$larder status | grep '^       total .* 1.50 GiB  384 MiB  4.0:1'", 0, "total", NULL},
	{"$larder status --json", 0, "\"saved_bytes\":", NULL},
	{"$larder status 101", 0, "/usr/bin/one\npid 101, user 1000, agent 1101\n", NULL},
	{"$larder status 101", 0, "managed, policy default, attached for 20s, stalled 1.2500%",
		NULL},
	{"$larder status 101", 0, "\nevicted_bytes          512 MiB  page bytes that left",
		NULL},
	{"$larder status 101 | grep '^events_fork  *20[0-9][0-9]  forks followed$'", 0,
		"events_fork", NULL},
	{"$larder status 101 --json", 0, "\"exe\": \"/usr/bin/one\"", NULL},
	{"$larder status 55", 1, NULL, "larder: process 55: not a client of this service"},
	{"$larder status 102", 0, "\npid 102 (7 in its own pid namespace), user 1001, agent ",
		NULL},
	/* nothing of a name reaches the terminal as it is */
	{"$larder status 102 | head -1", 0, "/odd/\"quoted\"\\path?line\xef\xbf\xbd\n", NULL},
	{"http_proxy=http://127.0.0.1:1 $larder status", 0, "larderd", NULL},
};

static void the_status_is_shown(void **state)
{
	struct place *p = *state;
	set_numbers(&p->server->worker);
	expect_in(p->dir, statuses, COUNT(statuses));
}

static void a_status_without_clients_says_how_to_start(void **state)
{
	struct place *p = *state;
	pthread_mutex_lock(&p->server->worker.lock);
	p->server->worker.client_count = 0;
	pthread_mutex_unlock(&p->server->worker.lock);
	static const struct expect e = {
		"$larder status", 0, "start one with \"larder run -- CMD\"\n", NULL};
	expect_in(p->dir, &e, 1);
}

static void trouble_is_shown(void **state)
{
	struct place *p = *state;
	static const struct expect none = {"$larder status | grep -c TROUBLE", 1, "0\n", NULL};
	expect_in(p->dir, &none, 1);
	pthread_mutex_lock(&p->server->worker.lock);
	p->server->worker.service.trouble_ms[TROUBLE_STORE] = 61000;
	p->server->worker.service.trouble_ms[TROUBLE_READER] = 1;
	pthread_mutex_unlock(&p->server->worker.lock);
	static const struct expect shown[] = {
		{"$larder status | grep -c TROUBLE", 0, "2\n", NULL},
		{"$larder status", 0, "\nTROUBLE   store-full for 1m 1s: the store is at its",
			NULL},
		{"$larder status", 0, "\nTROUBLE   reader-stuck for 0s: ", NULL},
	};
	expect_in(p->dir, shown, COUNT(shown));
}

static void corruption_is_not_hidden(void **state)
{
	struct place *p = *state;
	pthread_mutex_lock(&p->server->worker.lock);
	p->server->worker.service.corrupt_pages = 3;
	pthread_mutex_unlock(&p->server->worker.lock);
	static const struct expect e = {
		"$larder status", 0, "\nCORRUPT   3 pages could not be restored", NULL};
	expect_in(p->dir, &e, 1);
}

static const struct expect evicts[] = {
	{"$larder evict 101", 0, "moved 256 pages (1.00 MiB) of 300 seen\n", NULL},
	{"$larder evict 101", 0, "left 3 pages (12.0 KiB): shared with another process", NULL},
	{"$larder evict 101", 0, "left 5 pages (20.0 KiB): in huge pages", NULL},
	{"$larder evict 101", 0, "not managed 4.00 KiB: file-backed\n", NULL},
	{"$larder evict 101", 0, "\nthe store is full\n", NULL},
	{"$larder evict 101 | grep -c discarded", 1, "0\n", NULL},
	{"$larder evict --json 101", 0, "\"moved_pages\": 256", NULL},
	{"$larder release 101", 0, "restored 512 pages (2.00 MiB)\n", NULL},
	{"$larder release --all", 1,
		"restored 256 pages (1.00 MiB); 3 programs have all of their memory\n"
		"left 2560 pages (10.0 MiB) of 2 programs: no more room\n",
		NULL},
	{"$larder release --all --json | tr -d ' \\n'", 0,
		"{\"clients\":3,\"restored_pages\":256,\"left_clients\":2,\"left_pages\":2560,"
		"\"why\":\"nomoreroom\"}",
		NULL},
	{"$larder reload", 0, "nothing changed\n", NULL},
};

static void orders_are_given_and_answered(void **state)
{
	struct place *p = *state;
	struct worker *w = &p->server->worker;
	if (sysconf(_SC_PAGESIZE) != 4096)
		skip();
	pthread_mutex_lock(&w->lock);
	w->evict = (struct evict_result){.moved_pages = 256,
		.seen_pages = 300,
		.shared_pages = 3,
		.huge_pages = 5,
		.refused_bytes = {[MAPS_FILE] = 4096},
		.why = "the store is full"};
	w->release.restored_pages = 512;
	w->release_all = (struct release_all_result){.clients = 3,
		.restored_pages = 256,
		.left_clients = 2,
		.left_pages = 2560,
		.why = "no more room"};
	pthread_mutex_unlock(&w->lock);
	expect_in(p->dir, evicts, COUNT(evicts));
	assert_int_equal(w->evicts, COUNT(evicts) - 4);
	assert_int_equal(w->releases, 1);
	assert_int_equal(w->all_releases, 2);
	assert_int_equal(w->reloads, 1);
}

static void refusals_are_told(void **state)
{
	struct place *p = *state;
	static const struct expect of_bob[] = {
		{"$larder evict 101", 1, NULL, "larder: process 101 belongs to another user\n"},
		{"$larder reload", 1, NULL, "larder: only root may reload the configuration\n"},
		{"$larder stop --keep", 1, NULL, "larder: only root may end the service\n"},
	};
	static const struct expect of_root[] = {
		{"$larder evict 101", 1, NULL, "process 101: has no agent (a forked child)"},
		{"$larder reload", 1, NULL, "larder: f:3: unknown key\n"},
	};
	be_user(BOB);
	expect_in(p->dir, of_bob, COUNT(of_bob));
	be_user(0);
	pthread_mutex_lock(&p->server->worker.lock);
	p->server->worker.evict_error = -EOPNOTSUPP;
	p->server->worker.reload_error = -EINVAL;
	p->server->worker.reload_message = "f:3: unknown key";
	pthread_mutex_unlock(&p->server->worker.lock);
	expect_in(p->dir, of_root, COUNT(of_root));
}

int main(void)
{
#define ALONE(f)  cmocka_unit_test_setup_teardown(f, directory_setup, directory_teardown)
#define SERVED(f) cmocka_unit_test_setup_teardown(f, place_setup, place_teardown)
	const struct CMUnitTest tests[] = {
		ALONE(an_absent_service_is_named),
		ALONE(a_dead_socket_is_named),
		SERVED(the_status_is_shown),
		SERVED(a_status_without_clients_says_how_to_start),
		SERVED(corruption_is_not_hidden),
		SERVED(trouble_is_shown),
		SERVED(orders_are_given_and_answered),
		SERVED(refusals_are_told),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
