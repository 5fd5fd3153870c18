#include "doctor_check.h"

#include <stdarg.h>
#include <stdio.h>

/* What there is to be right about a machine. From the kernel upwards. */
static const struct doctor_check machine_checks[] = {
	{"kernel", doctor_check_kernel},
	{"device", doctor_check_device},
	{"userfaultfd", doctor_check_features},
	{"huge-pages", doctor_check_huge_pages},
	{"swap", doctor_check_swap},
	{"overcommit", doctor_check_overcommit},
	{"max-map-count", doctor_check_mappings},
	{"epoll-watches", doctor_check_watches},
	{"config", doctor_check_config},
	{"shim", doctor_check_shim},
	{"service", doctor_check_service},
	{"version", doctor_check_version},
	{"capabilities", doctor_check_capabilities},
	{"files", doctor_check_files},
	{"locked-memory", doctor_check_locked},
	{"own-memory", doctor_check_own_huge_pages},
	{"oom-score", doctor_check_oom_score},
	{"tasks", doctor_check_tasks},
	{"store", doctor_check_store},
};

/* And about a process. */
static const struct doctor_check process_checks[] = {
	{"process", doctor_check_exists},
	{"owner", doctor_check_owner},
	{"service", doctor_check_service},
	{"attached", doctor_check_attached},
	{"program", doctor_check_program},
	{"preload", doctor_check_preload},
	{"shim", doctor_check_loaded},
	{"inherit", doctor_check_inherited},
	{"policy", doctor_check_policy},
	{"permission", doctor_check_permission},
	{"limits", doctor_check_limits},
	{"threads", doctor_check_threads},
	{"memory", doctor_check_memory},
};

const char *doctor_level_name(enum doctor_level level)
{
	static const char *const names[] = {"ok", "warn", "fail"};
	return names[level];
}

static void run(struct doctor *d, const struct doctor_check *check, size_t count)
{
	d->count = 0;
	for (size_t i = 0; i < count; i++) {
		d->check = check[i].name;
		if (!check[i].run(d))
			return;
	}
}

void doctor_machine(struct doctor *d)
{
	run(d, machine_checks, sizeof(machine_checks) / sizeof(machine_checks[0]));
}

void doctor_process(struct doctor *d)
{
	run(d, process_checks, sizeof(process_checks) / sizeof(process_checks[0]));
}

size_t doctor_count(const struct doctor *d, enum doctor_level level)
{
	size_t n = 0;
	for (size_t i = 0; i < d->count; i++)
		n += d->finding[i].level == level;
	return n;
}

void doctor_add(struct doctor *d, enum doctor_level level, const char *format, ...)
{
	va_list ap;
	/* No check adds so many; when one does, its last is what is seen. */
	if (d->count == DOCTOR_FINDINGS_MAX)
		d->count--;
	struct doctor_finding *f = &d->finding[d->count++];
	*f = (struct doctor_finding){.level = level, .name = d->check};
	va_start(ap, format);
	vsnprintf(f->what, sizeof(f->what), format, ap);
	va_end(ap);
}

void doctor_remedy(struct doctor *d, const char *format, ...)
{
	va_list ap;
	struct doctor_finding *f = &d->finding[d->count - 1];
	va_start(ap, format);
	vsnprintf(f->remedy, sizeof(f->remedy), format, ap);
	va_end(ap);
}

void doctor_remedy_sudo(struct doctor *d)
{
	char pid[16] = "";
	if (d->pid)
		snprintf(pid, sizeof(pid), " %d", (int)d->pid);
	/* sudo passes no LARDER_RUNTIME_DIR on. */
	doctor_remedy(d, "sudo larder doctor --runtime-dir %s%s", d->runtime_dir, pid);
}
