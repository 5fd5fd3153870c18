/* `larder run`: sets the environment that the shim reads, and becomes the program. Nothing here
 * may keep a program from running: without a shim it just runs unmanaged.
 *
 *	LD_PRELOAD         the shim before what was there
 *	LARDER_RUN_PID     our pid, which becomes the program's: its children are told apart by
 *it LARDER_RUNTIME_DIR where the service is LARDER_POLICY      --policy LARDER_INHERIT     0
 *with --no-inherit */
#include "cleanup.h"
#include "cli.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The shim at a path that begins where our own executable lies. */
static char *shim_from_us(const char *relative)
{
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n <= 0)
		return NULL;
	self[n] = '\0';
	char *slash = strrchr(self, '/'), *path;
	if (!slash || asprintf(&path, "%.*s/%s", (int)(slash - self), self, relative) < 0)
		return NULL;
	char *full = realpath(path, NULL);
	free(path);
	if (full && access(full, R_OK) == 0)
		return full;
	free(full);
	return NULL;
}

char *cli_find_shim(const char **ret_wanted)
{
	const char *env = getenv("LARDER_SHIM");
	bool given = env && *env;
	/* In a build tree both lie side by side. */
	char *near = given ? NULL : shim_from_us("liblarder.so");
	if (!near && !given)
		near = shim_from_us(LARDER_SHIM_FROM_BIN);
	*ret_wanted = given ? env : LARDER_SHIM_DEFAULT;
	if (near)
		return near;
	char *path = realpath(*ret_wanted, NULL);
	if (!path || access(path, R_OK) == 0)
		return path;
	int e = errno;
	free(path);
	errno = e;
	return NULL;
}

/* Is path one of the preloaded? ld.so takes colons and spaces for separators. */
static bool is_preloaded(const char *preload, const char *path)
{
	while (*preload) {
		size_t n = strcspn(preload, ": ");
		if (n == strlen(path) && strncmp(preload, path, n) == 0)
			return true;
		preload += n;
		preload += strspn(preload, ": ");
	}
	return false;
}

static void preload_shim(void)
{
	const char *wanted, *old = getenv("LD_PRELOAD");
	_cleanup_free_ char *shim = cli_find_shim(&wanted), *both = NULL;
	if (!shim) {
		cli_error("no shim at %s (%m): running unmanaged", wanted);
		return;
	}
	if (strpbrk(shim, ": ")) {
		cli_error("no path with a space or colon can be preloaded (%s): running "
			  "unmanaged",
			shim);
		return;
	}
	if (!old || !*old) {
		setenv("LD_PRELOAD", shim, 1);
		return;
	}
	if (is_preloaded(old, shim))
		return;
	if (asprintf(&both, "%s:%s", shim, old) >= 0)
		setenv("LD_PRELOAD", both, 1);
}

static void set_environment(const struct cli *cli)
{
	char pid[20];
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	setenv("LARDER_RUN_PID", pid, 1);
	if (cli->runtime_dir) {
		/* The program may change its directory before it starts another. */
		_cleanup_free_ char *full = realpath(cli->runtime_dir, NULL);
		setenv("LARDER_RUNTIME_DIR", full ? full : cli->runtime_dir, 1);
	}
	if (cli->policy)
		setenv("LARDER_POLICY", cli->policy, 1);
	/* Set by a `larder run --no-inherit` around us, it is not about this program's
	 * children. */
	if (cli->no_inherit)
		setenv("LARDER_INHERIT", "0", 1);
	else
		unsetenv("LARDER_INHERIT");
}

int cli_run(const struct cli *cli)
{
	set_environment(cli);
	preload_shim();
	execvp(cli->operands[0], cli->operands);
	int r = errno;
	cli_error("%s: %s", cli->operands[0], strerror(r));
	return r == ENOENT ? CLI_NOT_FOUND : CLI_CANNOT_RUN;
}
