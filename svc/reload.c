/* A new configuration, on SIGHUP or `larder reload`. */
#include "control.h"
#include "log.h"
#include "policy.h"
#include "pulse.h"
#include "settings.h"
#include "worker.h"

#include <stdio.h>
#include <string.h>

/* What the comparison found, for the message. */
struct tally {
	unsigned changed;
	char waiting[200]; /* keys that wait for a restart, with commas */
};

static void note_waiting(struct tally *t, const char *key)
{
	size_t used = strlen(t->waiting);
	snprintf(t->waiting + used, sizeof(t->waiting) - used, "%s%s", used ? ", " : "", key);
}

static void on_change(const struct config_change *c, void *arg)
{
	struct tally *t = arg;

	t->changed++;
	if (c->restart)
		note_waiting(t, c->key);
	log_line(c->restart ? LOG_WARN : LOG_INFO, "reload: [%s%s%s] %s: %s -> %s%s",
		c->section, c->policy ? " " : "", c->policy ? c->policy : "", c->key,
		*c->from ? c->from : "(none)", *c->to ? c->to : "(none)",
		c->restart ? ": waits for a restart of larderd" : "");
}

static void summarize(const struct tally *t, char *message, size_t size)
{
	if (t->changed == 0)
		snprintf(message, size, "nothing changed");
	else
		snprintf(message, size, "%u setting%s changed%s%s", t->changed,
			t->changed == 1 ? "" : "s",
			*t->waiting ? "; these wait for a restart of larderd: " : "",
			t->waiting);
}

/* Takes over fresh, or frees it. Only reloads replace w->config, so it may be read here without
 * the lock. */
static int take_over(struct worker *w, struct config *fresh, struct tally *t)
{
	int r = config_compare(w->config, fresh, on_change, t);
	if (r == 0)
		r = config_keep(fresh, w->config);
	if (r < 0) {
		config_free(fresh);
		return r;
	}
	pthread_mutex_lock(&w->config_lock);
	struct config *old = w->config;
	w->config = fresh;
	w->config_generation++;
	pulse_limit(fresh->watchdog_ms);
	pthread_mutex_unlock(&w->config_lock);
	config_free(old);
	return 0;
}

int control_reload(struct worker *w, char *message, size_t size)
{
	struct tally t = {0};
	struct config *fresh;

	pthread_mutex_lock(&w->reload_lock);
	int r = settings_load(w->config_path, &fresh, message, size);
	if (r == 0) {
		r = take_over(w, fresh, &t);
		if (r < 0)
			snprintf(message, size, "%s", strerror(-r));
	}
	if (r == 0)
		summarize(&t, message, size);
	if (r < 0)
		log_error("reload: %s; the old settings stay", message);
	else
		log_info("reload: %s", message);
	pthread_mutex_unlock(&w->reload_lock);
	return r;
}
