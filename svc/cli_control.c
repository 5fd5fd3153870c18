/* Orders to the service: evict, release, reload, stop. */
#include "cli_http.h"

#include <inttypes.h>
#include <time.h>
#include <unistd.h>

enum { CELL = 40, LOOK_NS = 50000000 };

static char *pages_text(uint64_t pages, char *text)
{
	return cli_bytes((int64_t)(pages * (uint64_t)sysconf(_SC_PAGESIZE)), text, CELL);
}

/* What evict left in the client, in words. */
static const struct left {
	const char *key, *why;
} lefts[] = {
	{"shared_pages", "shared with another process, or pinned by the kernel"},
	{"suspect_pages", "discarded by the program, which may not be done with it"},
	{"huge_pages", "in huge pages that could not be moved whole"},
	{"failed_pages", "moved out and given back: the store is full, or packing failed"},
	{"busy_pages", "the program changed its address space meanwhile, or did not answer"},
};

static void print_evict(struct json_object *o)
{
	char text[CELL], why[200];
	uint64_t moved = cli_json_number(o, "moved_pages");
	printf("moved %" PRIu64 " pages (%s) of %" PRIu64 " seen\n", moved,
		pages_text(moved, text), cli_json_number(o, "seen_pages"));
	for (size_t i = 0; i < sizeof(lefts) / sizeof(lefts[0]); i++) {
		uint64_t n = cli_json_number(o, lefts[i].key);
		if (n > 0)
			printf("left %" PRIu64 " pages (%s): %s\n", n, pages_text(n, text),
				lefts[i].why);
	}
	struct json_object *refused = cli_json_member(o, "refused_bytes");
	if (json_object_is_type(refused, json_type_object)) {
		json_object_object_foreach(refused, reason, bytes)
		{
			printf("not managed %s: %s\n",
				cli_bytes(json_object_get_int64(bytes), text, CELL),
				cli_clean(reason, why, sizeof(why)));
		}
	}
	if (*cli_json_text(o, "why"))
		printf("%s\n", cli_clean(cli_json_text(o, "why"), why, sizeof(why)));
}

static void print_release(struct json_object *o)
{
	char text[CELL];
	uint64_t n = cli_json_number(o, "restored_pages");
	printf("restored %" PRIu64 " pages (%s)\n", n, pages_text(n, text));
}

static void print_release_all(struct json_object *o)
{
	char text[CELL], why[200];
	uint64_t n = cli_json_number(o, "restored_pages");
	uint64_t left = cli_json_number(o, "left_pages");
	printf("restored %" PRIu64 " pages (%s); %" PRIu64
	       " programs have all of their memory\n",
		n, pages_text(n, text), cli_json_number(o, "clients"));
	if (cli_json_number(o, "left_clients") > 0)
		printf("left %" PRIu64 " pages (%s) of %" PRIu64 " programs: %s\n", left,
			pages_text(left, text), cli_json_number(o, "left_clients"),
			cli_clean(cli_json_text(o, "why"), why, sizeof(why)));
}

static int order(const struct cli *cli, const char *verb, void (*print)(struct json_object *o))
{
	pid_t pid;
	char path[64];
	if (!cli_parse_pid(cli->operands[0], &pid)) {
		cli_error("%s is no process id", cli->operands[0]);
		return CLI_USAGE;
	}
	snprintf(path, sizeof(path), "/v1/clients/%d/%s", (int)pid, verb);
	struct json_object *o = cli_ask(cli, "POST", path);
	if (!o)
		return CLI_FAILED;
	if (cli->json)
		cli_json_print(o);
	else
		print(o);
	json_object_put(o);
	return CLI_OK;
}

int cli_evict(const struct cli *cli)
{
	return order(cli, "evict", print_evict);
}

/* Ends with 1 when something is left. */
static int release_all(const struct cli *cli)
{
	struct json_object *o = cli_ask(cli, "POST", "/v1/release");
	if (!o)
		return CLI_FAILED;
	if (cli->json)
		cli_json_print(o);
	else
		print_release_all(o);
	int code = *cli_json_text(o, "why") ? CLI_FAILED : CLI_OK;
	json_object_put(o);
	return code;
}

int cli_release(const struct cli *cli)
{
	if (cli->all)
		return release_all(cli);
	return order(cli, "release", print_release);
}

int cli_reload(const struct cli *cli)
{
	struct json_object *o = cli_ask(cli, "POST", "/v1/reload");
	if (!o)
		return CLI_FAILED;
	char text[500];
	puts(cli_clean(cli_json_text(o, "message"), text, sizeof(text)));
	json_object_put(o);
	return CLI_OK;
}

/* Returns when nobody answers any more, so that the next service can be started. */
int cli_stop(const struct cli *cli)
{
	const struct timespec pause = {.tv_nsec = LOOK_NS};
	struct json_object *o = cli_ask(cli, "GET", "/v1/status"); /* is there one? */
	char why[600];
	long status;
	if (!o)
		return CLI_FAILED;
	json_object_put(o);
	o = cli_try(cli, "POST", cli->keep ? "/v1/stop/keep" : "/v1/stop", &status, why,
		sizeof(why));
	/* It may be gone before its answer is. */
	if (!o && status != 0) {
		cli_error("%s", why);
		return CLI_FAILED;
	}
	for (status = 1; status != 0;) {
		json_object_put(o);
		nanosleep(&pause, NULL);
		o = cli_try(cli, "GET", "/v1/status", &status, why, sizeof(why));
	}
	json_object_put(o);
	return CLI_OK;
}
