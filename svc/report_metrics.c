/* https://prometheus.io/docs/instrumenting/exposition_formats/: all samples of a metric stand
 * together, behind its HELP and TYPE. */
#include "report.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* "_total" after counters is Prometheus' custom. */
#define SUFFIX_counter "_total"
#define SUFFIX_gauge   ""

static void head(FILE *f, const char *name, const char *type, const char *help)
{
	fprintf(f, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* A label's value: UTF-8, with \, " and line feeds escaped. */
static void label_value(FILE *f, const char *text)
{
	char *clean = report_utf8(text);
	for (const char *p = clean ? clean : ""; *p; p++) {
		if (*p == '\n')
			fputs("\\n", f);
		else if (*p == '\\' || *p == '"')
			fprintf(f, "\\%c", *p);
		else
			fputc(*p, f);
	}
	free(clean);
}

/* The id is there because pid and exe need not be unique: forked children are counted before
 * their pid is known. */
static void client_sample(
	FILE *f, const char *name, const struct client_info *c, uint64_t value)
{
	fprintf(f, "%s{pid=\"%d\",id=\"%" PRIu64 "\",exe=\"", name, (int)c->pid, c->id);
	label_value(f, c->exe);
	fprintf(f, "\"} %" PRIu64 "\n", value);
}

static void service_metrics(FILE *f, const struct service_stats *s)
{
	head(f, "larder_build_info", "gauge", "version of the service");
	fprintf(f, "larder_build_info{version=\"%s\"} 1\n", LARDER_VERSION);
	head(f, "larder_saved_bytes", "gauge",
		"evicted less stored less overhead, may be below 0");
	fprintf(f, "larder_saved_bytes %" PRId64 "\n", report_saved(s));
	head(f, "larder_trouble", "gauge",
		"1: this has run full or is stuck, and evictions stop");
#define X(id, word, text)                                                                      \
	fprintf(f, "larder_trouble{name=\"" word "\"} %d\n", s->trouble_ms[TROUBLE_##id] > 0);
	TROUBLES(X)
#undef X
#define X(name, type, help)                                                                    \
	head(f, "larder_" #name SUFFIX_##type, #type, help);                                   \
	fprintf(f, "larder_" #name SUFFIX_##type " %" PRIu64 "\n", s->name);
	SERVICE_STATS(X)
#undef X
}

static void client_metrics(FILE *f, const struct client_info *clients, size_t count)
{
#define X(name, type, help)                                                                    \
	head(f, "larder_client_" #name SUFFIX_##type, #type, help);                            \
	for (size_t i = 0; i < count; i++)                                                     \
		client_sample(f, "larder_client_" #name SUFFIX_##type, &clients[i],            \
			clients[i].stats.name);
	CLIENT_STATS(X)
#undef X
}

char *report_metrics(
	const struct service_stats *service, const struct client_info *clients, size_t count)
{
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);
	if (!f)
		return NULL;
	service_metrics(f, service);
	client_metrics(f, clients, count);
	if (fclose(f) != 0) {
		free(text);
		return NULL;
	}
	return text;
}
