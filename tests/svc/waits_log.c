/* What a client waits for long is in the statistics, and in the log once. */
#include "waits.h"
#include "log.h"
#include "worker.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static uint64_t now_ns;
static unsigned lines, retries;
static char line[400];
static struct client client;

/* ---- the rest of the service ---- */

uint64_t worker_now_ns(void)
{
	return now_ns;
}

void worker_retry_later(struct worker *w, struct client *c, uint64_t delay_ns)
{
	(void)w, (void)c, (void)delay_ns;
	retries++;
}

void log_line(enum log_level level, const char *format, ...)
{
	va_list args;

	assert_int_equal(level, LOG_WARN);
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	lines++;
}

/* ---- */

static int setup(void **state)
{
	(void)state;
	memset(&client, 0, sizeof(client));
	pthread_mutex_init(&client.gate, NULL);
	client.id = 77;
	client.parent = 66;
	snprintf(client.exe, sizeof(client.exe), "/bin/waits");
	now_ns = 3600ULL * 1000000000;
	lines = retries = 0;
	return 0;
}

static void ms_pass(uint64_t ms)
{
	now_ns += ms * 1000000;
}

/* It began a moment ago. over: it ends. */
static void is_told_of_once(const char *what, void (*begin)(void), void (*over)(void))
{
	waits_look(&client);
	begin();
	ms_pass(4000);
	waits_look(&client);
	assert_int_equal(lines, 0);
	ms_pass(2000);
	waits_look(&client);
	assert_int_equal(lines, 1);
	assert_non_null(strstr(line, "client 77 (/bin/waits)"));
	assert_non_null(strstr(line, what));
	ms_pass(60000);
	waits_look(&client);
	assert_int_equal(lines, 1);
	/* And another time when it is another one. */
	over();
	waits_look(&client);
	begin();
	ms_pass(6000);
	waits_look(&client);
	assert_int_equal(lines, 2);
}

static void event_begins(void)
{
	static struct uffd_msg event;

	event.event = UFFD_EVENT_REMAP;
	event.arg.remap.to = 0x7000;
	client.waiting = &event;
	client.waiting_count = 1;
	client.waiting_since_ns = now_ns;
}

static void event_is_over(void)
{
	client.waiting_count = 0; /* the time stays */
}

static void an_event_that_waits(void **state)
{
	struct waits waits;

	(void)state;
	is_told_of_once("0x7000 was moved to", event_begins, event_is_over);
	waits_of(&client, &waits);
	assert_int_equal(waits.events, 1);
	assert_int_equal(waits.events_ms, 6000);
	event_is_over();
	waits_of(&client, &waits);
	assert_int_equal(waits.events_ms, 0);
}

static void birth_begins(void)
{
	client.birth = (struct birth *)&client; /* not looked into */
	client.unborn_since_ns = now_ns;
	client.early_faults = 2;
	client.early_fault_ns = now_ns + 1000000;
}

static void birth_is_over(void)
{
	client.birth = NULL;
	client.unborn_since_ns = client.early_faults = client.early_fault_ns = 0;
}

static void a_child_that_is_not_born(void **state)
{
	struct waits waits;

	(void)state;
	is_told_of_once("client 66", birth_begins, birth_is_over);
	waits_of(&client, &waits);
	assert_int_equal(waits.unborn_ms, 6000);
	assert_int_equal(waits.faults, 2);
	assert_int_equal(waits.oldest_fault_ms, 5999);
}

static void request_begins(void)
{
	atomic_store(&client.asked_since_ns, now_ns);
}

static void request_is_over(void)
{
	atomic_store(&client.asked_since_ns, 0);
}

static void a_request_that_is_not_answered(void **state)
{
	(void)state;
	is_told_of_once("given back", request_begins, request_is_over);
}

/* The oldest of all faults, wherever it waits. */
static void faults_of_both_kinds(void **state)
{
	struct waits waits;

	(void)state;
	birth_begins();
	client.deferred_count = 1;
	client.deferred[0].read_ns = now_ns;
	ms_pass(50);
	waits_of(&client, &waits);
	assert_int_equal(waits.faults, 3);
	assert_int_equal(waits.oldest_fault_ms, 50);
	client.deferred_count = 0;
	birth_is_over();
	waits_of(&client, &waits);
	assert_int_equal(waits.faults, 0);
	assert_int_equal(waits.oldest_fault_ms, 0);
}

/* Nobody waits for it, and what was left for the holder is done. */
static void a_gate_that_is_taken(void **state)
{
	(void)state;
	request_begins();
	ms_pass(6000);
	pthread_mutex_lock(&client.gate);
	waits_look(&client);
	assert_int_equal(lines, 0);
	pthread_mutex_unlock(&client.gate);
	atomic_store(&client.pending, true);
	waits_look(&client);
	assert_int_equal(lines, 1);
	assert_int_equal(retries, 1);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup(f, setup)
	const struct CMUnitTest tests[] = {
		T(an_event_that_waits),
		T(a_child_that_is_not_born),
		T(a_request_that_is_not_answered),
		T(faults_of_both_kinds),
		T(a_gate_that_is_taken),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
