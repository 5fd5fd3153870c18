/* Questions to the service. */
#ifndef LARDER_CLI_HTTP_H
#define LARDER_CLI_HTTP_H

#include "cli.h"

#include <json-c/json.h>

/* Asks, and returns the answer's JSON object; NULL: there is none, and it said why on stderr.
 * method is GET or POST; a POST waits as long as it takes. */
struct json_object *cli_ask(const struct cli *cli, const char *method, const char *path);
/* The same without a word: `why` has the reason. *ret_status: of HTTP, 0 when nothing answered.
 */
struct json_object *cli_try(const struct cli *cli, const char *method, const char *path,
	long *ret_status, char *why, size_t why_size);

/* Members of an object; 0 and "" when they aren't there, since the service may be older than
 * us. */
uint64_t cli_json_number(struct json_object *o, const char *key);
int64_t cli_json_signed(struct json_object *o, const char *key);
double cli_json_double(struct json_object *o, const char *key);
const char *cli_json_text(struct json_object *o, const char *key);
struct json_object *cli_json_member(struct json_object *o, const char *key); /* NULL: none */

void cli_json_print(struct json_object *o);

#endif
