#include "fake_control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *client_state_name(enum client_state s)
{
	static const char *const names[] = {
		"attaching", "managed", "released", "forked", "gone"};
	return names[s];
}

const char *map_refusal_text(enum map_refusal r)
{
	static const char *const texts[] = {
#define X(id, text) text,
		MAP_REFUSALS(X)
#undef X
	};
	return texts[r];
}

static void fill(uint64_t *n, size_t count, uint64_t first)
{
	for (size_t i = 0; i < count; i++)
		n[i] = first + i;
}

static void add_client(struct worker *w, pid_t pid, uid_t uid, const char *exe)
{
	size_t i = w->client_count++;
	struct client_info *c = &w->clients[i];
	*c = (struct client_info){.id = i + 1,
		.pid = pid,
		.uid = uid,
		.state = CLIENT_MANAGED,
		.agent_pid = pid ? pid + 1000 : 0,
		.parent = pid ? 0 : 1,
		.uptime_ms = 20000};
	snprintf(c->exe, sizeof(c->exe), "%s", exe);
	snprintf(c->policy, sizeof(c->policy), "default");
	fill((uint64_t *)&c->stats, sizeof(c->stats) / sizeof(uint64_t), 1000 * (i + 2));
}

void fake_init(struct worker *w)
{
	memset(w, 0, sizeof(*w));
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->changed, NULL);
	w->reload_message = "nothing changed";
	fill((uint64_t *)&w->service, sizeof(w->service) / sizeof(uint64_t), 1000);
	memset(w->service.trouble_ms, 0, sizeof(w->service.trouble_ms));
	add_client(w, 101, 1000, "/usr/bin/one");
	add_client(w, 102, 1001, "/odd/\"quoted\"\\path\nline\xff");
	w->clients[1].ns_pid = 7;
	add_client(w, 0, 1000, "/usr/bin/one");
}

void fake_hold_evicts(struct worker *w)
{
	pthread_mutex_lock(&w->lock);
	w->held = true;
	pthread_mutex_unlock(&w->lock);
}

void fake_wait_for_evict(struct worker *w)
{
	pthread_mutex_lock(&w->lock);
	while (w->waiting == 0)
		pthread_cond_wait(&w->changed, &w->lock);
	pthread_mutex_unlock(&w->lock);
}

void fake_let_evicts_go(struct worker *w)
{
	pthread_mutex_lock(&w->lock);
	w->held = false;
	pthread_cond_broadcast(&w->changed);
	pthread_mutex_unlock(&w->lock);
}

void control_service_stats(struct worker *w, struct service_stats *ret)
{
	pthread_mutex_lock(&w->lock);
	*ret = w->service;
	pthread_mutex_unlock(&w->lock);
}

int control_clients(struct worker *w, int view, struct client_info **ret, size_t *ret_count)
{
	(void)view;
	struct client_info *clients = malloc(sizeof(w->clients));
	if (!clients)
		return -ENOMEM;
	pthread_mutex_lock(&w->lock);
	int r = w->clients_error;
	size_t count = w->client_count;
	memcpy(clients, w->clients, sizeof(w->clients));
	pthread_mutex_unlock(&w->lock);
	if (r < 0) {
		free(clients);
		return r;
	}
	*ret = clients;
	*ret_count = count;
	return 0;
}

int control_client(struct worker *w, int view, pid_t pid, struct client_info *ret)
{
	int r = -ESRCH;
	(void)view;
	pthread_mutex_lock(&w->lock);
	for (size_t i = 0; i < w->client_count; i++) {
		if (w->clients[i].pid == pid) {
			*ret = w->clients[i];
			r = 0;
		}
	}
	pthread_mutex_unlock(&w->lock);
	return r;
}

int control_evict(struct worker *w, uint64_t id, struct evict_result *ret)
{
	atomic_store(&w->ordered, id);
	atomic_fetch_add(&w->evicts, 1);
	pthread_mutex_lock(&w->lock);
	w->waiting++;
	pthread_cond_broadcast(&w->changed);
	while (w->held)
		pthread_cond_wait(&w->changed, &w->lock);
	w->waiting--;
	int r = w->evict_error;
	if (r == 0)
		*ret = w->evict;
	pthread_mutex_unlock(&w->lock);
	return r;
}

int control_release(struct worker *w, uint64_t id, struct release_result *ret)
{
	atomic_store(&w->ordered, id);
	atomic_fetch_add(&w->releases, 1);
	pthread_mutex_lock(&w->lock);
	int r = w->release_error;
	if (r == 0)
		*ret = w->release;
	pthread_mutex_unlock(&w->lock);
	return r;
}

int control_release_all(struct worker *w, struct release_all_result *ret)
{
	atomic_fetch_add(&w->all_releases, 1);
	pthread_mutex_lock(&w->lock);
	int r = w->release_error;
	if (r == 0)
		*ret = w->release_all;
	pthread_mutex_unlock(&w->lock);
	return r;
}

int control_reload(struct worker *w, char *message, size_t size)
{
	atomic_fetch_add(&w->reloads, 1);
	pthread_mutex_lock(&w->lock);
	int r = w->reload_error;
	if (w->reload_message)
		snprintf(message, size, "%s", w->reload_message);
	pthread_mutex_unlock(&w->lock);
	return r;
}

void control_stop(struct worker *w, bool keep)
{
	atomic_fetch_add(keep ? &w->keeps : &w->stops, 1);
}
