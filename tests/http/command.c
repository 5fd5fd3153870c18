#include "test_cmocka.h"

#include "command.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char *take_file(const char *dir, const char *name)
{
	char path[256], *text = NULL;
	size_t size = 0;
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	FILE *f = fopen(path, "r");
	assert_non_null(f);
	if (getdelim(&text, &size, '\0', f) < 0) {
		free(text);
		text = strdup("");
	}
	fclose(f);
	unlink(path);
	return text;
}

void run_in(const char *dir, const char *command, struct output *ret)
{
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		if (chdir(dir) < 0 || !freopen("/dev/null", "r", stdin) ||
			!freopen("stdout.txt", "w", stdout) ||
			!freopen("stderr.txt", "w", stderr))
			_exit(99);
		setenv("larder", "./larder", 1);
		execl("/bin/sh", "sh", "-c", command, (char *)NULL);
		_exit(99);
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	ret->code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	ret->out = take_file(dir, "stdout.txt");
	ret->err = take_file(dir, "stderr.txt");
}

void output_done(struct output *o)
{
	free(o->out);
	free(o->err);
}

static int holds(const char *text, const char *wanted)
{
	return wanted ? strstr(text, wanted) != NULL : *text == '\0';
}

void expect_in(const char *dir, const struct expect *cases, unsigned long count)
{
	for (unsigned long i = 0; i < count; i++) {
		const struct expect *e = &cases[i];
		struct output o;
		run_in(dir, e->command, &o);
		if (o.code != e->code || !holds(o.out, e->out) || !holds(o.err, e->err))
			fail_msg("%s\nexit %d\nstdout: %s\nstderr: %s\nwanted: %d, %s, %s",
				e->command, o.code, o.out, o.err, e->code,
				e->out ? e->out : "(nothing)", e->err ? e->err : "(nothing)");
		output_done(&o);
	}
}

void write_file(const char *dir, const char *name, const char *text)
{
	char path[256];
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

/* AddressSanitizer stops a program that has anything preloaded before it. */
static void allow_preloading(void)
{
	const char *old = getenv("ASAN_OPTIONS");
	char options[512];
	snprintf(options, sizeof(options), "%s:verify_asan_link_order=0", old ? old : "");
	setenv("ASAN_OPTIONS", options, 1);
}

int directory_setup(void **state)
{
	char *dir = strdup("/tmp/larder-cli-XXXXXX");
	assert_non_null(mkdtemp(dir));
	/* What the caller's environment says is not what is tested, nor is what lies beside the
	 * tool in the build tree or is installed. */
	struct output o;
	run_in(dir, "cp " LARDER_BINARY " larder", &o);
	assert_int_equal(o.code, 0);
	output_done(&o);
	unsetenv("LD_PRELOAD");
	setenv("LARDER_SHIM", "/nowhere/liblarder.so", 1);
	allow_preloading();
	unsetenv("LARDER_POLICY");
	unsetenv("LARDER_INHERIT");
	setenv("LARDER_RUNTIME_DIR", dir, 1);
	*state = dir;
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

int directory_teardown(void **state)
{
	char *dir = *state;
	nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	free(dir);
	return 0;
}
