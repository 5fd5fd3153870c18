/* Cases that look at themselves from outside: counts in /proc, the environment, the accounts.
 */
#include "tidy.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static int count_numbers(const char *path)
{
	DIR *dir = opendir(path);
	int count = 0;

	for (struct dirent *e; dir && (e = readdir(dir));)
		count += isdigit((unsigned char)e->d_name[0]) != 0;
	if (dir)
		closedir(dir);
	return count;
}

int tidy_threads(struct tidy *t)
{
	say("threads %ld, tasks %d", status_number("Threads"),
		count_numbers("/proc/self/task"));
	return memory_check("one thread", t->memory);
}

int tidy_children(struct tidy *t)
{
	char path[64], text[256];

	snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return skip("no /proc/PID/task/TID/children (CONFIG_PROC_CHILDREN)");
	ssize_t n = read(fd, text, sizeof(text));
	close(fd);
	say("bytes of children: %zd", n);
	return memory_check("childless", t->memory);
}

int tidy_descriptors(struct tidy *t)
{
	int lowest = dup(0);

	say("lowest free: %d", lowest);
	close(lowest);
	known("descriptors", count_numbers("/proc/self/fd"));
	return child_check(t);
}

/* Bytes of /proc/PID/NAME, 0 when it can't be read. */
static size_t read_of(const char *pid, const char *name, char *buf, size_t size)
{
	char path[300];

	snprintf(path, sizeof(path), "/proc/%s/%s", pid, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, buf, size);
	if (fd >= 0)
		close(fd);
	return n > 0 ? (size_t)n : 0;
}

/* As `ps` counts: by command line, and by parent. */
int tidy_processes(struct tidy *t)
{
	char own[512], other[512], stat[512], parent[32];
	size_t length = read_of("self", "cmdline", own, sizeof(own));
	DIR *dir = opendir("/proc");
	int alike = 0, children = 0;

	snprintf(parent, sizeof(parent), ") S %d ", (int)getpid());
	for (struct dirent *e; dir && (e = readdir(dir));) {
		if (!isdigit((unsigned char)e->d_name[0]))
			continue;
		size_t n = read_of(e->d_name, "cmdline", other, sizeof(other));
		alike += n == length && memcmp(own, other, n) == 0;
		n = read_of(e->d_name, "stat", stat, sizeof(stat) - 1);
		stat[n] = '\0';
		children += strstr(stat, parent) != NULL;
	}
	if (dir)
		closedir(dir);
	known("processes", alike);
	say("children by parent: %d", children);
	return memory_check("looked", t->memory);
}

/* Lines that a parser of maps can't take apart, in which it could lose its way. */
int tidy_maps(struct tidy *t)
{
	FILE *f = fopen("/proc/self/maps", "re");
	char line[512], perms[8];
	unsigned long start, end, last = 0;
	int odd = 0, lines = 0;
	bool found = false;

	for (; f && fgets(line, sizeof(line), f); lines++) {
		if (sscanf(line, "%lx-%lx %7s", &start, &end, perms) != 3 || start < last ||
			strlen(perms) != 4 || !strchr(line, '\n'))
			odd++;
		last = end;
		found |= start == (uintptr_t)t->memory && end - start == TIDY_BYTES;
	}
	if (f)
		fclose(f);
	say("odd lines: %d; the memory is %s mapping", odd, found ? "one" : "not one");
	known("maps", lines);
	known("VmSize", status_number("VmSize"));
	return 0;
}

extern char **environ;

/* Ours are counted; the others are to be as they were, in their order. */
static bool is_ours(const char *entry)
{
	return strncmp(entry, "LD_PRELOAD=", 11) == 0 || strncmp(entry, "LARDER_", 7) == 0;
}

static int ours_in_environ(void)
{
	int ours = 0;

	for (char **e = environ; *e; e++)
		ours += is_ours(*e) && strncmp(*e, "LARDER_RUNTIME_DIR=", 19) != 0;
	return ours;
}

int tidy_environment(struct tidy *t)
{
	for (char **e = environ; *e; e++)
		if (!is_ours(*e) && strncmp(*e, "_=", 2) != 0)
			say("%s", *e);
	known("environment", ours_in_environ());
	return memory_check("environment", t->memory);
}

/* With `larder run --no-inherit` not even that: what we execute must not meet us. */
int tidy_no_inherit(struct tidy *t)
{
	if (!*t->stage) {
		say("ours in the environment: %d", ours_in_environ());
		const char *preload = getenv("LD_PRELOAD");
		say("LD_PRELOAD: %s", preload ? preload : "not set");
		return exec_image(t, NULL, "second");
	}
	say("ours in the next image's environment: %d", ours_in_environ());
	t->next = POINT_GONE;
	return 0;
}

int tidy_usage(struct tidy *t)
{
	struct rusage u;

	getrusage(RUSAGE_CHILDREN, &u);
	known("children-usage", u.ru_maxrss);
	known("children-time", u.ru_utime.tv_sec * 1000 + u.ru_utime.tv_usec / 1000 +
				       u.ru_stime.tv_sec * 1000 + u.ru_stime.tv_usec / 1000);
	return memory_check("usage", t->memory);
}
