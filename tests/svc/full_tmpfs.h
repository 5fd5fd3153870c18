/* A file system of so many bytes, of this process's own. */
#ifndef LARDER_TESTS_FULL_TMPFS_H
#define LARDER_TESTS_FULL_TMPFS_H

#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

/* Mounted at dir, made from its XXXXXX. False: this needs root. */
static inline bool tmpfs_of(char *dir, const char *size)
{
	char options[64];

	snprintf(options, sizeof(options), "mode=0700,size=%s", size);
	return mkdtemp(dir) && unshare(CLONE_NEWNS) == 0 &&
	       mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
	       mount("test", dir, "tmpfs", 0, options) == 0;
}

static inline void tmpfs_remove(const char *dir)
{
	umount2(dir, MNT_DETACH);
	rmdir(dir);
}

/* Takes what room is left. */
static inline void tmpfs_fill(const char *dir)
{
	char path[256], bytes[4096] = {1};

	snprintf(path, sizeof(path), "%s/filler", dir);
	FILE *f = fopen(path, "w");
	while (f && fwrite(bytes, sizeof(bytes), 1, f) == 1 && fflush(f) == 0)
		;
	if (f)
		fclose(f);
}

#endif
