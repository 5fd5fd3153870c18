/* For the checks themselves: adding findings, and reading the world. */
#ifndef LARDER_DOCTOR_CHECK_H
#define LARDER_DOCTOR_CHECK_H

#include "doctor.h"

#include <sys/stat.h>

struct config;

struct doctor_check {
	const char *name;
	bool (*run)(struct doctor *d); /* false: the checks behind it make no sense */
};

/* Adds a finding of the check whose turn it is. */
__attribute__((format(printf, 3, 4))) void doctor_add(
	struct doctor *d, enum doctor_level level, const char *format, ...);
#define doctor_ok(d, ...)   doctor_add(d, DOCTOR_OK, __VA_ARGS__)
#define doctor_warn(d, ...) doctor_add(d, DOCTOR_WARN, __VA_ARGS__)
#define doctor_fail(d, ...) doctor_add(d, DOCTOR_FAIL, __VA_ARGS__)
/* What helps, of the finding added last. */
__attribute__((format(printf, 2, 3))) void doctor_remedy(
	struct doctor *d, const char *format, ...);
/* The remedy is to ask as root. */
void doctor_remedy_sudo(struct doctor *d);

/* doctor_read.c: files below d->root. */

/* Descriptor, or negative errno. */
__attribute__((format(printf, 3, 4))) int doctor_open(
	const struct doctor *d, int flags, const char *format, ...);
/* 0 or negative errno. */
__attribute__((format(printf, 3, 4))) int doctor_stat(
	const struct doctor *d, struct stat *ret, const char *format, ...);
/* The whole text, NUL-terminated, which the caller frees; NULL with errno. *ret_size without
 * the NUL; may be NULL. */
__attribute__((format(printf, 3, 4))) char *doctor_text(
	const struct doctor *d, size_t *ret_size, const char *format, ...);
/* The number that a file consists of; false: there is none. */
bool doctor_number(const struct doctor *d, const char *path, uint64_t *ret);

/* The number behind "KEY" at the start of a line, as in /proc/PID/status. */
bool doctor_field(const char *text, const char *key, int base, uint64_t *ret);
/* A line of /proc/PID/limits; UINT64_MAX is unlimited. Either output may be NULL. */
bool doctor_limit(const char *limits, const char *name, uint64_t *ret_soft, uint64_t *ret_hard);
/* The value of NAME among NUL-separated NAME=VALUE; NULL: isn't there. */
const char *doctor_variable(const char *text, size_t size, const char *name);
/* The same place, whatever links lead there? */
bool doctor_same_path(const struct doctor *d, const char *a, const char *b);
char *doctor_bytes(uint64_t bytes, char text[static 32]); /* "12.5 MiB" */

/* doctor_process.c: the effective user, of the text of /proc/PID/status; and its name, or its
 * number as text. */
bool doctor_ids(const char *status, uid_t *ret);
void doctor_user(uid_t uid, char *text, size_t size);

/* What a program or library file is. */
struct doctor_elf {
	bool elf, is_64, has_interpreter;
	unsigned machine;
};
int doctor_elf_read(int fd, struct doctor_elf *ret);

/* doctor_config.c: the configuration in force, as far as it can be told. Always sets path, ""
 * for built-in settings, and on failure `why`, which says what is wrong. */
int doctor_config(const struct doctor *d, struct config **ret, char *path, size_t path_size,
	char *why, size_t why_size);

/* doctor_kernel.c */
bool doctor_check_kernel(struct doctor *d);
bool doctor_check_device(struct doctor *d);
bool doctor_check_features(struct doctor *d);
bool doctor_check_huge_pages(struct doctor *d);
bool doctor_check_swap(struct doctor *d);
bool doctor_check_overcommit(struct doctor *d);
bool doctor_check_mappings(struct doctor *d);
bool doctor_check_watches(struct doctor *d);
/* doctor_service.c */
bool doctor_check_service(struct doctor *d);
bool doctor_check_version(struct doctor *d);
bool doctor_check_capabilities(struct doctor *d);
bool doctor_check_files(struct doctor *d);
bool doctor_check_locked(struct doctor *d);
bool doctor_check_own_huge_pages(struct doctor *d);
bool doctor_check_oom_score(struct doctor *d);
bool doctor_check_tasks(struct doctor *d);
bool doctor_check_store(struct doctor *d);
bool doctor_check_shim(struct doctor *d);
/* doctor_config.c */
bool doctor_check_config(struct doctor *d);
bool doctor_check_policy(struct doctor *d);
bool doctor_check_permission(struct doctor *d);
/* doctor_process.c */
bool doctor_check_exists(struct doctor *d);
bool doctor_check_owner(struct doctor *d);
bool doctor_check_attached(struct doctor *d);
bool doctor_check_program(struct doctor *d);
bool doctor_check_preload(struct doctor *d);
bool doctor_check_loaded(struct doctor *d);
bool doctor_check_inherited(struct doctor *d);
bool doctor_check_limits(struct doctor *d);
/* doctor_memory.c */
bool doctor_check_threads(struct doctor *d);
bool doctor_check_memory(struct doctor *d);

#endif
