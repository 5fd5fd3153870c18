/* A server with a fake worker, and requests in the name of any user. */
#ifndef LARDER_TEST_SERVER_H
#define LARDER_TEST_SERVER_H

#include "fake_control.h"
#include "http.h"
#include "http_client.h"

#include <json-c/json.h>

enum { SERVICE_UID = 700, ALICE = 1000, BOB = 1001, STRANGER = 1002 };

struct server {
	struct worker worker;
	int listen_fd;
	struct http *http;
};

/* For cmocka: *state is the server. */
int server_setup(void **state);
/* Serves on listen_fd, which the server then owns. */
struct server *server_new(int listen_fd);
int server_teardown(void **state);

void ask_as(struct server *s, uid_t uid, const char *method_and_path, struct reply *ret);

/* Fails the test unless the answer has this status; returns its JSON. */
struct json_object *json_as(
	struct server *s, uid_t uid, const char *method_and_path, int status);

uint64_t json_number(struct json_object *o, const char *key);
const char *json_text(struct json_object *o, const char *key);
/* All connections from now on are this user's. */
void be_user(uid_t uid);

#endif
