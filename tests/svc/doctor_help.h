/* For the tests of doctor.h: a directory that looks like the root of a machine. */
#ifndef LARDER_TESTS_DOCTOR_HELP_H
#define LARDER_TESTS_DOCTOR_HELP_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "doctor.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

enum { SERVICE_PID = 100 };

struct machine {
	char root[64];
	struct doctor d;
};
/* One that is right in all that is looked at, with a service that answers. */
void machine_init(struct machine *m);
void machine_done(struct machine *m);

/* A file, and the folders that lead to it. */
void machine_write(struct machine *m, const char *path, const char *text);
void machine_write_bytes(struct machine *m, const char *path, const void *data, size_t size);
void machine_link(struct machine *m, const char *path, const char *target);
void machine_remove(struct machine *m, const char *path);
void machine_chmod(struct machine *m, const char *path, unsigned mode);
/* An ELF file: of the given class, with or without a dynamic linker. */
void machine_elf(struct machine *m, const char *path, bool is_64, bool has_interpreter);

/* What the trial of the kernel and of the file system say from now on. */
void probe_says(int result, const char *what);
void space_says(uint64_t blocks, uint64_t available);

/* Every warning and failure has a remedy, no success has; fails the test otherwise. */
void check_remedies(const struct doctor *d);
/* The finding of that level which says so, or a failed test. `what` is contained in it. */
void expect_finding(
	const struct doctor *d, enum doctor_level level, const char *name, const char *what);
/* Nothing else than ok, but for findings of that name (NULL: none). */
void expect_rest_ok(const struct doctor *d, const char *name);

#endif
