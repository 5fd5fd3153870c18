/* What the service tells of itself, as text: JSON for tools and `larder status`, the exposition
 * format for Prometheus. Both come from the lists in stats.h.
 *
 * Pure functions of their arguments. Each returns a string that the caller frees, NULL when out
 * of memory. Names that are not UTF-8 (an executable may be called anything) are made so: each
 * bad byte becomes U+FFFD. */
#ifndef LARDER_REPORT_H
#define LARDER_REPORT_H

#include "control.h"

char *report_status(
	const struct service_stats *service, const struct client_info *clients, size_t count);
char *report_client(const struct client_info *client);
char *report_evict(pid_t pid, const struct evict_result *result);
char *report_release(pid_t pid, const struct release_result *result);
char *report_release_all(const struct release_all_result *result);
char *report_reload(const char *message);
char *report_stop(bool keep);
char *report_error(const char *message);

char *report_metrics(
	const struct service_stats *service, const struct client_info *clients, size_t count);

/* evicted - stored - overhead: what the machine gained, less than 0 if it lost. */
int64_t report_saved(const struct service_stats *service);

/* Copies text with each byte that is not UTF-8 replaced. */
char *report_utf8(const char *text);

#endif
