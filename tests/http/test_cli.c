/* The command line: usage, help, the configuration commands, and `larder run`. */
#include "test_cmocka.h"

#include "command.h"
#include "policy.h"

#include <stdlib.h>
#include <string.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const struct expect usages[] = {
	{"$larder", 2, NULL, "usage: larder [OPTION...] COMMAND"},
	{"$larder nonsense", 2, NULL, "there is no command nonsense; see larder --help"},
	{"$larder --nonsense", 2, NULL, "there is no command --nonsense"},
	{"$larder run", 2, NULL, "something is missing: usage: larder run [--] CMD..."},
	{"$larder run --", 2, NULL, "something is missing"},
	{"$larder run --json true", 2, NULL, "run has no option --json"},
	{"$larder run --policy", 2, NULL, "--policy needs a value: NAME"},
	{"$larder run --policy= true", 2, NULL, "--policy needs a value: NAME"},
	{"$larder run --no-inherit=yes true", 2, NULL, "--no-inherit takes no value"},
	{"$larder --runtime-dir", 2, NULL, "--runtime-dir needs a value: DIR"},
	{"$larder status 1 2", 2, NULL, "too many words: usage: larder status [PID]"},
	{"$larder status --policy x", 2, NULL, "status has no option --policy"},
	{"$larder status -5", 2, NULL, "status has no option -5"},
	{"$larder status 0", 2, NULL, "0 is no process id"},
	{"$larder status 12x", 2, NULL, "12x is no process id"},
	{"$larder evict", 2, NULL, "something is missing: usage: larder evict PID"},
	{"$larder evict self", 2, NULL, "self is no process id"},
	{"$larder release 99999999999", 2, NULL, "99999999999 is no process id"},
	{"$larder release", 2, NULL, "usage: larder release PID | --all"},
	{"$larder release --all 1", 2, NULL, "too many words"},
	{"$larder evict --all", 2, NULL, "has no option --all"},
	{"$larder reload now", 2, NULL, "too many words"},
	{"$larder doctor x", 2, NULL, "x is no process id"},
	{"$larder doctor 1 2", 2, NULL, "too many words: usage: larder doctor [PID]"},
	{"$larder doctor --policy x", 2, NULL, "doctor has no option --policy"},
	{"$larder check-config", 2, NULL, "something is missing"},
	{"$larder --version > /dev/full", 1, NULL, "cannot write"},
};

static void wrong_usage_exits_with_2(void **state)
{
	expect_in(*state, usages, COUNT(usages));
}

static const struct expect helps[] = {
	{"$larder --version", 0, "larder " LARDER_VERSION "\n", NULL},
	{"$larder --help", 0, "usage: larder [OPTION...] COMMAND", NULL},
	{"$larder --help", 0, "\n  check-config FILE ", NULL},
	{"$larder --help", 0, "\n  --runtime-dir DIR ", NULL},
	{"$larder run --help", 0, "usage: larder run [OPTION...] [--] CMD...", NULL},
	{"$larder run --help", 0, "\n  --no-inherit ", NULL},
	{"$larder status --help", 0, "\n  --json ", NULL},
	{"$larder evict --help", 0, "usage: larder evict [OPTION...] PID", NULL},
	/* what stands behind a program is the program's */
	{"$larder run printf %s --help", 0, "--help", "no shim"},
};

static void help_is_given(void **state)
{
	expect_in(*state, helps, COUNT(helps));
}

static void every_command_of_the_help_has_a_help(void **state)
{
	struct output all;
	run_in(*state, "$larder --help", &all);
	assert_int_equal(all.code, 0);
	char *save = NULL, *line = strstr(all.out, "commands:\n");
	assert_non_null(line);
	unsigned commands = 0;
	for (line = strtok_r(line, "\n", &save); (line = strtok_r(NULL, "\n", &save));) {
		char name[32], command[64], usage[64];
		if (sscanf(line, "  %31s", name) != 1 || strncmp(line, "  ", 2) != 0)
			break; /* the list is over */
		snprintf(command, sizeof(command), "$larder %s --help", name);
		snprintf(usage, sizeof(usage), "usage: larder %s ", name);
		expect_in(*state, &(struct expect){command, 0, usage, NULL}, 1);
		commands++;
	}
	assert_true(commands >= 9);
	output_done(&all);
}

/* Configuration */

static const struct expect configs[] = {
	{"$larder check-config good", 0, "good: ok\n", NULL},
	{"$larder check-config empty", 0, "empty: ok\n", NULL},
	{"$larder check-config bad", 1, NULL, "bad:3: unknown key colour in [service]\n"},
	{"$larder check-config missing", 1, NULL, "missing: No such file or directory"},
	{"$larder check-config /", 1, NULL, "/: Is a directory"},
	{"$larder --dump-config good", 0, "\nreaders = 5\n", NULL},
	{"$larder --dump-config bad", 1, NULL, "bad:3: unknown key colour"},
	{"$larder --dump-config missing", 1, NULL, "missing: No such file or directory"},
	{"$larder --dump-config good > again; $larder check-config again", 0, "again: ok\n",
		NULL},
	{"$larder --dump-config good | cmp - good.dump", 0, NULL, NULL},
	{"$larder --help-config", 0, "\n  stall-budget\n", NULL},
};

static void configurations_are_checked_and_shown(void **state)
{
	static const char good[] = "[service]\nreaders = 5\n[policy x]\nmatch-exe = y\n";
	const char *dir = *state;
	write_file(dir, "good", good);
	write_file(dir, "empty", "");
	write_file(dir, "bad", "\n[service]\ncolour = blue\n");

	struct config *c;
	struct config_error err;
	char *text = NULL;
	size_t size;
	FILE *f = fmemopen((void *)(uintptr_t)good, strlen(good), "r");
	assert_int_equal(config_read(f, &c, &err), 0);
	fclose(f);
	f = open_memstream(&text, &size);
	assert_int_equal(config_dump(c, f), 0);
	fclose(f);
	write_file(dir, "good.dump", text);
	free(text);
	config_free(c);

	expect_in(dir, configs, COUNT(configs));
}

/* run */

static const struct expect runs[] = {
	/* without a shim: a warning, and the program runs */
	{"$larder run /bin/echo a b", 0, "a b\n",
		"/liblarder.so (No such file or directory): "
		"running unmanaged"},
	{"$larder run -- echo found in PATH", 0, "found in PATH\n", "running unmanaged"},
	{"$larder run -- sh -c 'exit 7'", 7, NULL, "running unmanaged"},
	{"$larder run -- sh -c 'kill -TERM $$'", 128 + 15, NULL, ""},
	{"LARDER_SHIM=missing.so $larder run echo a", 0, "a\n",
		"no shim at missing.so (No such file or directory)"},
	{"$larder run sh -c 'echo \"<$LD_PRELOAD>\"'", 0, "<>\n", "running unmanaged"},

	/* programs that can't be run */
	{"$larder run ./missing", 127, NULL, "larder: ./missing: No such file or directory"},
	{"$larder run missing-in-path", 127, NULL,
		"missing-in-path: No such file or directory"},
	{"$larder run /", 126, NULL, "larder: /: Permission denied"},
	{"$larder run ./plain", 126, NULL, "larder: ./plain: Permission denied"},
};

static void programs_run_without_a_shim(void **state)
{
	write_file(*state, "plain", "");
	expect_in(*state, runs, COUNT(runs));
}

static const struct expect shims[] = {
	{"LARDER_SHIM=./shim.so $larder run echo a", 0, "[shim]a\n", NULL},
	{"LARDER_SHIM=./shim.so $larder run sh -c 'echo \"<$LD_PRELOAD>\"'", 0, "/shim.so>",
		NULL},
	/* what was preloaded stays, behind ours */
	{"ln -sf shim.so other.so; LD_PRELOAD=$PWD/other.so LARDER_SHIM=./shim.so "
	 "sh -c 'exec $larder run env'",
		0, "/shim.so:/", NULL},
	/* a run inside a run preloads once */
	{"LARDER_SHIM=./shim.so $larder run $larder run env | grep -c shim.so:", 1, "0\n",
		NULL},
	/* ld.so would take these for two files */
	{"cp shim.so 'a b.so'; LARDER_SHIM='a b.so' $larder run echo a", 0, "a\n",
		"no path with a space or colon can be preloaded"},
	/* beside larder itself, as in a build tree */
	{"mkdir tree; cp $larder tree/larder; cp shim.so tree/liblarder.so; env -u LARDER_SHIM "
	 "tree/larder run "
	 "echo a",
		0, "[shim]a\n", NULL},
	{"LARDER_SHIM=missing.so tree/larder run echo a", 0, "a\n", "no shim at missing.so"},
};

static void the_shim_is_found_and_preloaded(void **state)
{
	struct output o;
	run_in(*state, "cp " FAKE_SHIM " shim.so", &o);
	assert_int_equal(o.code, 0);
	output_done(&o);
	expect_in(*state, shims, COUNT(shims));
}

static const struct expect environments[] = {
	{"$larder run env", 0, "LARDER_RUN_PID=", ""},
	{"$larder run sh -c 'test $LARDER_RUN_PID = $$'", 0, NULL, ""},
	{"$larder run --policy batch env", 0, "LARDER_POLICY=batch\n", ""},
	{"$larder run --policy=batch env", 0, "LARDER_POLICY=batch\n", ""},
	{"$larder run env | grep LARDER_POLICY", 1, NULL, ""},
	{"$larder run --no-inherit env", 0, "LARDER_INHERIT=0\n", ""},
	{"$larder run env | grep LARDER_INHERIT", 1, NULL, ""},
	/* the inner run's own children are its own matter */
	{"$larder run --no-inherit $larder run env | grep LARDER_INHERIT", 1, NULL, ""},
	{"mkdir -p here; $larder run --runtime-dir here env | "
	 "grep -x \"LARDER_RUNTIME_DIR=$(realpath here)\"",
		0, "/here\n", ""},
	{"$larder --runtime-dir /nowhere run env", 0, "LARDER_RUNTIME_DIR=/nowhere\n", ""},
	{"LARDER_RUNTIME_DIR=/else $larder run env", 0, "LARDER_RUNTIME_DIR=/else\n", ""},
	{"FOO=bar $larder run env", 0, "FOO=bar\n", ""},
};

static void the_shim_is_told_by_the_environment(void **state)
{
	expect_in(*state, environments, COUNT(environments));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, directory_setup, directory_teardown)
	const struct CMUnitTest tests[] = {
		T(wrong_usage_exits_with_2),
		T(help_is_given),
		T(every_command_of_the_help_has_a_help),
		T(configurations_are_checked_and_shown),
		T(programs_run_without_a_shim),
		T(the_shim_is_found_and_preloaded),
		T(the_shim_is_told_by_the_environment),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
