/* `larder doctor`: asks the service what the checks want to know of it, has them run, and shows
 * what they found. Exit code: 0 when nothing prevents eviction (warnings may be), 1 when
 * something does, 2 for wrong usage. */
#include "cleanup.h"
#include "cli_http.h"
#include "doctor.h"
#include "probe.h"
#include "utf8.h"

#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

enum { LINE = 800 };

/* ---- what the service says ---- */

static void ask_service(const struct cli *cli, struct doctor_service *ret)
{
	long status;
	struct json_object *o =
		cli_try(cli, "GET", "/v1/status", &status, ret->why, sizeof(ret->why));
	struct json_object *service = cli_json_member(o, "service");

	if (service) {
		ret->answers = true;
		ret->pid = (pid_t)cli_json_signed(service, "pid");
		snprintf(ret->version, sizeof(ret->version), "%s",
			cli_json_text(service, "version"));
	} else if (o) {
		snprintf(ret->why, sizeof(ret->why), "who answers at %s isn't larderd",
			cli_runtime_dir(cli));
	}
	json_object_put(o);
}

static void take_client(struct json_object *o, struct doctor_client *ret)
{
	ret->is = DOCTOR_CLIENT;
	snprintf(ret->state, sizeof(ret->state), "%s", cli_json_text(o, "state"));
	snprintf(ret->policy, sizeof(ret->policy), "%s", cli_json_text(o, "policy"));
	ret->agent_pid = (pid_t)cli_json_signed(o, "agent_pid");
	ret->uptime_ms = cli_json_number(o, "uptime_ms");
	ret->managed_bytes = cli_json_number(o, "managed_bytes");
	ret->evicted_bytes = cli_json_number(o, "evicted_bytes");
}

static void ask_client(const struct cli *cli, pid_t pid, struct doctor_client *ret)
{
	enum { NOT_FOUND = 404 };
	char path[64];
	long status;

	snprintf(path, sizeof(path), "/v1/clients/%d", (int)pid);
	struct json_object *o = cli_try(cli, "GET", path, &status, ret->why, sizeof(ret->why));
	if (o)
		take_client(o, ret);
	else if (status == NOT_FOUND)
		ret->is = DOCTOR_NO_CLIENT;
	json_object_put(o);
}

/* ---- showing it ---- */

static void print_text(const struct doctor *d)
{
	char text[LINE];

	for (size_t i = 0; i < d->count; i++) {
		const struct doctor_finding *f = &d->finding[i];
		printf("%-4s  %-13s  %s\n", doctor_level_name(f->level), f->name,
			cli_clean(f->what, text, sizeof(text)));
		if (*f->remedy)
			printf("      %s\n", cli_clean(f->remedy, text, sizeof(text)));
	}
	printf("%zu ok, %zu warn, %zu fail: %s\n", doctor_count(d, DOCTOR_OK),
		doctor_count(d, DOCTOR_WARN), doctor_count(d, DOCTOR_FAIL),
		doctor_count(d, DOCTOR_FAIL) > 0 ? "something prevents eviction"
						 : "nothing prevents eviction");
}

/* JSON is UTF-8; a program's name may be anything. */
static struct json_object *string_object(const char *from)
{
	char text[LINE];
	size_t n = 0, length = strlen(from);

	for (size_t i = 0; i < length && n + 1 < sizeof(text);) {
		size_t valid = utf8_span(from + i, length - i);
		if (valid > sizeof(text) - 1 - n)
			break;
		memcpy(text + n, from + i, valid);
		n += valid;
		i += valid;
		if (i < length && n + 1 < sizeof(text)) {
			text[n++] = '?';
			i++;
		}
	}
	return json_object_new_string_len(text, (int)n);
}

static struct json_object *finding_object(const struct doctor_finding *f)
{
	struct json_object *o = json_object_new_object();
	json_object_object_add(o, "level", string_object(doctor_level_name(f->level)));
	json_object_object_add(o, "name", string_object(f->name));
	json_object_object_add(o, "what", string_object(f->what));
	if (*f->remedy)
		json_object_object_add(o, "remedy", string_object(f->remedy));
	return o;
}

static void print_json(const struct doctor *d)
{
	struct json_object *o = json_object_new_object(), *list = json_object_new_array();

	for (size_t i = 0; i < d->count; i++)
		json_object_array_add(list, finding_object(&d->finding[i]));
	json_object_object_add(o, "findings", list);
	for (int level = DOCTOR_OK; level <= DOCTOR_FAIL; level++)
		json_object_object_add(o, doctor_level_name((enum doctor_level)level),
			json_object_new_uint64(doctor_count(d, (enum doctor_level)level)));
	cli_json_print(o);
	json_object_put(o);
}

int cli_doctor(const struct cli *cli)
{
	const char *wanted;
	_cleanup_free_ char *shim = cli_find_shim(&wanted);
	struct doctor d = {.root = "",
		.runtime_dir = cli_runtime_dir(cli),
		.config_path = cli->config,
		.shim = shim ? shim : wanted,
		.uid = geteuid(),
		.probe = probe_forked,
		.space = statfs};

	if (cli->operand_count > 0 && !cli_parse_pid(cli->operands[0], &d.pid)) {
		cli_error("%s is no process id", cli->operands[0]);
		return CLI_USAGE;
	}
	ask_service(cli, &d.service);
	if (d.pid && d.service.answers)
		ask_client(cli, d.pid, &d.client);
	if (d.pid)
		doctor_process(&d);
	else
		doctor_machine(&d);
	if (cli->json)
		print_json(&d);
	else
		print_text(&d);
	return doctor_count(&d, DOCTOR_FAIL) > 0 ? CLI_FAILED : CLI_OK;
}
