#include "cli_http.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* No answer of the service is this large: whoever listens there isn't it. */
#define ANSWER_MAX ((size_t)64 << 20)
/* A look at numbers takes milliseconds; a service that hangs should not hang us. */
#define GET_SECONDS 30L

struct answer {
	char *text; /* owned, NUL-terminated */
	size_t size;
};

static size_t on_data(char *data, size_t one, size_t size, void *arg)
{
	struct answer *a = arg;
	(void)one; /* always 1 */
	if (size > ANSWER_MAX - a->size)
		return 0;
	char *text = realloc(a->text, a->size + size + 1);
	if (!text)
		return 0;
	memcpy(text + a->size, data, size);
	a->text = text;
	a->size += size;
	text[a->size] = '\0';
	return size;
}

static void set_up(CURL *curl, const char *socket_path, const char *method, const char *url,
	struct answer *answer)
{
	curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, socket_path);
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_PROXY, ""); /* whatever http_proxy says */
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, answer);
	if (strcmp(method, "POST") == 0)
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, "");
	else
		curl_easy_setopt(curl, CURLOPT_TIMEOUT, GET_SECONDS);
}

/* Where a failure's reason goes. */
struct reason {
	char *text;
	size_t size;
};

static void say_why(CURL *curl, CURLcode code, const char *socket_path, struct reason why)
{
	long error = 0;
	curl_easy_getinfo(curl, CURLINFO_OS_ERRNO, &error);
	if (code != CURLE_COULDNT_CONNECT)
		snprintf(why.text, why.size, "%s: %s", socket_path, curl_easy_strerror(code));
	else if (error == EACCES || error == EPERM)
		snprintf(why.text, why.size, "%s: %s", socket_path, strerror((int)error));
	else
		snprintf(why.text, why.size, "no larderd at %s: %s: is it running?",
			socket_path, error ? strerror((int)error) : curl_easy_strerror(code));
}

/* The object in an answer with this status; NULL: it is an error, and `why` says which. */
static struct json_object *object_of(
	long status, const struct answer *answer, struct reason why)
{
	struct json_object *o = answer->text ? json_tokener_parse(answer->text) : NULL;
	bool is_object = json_object_is_type(o, json_type_object);
	const char *error = is_object ? cli_json_text(o, "error") : "";
	if (status == 200 && is_object)
		return o;
	if (*error)
		cli_clean(error, why.text, why.size);
	else
		snprintf(why.text, why.size,
			"the service gave no answer that I know (HTTP %ld)", status);
	json_object_put(o);
	return NULL;
}

static struct json_object *ask(const char *socket_path, const char *method, const char *path,
	long *ret_status, struct reason why)
{
	struct answer answer = {0};
	struct json_object *o = NULL;
	char url[256];
	CURL *curl = curl_easy_init();
	if (!curl) {
		snprintf(why.text, why.size, "libcurl does not start");
		return NULL;
	}
	snprintf(url, sizeof(url), "http://larder%s", path);
	set_up(curl, socket_path, method, url, &answer);
	CURLcode code = curl_easy_perform(curl);
	curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, ret_status);
	if (code == CURLE_OK)
		o = object_of(*ret_status, &answer, why);
	else
		say_why(curl, code, socket_path, why);
	curl_easy_cleanup(curl);
	free(answer.text);
	return o;
}

struct json_object *cli_try(const struct cli *cli, const char *method, const char *path,
	long *ret_status, char *why, size_t why_size)
{
	char socket_path[108]; /* of struct sockaddr_un */
	int n = snprintf(
		socket_path, sizeof(socket_path), "%s/stats.sock", cli_runtime_dir(cli));
	*ret_status = 0;
	if (n < 0 || (size_t)n >= sizeof(socket_path)) {
		snprintf(why, why_size, "%s: too long for a socket's path",
			cli_runtime_dir(cli));
		return NULL;
	}
	if (curl_global_init(CURL_GLOBAL_NOTHING) != CURLE_OK) {
		snprintf(why, why_size, "libcurl does not start");
		return NULL;
	}
	struct json_object *o =
		ask(socket_path, method, path, ret_status, (struct reason){why, why_size});
	curl_global_cleanup();
	return o;
}

struct json_object *cli_ask(const struct cli *cli, const char *method, const char *path)
{
	char why[600];
	long status;
	struct json_object *o = cli_try(cli, method, path, &status, why, sizeof(why));
	if (!o)
		cli_error("%s", why);
	return o;
}

struct json_object *cli_json_member(struct json_object *o, const char *key)
{
	struct json_object *value = NULL;
	json_object_object_get_ex(o, key, &value);
	return value;
}

uint64_t cli_json_number(struct json_object *o, const char *key)
{
	return json_object_get_uint64(cli_json_member(o, key));
}

int64_t cli_json_signed(struct json_object *o, const char *key)
{
	return json_object_get_int64(cli_json_member(o, key));
}

double cli_json_double(struct json_object *o, const char *key)
{
	return json_object_get_double(cli_json_member(o, key));
}

const char *cli_json_text(struct json_object *o, const char *key)
{
	struct json_object *value = cli_json_member(o, key);
	return json_object_is_type(value, json_type_string) ? json_object_get_string(value)
							    : "";
}

void cli_json_print(struct json_object *o)
{
	puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY |
						       JSON_C_TO_STRING_SPACED |
						       JSON_C_TO_STRING_NOSLASHESCAPE));
}
