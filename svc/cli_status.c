/* `larder status`: the service, then a line per client. */
#include "cli_http.h"
#include "stats.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { CELL = 40 };

/* The service */

/* Those in use. */
static void print_codecs(struct json_object *s)
{
	static const char *const codecs[] = {"lz4", "zstd", "raw", "fill"};
	const char *before = "codecs    ";
	for (size_t i = 0; i < sizeof(codecs) / sizeof(codecs[0]); i++) {
		char key[32], text[CELL];
		snprintf(key, sizeof(key), "%s_pages", codecs[i]);
		uint64_t pages = cli_json_number(s, key);
		snprintf(key, sizeof(key), "%s_bytes", codecs[i]);
		if (pages == 0)
			continue;
		printf("%s%s %" PRIu64 " pages in %s", before, codecs[i], pages,
			cli_bytes(cli_json_signed(s, key), text, CELL));
		before = ", ";
	}
	if (*before == ',')
		putchar('\n');
}

static void print_trouble(struct json_object *s)
{
	struct json_object *list = cli_json_member(s, "trouble");
	size_t count =
		json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;

	for (size_t i = 0; i < count; i++) {
		struct json_object *t = json_object_array_get_idx(list, i);
		char name[CELL], since[CELL], what[200];
		printf("TROUBLE   %s for %s: %s\n",
			cli_clean(cli_json_text(t, "name"), name, CELL),
			cli_seconds(cli_json_number(t, "since_s"), since, CELL),
			cli_clean(cli_json_text(t, "what"), what, sizeof(what)));
	}
}

static void print_service(struct json_object *s)
{
	struct json_object *us = cli_json_member(s, "fault_us");
	uint64_t evicted = cli_json_number(s, "evicted_bytes");
	uint64_t stored = cli_json_number(s, "stored_bytes");
	char a[CELL], b[CELL], c[CELL];
	printf("larderd %s, pid %" PRIu64 ", up %s\n",
		cli_clean(cli_json_text(s, "version"), a, CELL), cli_json_number(s, "pid"),
		cli_seconds(cli_json_number(s, "uptime_s"), b, CELL));
	printf("evicted   %s, packed into %s (%s)\n", cli_bytes((int64_t)evicted, a, CELL),
		cli_bytes((int64_t)stored, b, CELL), cli_ratio(evicted, stored, c, CELL));
	print_codecs(s);
	printf("saved     %s, after %s of overhead\n",
		cli_bytes(cli_json_signed(s, "saved_bytes"), a, CELL),
		cli_bytes(cli_json_signed(s, "overhead_bytes"), b, CELL));
	printf("baseline  %s for the service itself\n",
		cli_bytes(cli_json_signed(s, "baseline_bytes"), a, CELL));
	printf("faults    %" PRIu64 ", answered in %s (median), %s (99 %%), %s (longest)\n",
		cli_json_number(s, "faults"), cli_micros(cli_json_number(us, "p50"), a, CELL),
		cli_micros(cli_json_number(us, "p99"), b, CELL),
		cli_micros(cli_json_number(us, "max"), c, CELL));
	if (cli_json_number(s, "scrub_damaged") > 0)
		printf("DAMAGED   %" PRIu64
		       " pages in the store, and whoever touches one will be "
		       "stopped: see the service's log\n",
			cli_json_number(s, "scrub_damaged"));
	print_trouble(s);
	if (cli_json_number(s, "stopping") > 0)
		printf("ENDING    when every page is given back: %s to go\n",
			cli_bytes((int64_t)evicted, a, CELL));
	if (cli_json_number(s, "corrupt_pages") > 0)
		printf("CORRUPT   %" PRIu64
		       " pages could not be restored: see the service's log\n",
			cli_json_number(s, "corrupt_pages"));
}

/* The table of clients: each column makes its cell from the client's JSON. The totals are an
 * object of the same form. */

static void cell_pid(struct json_object *c, char *text)
{
	int64_t pid = cli_json_signed(c, "pid"), own = cli_json_signed(c, "ns_pid");
	if (pid && own && own != pid)
		snprintf(text, CELL, "%" PRId64 "/%" PRId64, pid, own); /* in a container */
	else if (pid)
		snprintf(text, CELL, "%" PRId64, pid);
	else
		snprintf(text, CELL, "?"); /* a forked child that wasn't seen yet */
}

static void cell_state(struct json_object *c, char *text)
{
	cli_clean(cli_json_text(c, "state"), text, CELL);
}

static void cell_policy(struct json_object *c, char *text)
{
	cli_clean(cli_json_text(c, "policy"), text, CELL);
}

static void cell_resident(struct json_object *c, char *text)
{
	cli_bytes(cli_json_signed(c, "resident_bytes"), text, CELL);
}

static void cell_managed(struct json_object *c, char *text)
{
	cli_bytes(cli_json_signed(c, "managed_bytes"), text, CELL);
}

static void cell_evicted(struct json_object *c, char *text)
{
	cli_bytes(cli_json_signed(c, "evicted_bytes"), text, CELL);
}

static void cell_stored(struct json_object *c, char *text)
{
	cli_bytes(cli_json_signed(c, "stored_bytes"), text, CELL);
}

static void cell_ratio(struct json_object *c, char *text)
{
	cli_ratio(cli_json_number(c, "evicted_bytes"), cli_json_number(c, "stored_bytes"), text,
		CELL);
}

static void cell_faults(struct json_object *c, char *text)
{
	snprintf(text, CELL, "%" PRIu64, cli_json_number(c, "faults"));
}

static void cell_stall(struct json_object *c, char *text)
{
	if (cli_json_member(c, "stall_pct"))
		snprintf(text, CELL, "%.2f%%", cli_json_double(c, "stall_pct"));
	else
		snprintf(text, CELL, "%s", ""); /* shares of different times have no sum */
}

static const struct column {
	const char *title;
	bool left;
	void (*cell)(struct json_object *c, char *text); /* of CELL bytes */
} columns[] = {
	{"PID", false, cell_pid},
	{"STATE", true, cell_state},
	{"POLICY", true, cell_policy},
	{"RESIDENT", false, cell_resident},
	{"MANAGED", false, cell_managed},
	{"EVICTED", false, cell_evicted},
	{"STORED", false, cell_stored},
	{"RATIO", false, cell_ratio},
	{"FAULTS", false, cell_faults},
	{"STALL", false, cell_stall},
};
enum { COLUMNS = sizeof(columns) / sizeof(columns[0]) };

static void widen(int *widths, struct json_object *c)
{
	for (size_t i = 0; i < COLUMNS; i++) {
		char text[CELL];
		columns[i].cell(c, text);
		int n = (int)strlen(text);
		if (n > widths[i])
			widths[i] = n;
	}
}

static void print_cell(size_t i, int width, const char *text)
{
	printf("%*s  ", columns[i].left ? -width : width, text);
}

static void print_row(const int *widths, struct json_object *c, const char *last)
{
	for (size_t i = 0; i < COLUMNS; i++) {
		char text[CELL];
		columns[i].cell(c, text);
		/* The totals have no pid. */
		print_cell(i, widths[i], i == 0 && !cli_json_member(c, "pid") ? "" : text);
	}
	printf("%s\n", last);
}

/* Of the caller; sums of what adds up. */
static struct json_object *totals(struct json_object *clients)
{
	static const char *const summed[] = {
		"resident_bytes", "managed_bytes", "evicted_bytes", "stored_bytes", "faults"};
	struct json_object *o = json_object_new_object();
	size_t count = json_object_array_length(clients);
	json_object_object_add(o, "state", json_object_new_string("total"));
	for (size_t k = 0; k < sizeof(summed) / sizeof(summed[0]); k++) {
		uint64_t sum = 0;
		for (size_t i = 0; i < count; i++)
			sum += cli_json_number(
				json_object_array_get_idx(clients, i), summed[k]);
		json_object_object_add(o, summed[k], json_object_new_uint64(sum));
	}
	return o;
}

/* Why the last eviction left something: mostly a limit. */
static void print_why(struct json_object *c)
{
	char why[200];
	if (*cli_json_text(c, "why"))
		printf("%" PRId64 ": %s\n", cli_json_signed(c, "pid"),
			cli_clean(cli_json_text(c, "why"), why, sizeof(why)));
}

static void print_clients(struct json_object *clients)
{
	size_t count = json_object_array_length(clients);
	struct json_object *sum = totals(clients);
	int widths[COLUMNS];
	for (size_t i = 0; i < COLUMNS; i++)
		widths[i] = (int)strlen(columns[i].title);
	for (size_t i = 0; i < count; i++)
		widen(widths, json_object_array_get_idx(clients, i));
	widen(widths, sum);

	for (size_t i = 0; i < COLUMNS; i++)
		print_cell(i, widths[i], columns[i].title);
	printf("EXE\n");
	for (size_t i = 0; i < count; i++) {
		struct json_object *c = json_object_array_get_idx(clients, i);
		char exe[300];
		print_row(widths, c, cli_clean(cli_json_text(c, "exe"), exe, sizeof(exe)));
	}
	print_row(widths, sum, "");
	json_object_put(sum);
	for (size_t i = 0; i < count; i++)
		print_why(json_object_array_get_idx(clients, i));
}

static void print_status(struct json_object *o)
{
	struct json_object *clients = cli_json_member(o, "clients");
	print_service(cli_json_member(o, "service"));
	if (!json_object_is_type(clients, json_type_array))
		return;
	putchar('\n');
	if (json_object_array_length(clients) > 0)
		print_clients(clients);
	else
		puts("no clients (of yours): start one with \"larder run -- CMD\"");
}

/* One client */

/* "1.50 GiB" for names in _bytes, the number itself for others. */
static void print_statistic(struct json_object *c, const char *name, const char *help)
{
	char text[CELL];
	const char *suffix = strrchr(name, '_');
	if (suffix && strcmp(suffix, "_bytes") == 0)
		cli_bytes(cli_json_signed(c, name), text, CELL);
	else
		snprintf(text, CELL, "%" PRIu64, cli_json_number(c, name));
	printf("%-17s %12s  %s\n", name, text, help);
}

static void print_client(struct json_object *c)
{
	char text[300];
	int64_t pid = cli_json_signed(c, "pid"), own = cli_json_signed(c, "ns_pid");
	printf("%s\n", cli_clean(cli_json_text(c, "exe"), text, sizeof(text)));
	printf("pid %" PRId64, pid);
	if (own && own != pid)
		printf(" (%" PRId64 " in its own pid namespace)", own);
	printf(", user %" PRIu64 ", agent %" PRId64 "\n", cli_json_number(c, "uid"),
		cli_json_signed(c, "agent_pid"));
	printf("%s", cli_clean(cli_json_text(c, "state"), text, sizeof(text)));
	printf(", policy %s", cli_clean(cli_json_text(c, "policy"), text, sizeof(text)));
	printf(", attached for %s",
		cli_seconds(cli_json_number(c, "uptime_ms") / 1000, text, sizeof(text)));
	printf(", stalled %.4f%% of it\n\n", cli_json_double(c, "stall_pct"));
#define X(name, type, help) print_statistic(c, #name, help);
	CLIENT_STATS(X)
#undef X
	if (*cli_json_text(c, "why"))
		printf("\nlast eviction: %s\n",
			cli_clean(cli_json_text(c, "why"), text, sizeof(text)));
}

int cli_status(const struct cli *cli)
{
	char path[64] = "/v1/status";
	if (cli->operand_count > 0) {
		pid_t pid;
		if (!cli_parse_pid(cli->operands[0], &pid)) {
			cli_error("%s is no process id", cli->operands[0]);
			return CLI_USAGE;
		}
		snprintf(path, sizeof(path), "/v1/clients/%d", (int)pid);
	}
	struct json_object *o = cli_ask(cli, "GET", path);
	if (!o)
		return CLI_FAILED;
	if (cli->json)
		cli_json_print(o);
	else if (cli->operand_count > 0)
		print_client(o);
	else
		print_status(o);
	json_object_put(o);
	return CLI_OK;
}
