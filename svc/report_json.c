#include "report.h"
#include "utf8.h"

#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int64_t report_saved(const struct service_stats *service)
{
	return (int64_t)(service->evicted_bytes - service->stored_bytes -
			 service->overhead_bytes);
}

char *report_utf8(const char *text)
{
	static const char replacement[] = "\xef\xbf\xbd";
	char *copy = malloc(strlen(text) * strlen(replacement) + 1), *to = copy;
	while (copy && *text) {
		size_t valid = utf8_span(text, strlen(text));
		to = mempcpy(to, text, valid);
		text += valid;
		if (*text) {
			to = mempcpy(to, replacement, strlen(replacement));
			text++;
		}
	}
	if (copy)
		*to = '\0';
	return copy;
}

static void add_number(struct json_object *to, const char *key, uint64_t n)
{
	json_object_object_add(to, key, json_object_new_uint64(n));
}

static void add_signed(struct json_object *to, const char *key, int64_t n)
{
	json_object_object_add(to, key, json_object_new_int64(n));
}

static void add_text(struct json_object *to, const char *key, const char *text)
{
	char *clean = report_utf8(text);
	json_object_object_add(to, key, json_object_new_string(clean ? clean : ""));
	free(clean);
}

/* Takes over o. */
static char *text_of(struct json_object *o)
{
	const char *text = json_object_to_json_string_ext(
		o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
	char *copy = o && text ? strdup(text) : NULL;
	json_object_put(o);
	return copy;
}

/* What there is just now. */
static struct json_object *trouble_array(const struct service_stats *s)
{
	struct json_object *list = json_object_new_array();

#define X(id, word, text)                                                                      \
	if (s->trouble_ms[TROUBLE_##id] > 0) {                                                 \
		struct json_object *o = json_object_new_object();                              \
		add_text(o, "name", word);                                                     \
		add_number(o, "since_s", s->trouble_ms[TROUBLE_##id] / 1000);                  \
		add_text(o, "what", text);                                                     \
		json_object_array_add(list, o);                                                \
	}
	TROUBLES(X)
#undef X
	return list;
}

static struct json_object *service_object(const struct service_stats *s)
{
	struct json_object *o = json_object_new_object(), *fault = json_object_new_object();
	add_signed(o, "pid", getpid());
	add_text(o, "version", LARDER_VERSION);
#define X(name, type, help) add_number(o, #name, s->name);
	SERVICE_STATS(X)
#undef X
	add_signed(o, "saved_bytes", report_saved(s));
	add_number(fault, "p50", s->fault_p50_us);
	add_number(fault, "p99", s->fault_p99_us);
	add_number(fault, "max", s->fault_max_us);
	json_object_object_add(o, "fault_us", fault);
	json_object_object_add(o, "trouble", trouble_array(s));
	return o;
}

/* Share of its time under our care that the client waited for faults. The waits of its threads
 * are summed, so it can be more than 100. */
static struct json_object *stall_pct(const struct client_info *c)
{
	static char format[] = "%.4f"; /* not const: json-c takes it as user data */
	double pct = 0;
	if (c->uptime_ms > 0)
		pct = (double)c->stats.stall_us / ((double)c->uptime_ms * 1000) * 100;
	struct json_object *o = json_object_new_double(pct);
	json_object_set_serializer(o, json_object_double_to_json_string, format, NULL);
	return o;
}

static struct json_object *client_object(const struct client_info *c)
{
	struct json_object *o = json_object_new_object();
	add_signed(o, "pid", c->pid);
	add_signed(o, "ns_pid", c->ns_pid);
	add_number(o, "id", c->id);
	add_number(o, "parent", c->parent);
	add_text(o, "exe", c->exe);
	add_text(o, "policy", c->policy);
	add_text(o, "state", client_state_name(c->state));
	add_number(o, "uid", c->uid);
	add_signed(o, "agent_pid", c->agent_pid);
	add_number(o, "uptime_ms", c->uptime_ms);
#define X(name, type, help) add_number(o, #name, c->stats.name);
	CLIENT_STATS(X)
#undef X
	json_object_object_add(o, "stall_pct", stall_pct(c));
	add_text(o, "why", c->why);
	return o;
}

/* What the clients of each uid are charged with, for the owner-limit. */
static struct json_object *owners_array(
	const struct service_stats *service, const struct client_info *clients, size_t count)
{
	struct json_object *list = json_object_new_array();

	for (size_t i = 0; i < count; i++) {
		uint64_t charged = 0;
		size_t first = count;
		for (size_t k = 0; k < count; k++)
			if (clients[k].uid == clients[i].uid) {
				first = k < first ? k : first;
				charged += clients[k].stats.charged_bytes;
			}
		if (first != i)
			continue; /* told already */
		struct json_object *o = json_object_new_object();
		add_number(o, "uid", clients[i].uid);
		add_number(o, "charged_bytes", charged);
		add_number(o, "limit_bytes", service->owner_limit_bytes);
		json_object_array_add(list, o);
	}
	return list;
}

char *report_status(
	const struct service_stats *service, const struct client_info *clients, size_t count)
{
	struct json_object *o = json_object_new_object(), *list = json_object_new_array();
	json_object_object_add(o, "service", service_object(service));
	for (size_t i = 0; i < count; i++)
		json_object_array_add(list, client_object(&clients[i]));
	json_object_object_add(o, "clients", list);
	json_object_object_add(o, "owners", owners_array(service, clients, count));
	return text_of(o);
}

char *report_client(const struct client_info *client)
{
	return text_of(client_object(client));
}

/* The counters of struct evict_result, in their order. */
#define EVICT_COUNTS(X)                                                                        \
	X(moved_pages)                                                                         \
	X(seen_pages)                                                                          \
	X(shared_pages)                                                                        \
	X(suspect_pages)                                                                       \
	X(huge_pages)                                                                          \
	X(failed_pages)                                                                        \
	X(busy_pages)

#define X(name) +sizeof(uint64_t)
_Static_assert(offsetof(struct evict_result, refused_bytes) == 0 EVICT_COUNTS(X),
	"a counter is missing in EVICT_COUNTS");
#undef X

char *report_evict(pid_t pid, const struct evict_result *result)
{
	struct json_object *o = json_object_new_object(), *refused = json_object_new_object();
	add_signed(o, "pid", pid);
#define X(name) add_number(o, #name, result->name);
	EVICT_COUNTS(X)
#undef X
	for (int i = 0; i < MAP_REFUSAL_COUNT; i++)
		if (result->refused_bytes[i] > 0)
			add_number(refused, map_refusal_text((enum map_refusal)i),
				result->refused_bytes[i]);
	json_object_object_add(o, "refused_bytes", refused);
	add_text(o, "why", result->why);
	return text_of(o);
}

char *report_release(pid_t pid, const struct release_result *result)
{
	struct json_object *o = json_object_new_object();
	add_signed(o, "pid", pid);
	add_number(o, "restored_pages", result->restored_pages);
	return text_of(o);
}

char *report_release_all(const struct release_all_result *result)
{
	struct json_object *o = json_object_new_object();
	add_number(o, "clients", result->clients);
	add_number(o, "restored_pages", result->restored_pages);
	add_number(o, "left_clients", result->left_clients);
	add_number(o, "left_pages", result->left_pages);
	add_text(o, "why", result->why);
	return text_of(o);
}

char *report_reload(const char *message)
{
	struct json_object *o = json_object_new_object();
	json_object_object_add(o, "reloaded", json_object_new_boolean(1));
	add_text(o, "message", message);
	return text_of(o);
}

char *report_stop(bool keep)
{
	struct json_object *o = json_object_new_object();
	json_object_object_add(o, "stopping", json_object_new_boolean(1));
	json_object_object_add(o, "keep", json_object_new_boolean(keep));
	return text_of(o);
}

char *report_error(const char *message)
{
	struct json_object *o = json_object_new_object();
	add_text(o, "error", message);
	return text_of(o);
}
