#include "test_cmocka.h"

#include "server.h"

#include <stdlib.h>
#include <unistd.h>

static atomic_uint user;

void be_user(uid_t uid)
{
	atomic_store(&user, uid);
}

static int fake_peer(int fd, struct http_peer *ret)
{
	(void)fd;
	ret->uid = atomic_load(&user);
	return 0;
}

struct server *server_new(int listen_fd)
{
	struct server *s = calloc(1, sizeof(*s));
	assert_non_null(s);
	fake_init(&s->worker);
	s->listen_fd = listen_fd;
	assert_int_equal(
		http_start_peer(&s->http, &s->worker, s->listen_fd, SERVICE_UID, fake_peer), 0);
	be_user(0);
	return s;
}

int server_setup(void **state)
{
	*state = server_new(listen_somewhere());
	return 0;
}

int server_teardown(void **state)
{
	struct server *s = *state;
	http_stop(s->http);
	close(s->listen_fd);
	free(s);
	return 0;
}

void ask_as(struct server *s, uid_t uid, const char *method_and_path, struct reply *ret)
{
	be_user(uid);
	request(s->listen_fd, method_and_path, ret);
}

struct json_object *json_as(
	struct server *s, uid_t uid, const char *method_and_path, int status)
{
	struct reply reply;
	ask_as(s, uid, method_and_path, &reply);
	if (reply.status != status)
		fail_msg("%s as %u: %d instead of %d: %s", method_and_path, uid, reply.status,
			status, reply.body);
	struct json_object *o = json_tokener_parse(reply.body);
	if (!json_object_is_type(o, json_type_object))
		fail_msg("%s: no JSON object: %s", method_and_path, reply.body);
	reply_done(&reply);
	return o;
}

static struct json_object *member(struct json_object *o, const char *key)
{
	struct json_object *value;
	if (!json_object_object_get_ex(o, key, &value))
		fail_msg("no %s in %s", key, json_object_to_json_string(o));
	return value;
}

uint64_t json_number(struct json_object *o, const char *key)
{
	struct json_object *value = member(o, key);
	assert_true(json_object_is_type(value, json_type_int));
	return json_object_get_uint64(value);
}

const char *json_text(struct json_object *o, const char *key)
{
	struct json_object *value = member(o, key);
	assert_true(json_object_is_type(value, json_type_string));
	return json_object_get_string(value);
}
