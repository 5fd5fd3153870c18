/* Larder: this program was started by "larder run", and asks by "larder evict". */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* The command's own output would mix with ours; what it says goes to `output`, or nowhere. It
 * isn't to be a client itself. */
static int run_larder(const struct bench *b, char *const argv[], int output)
{
	posix_spawn_file_actions_t actions;
	pid_t child;
	int status, null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	if (null < 0)
		return -errno;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, output >= 0 ? output : null, 1);
	unsetenv("LD_PRELOAD");
	int r = posix_spawnp(&child, b->larder, &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	close(null);
	if (r != 0)
		return -r;
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

static int larder_evict(const struct bench *b)
{
	char pid[16], command[] = "larder", verb[] = "evict";
	char *argv[] = {command, verb, pid, NULL};

	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	return run_larder(b, argv, -1);
}

/* The number behind "key": in text; -1: isn't there. */
static int64_t find_number(const char *text, const char *key)
{
	const char *at = strstr(text, key);

	if (!at)
		return -1;
	at += strlen(key);
	return strtoll(at + strspn(at, "\": "), NULL, 10);
}

/* Of the whole service, of which we are the only client; the service comes first in the text.
 */
static int64_t larder_stored(const struct bench *b)
{
	char command[] = "larder", verb[] = "status", json[] = "--json", text[4096];
	char *argv[] = {command, verb, json, NULL};
	FILE *f = tmpfile();

	if (!f)
		return -1;
	int r = run_larder(b, argv, fileno(f));
	rewind(f);
	text[fread(text, 1, sizeof(text) - 1, f)] = '\0';
	fclose(f);
	int64_t stored = find_number(text, "\"stored_bytes\"");
	int64_t overhead = find_number(text, "\"overhead_bytes\"");
	return r == 0 && stored >= 0 && overhead >= 0 ? stored + overhead : -1;
}

const struct peer peer_larder = {"larder", larder_evict, larder_stored};
