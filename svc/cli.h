/* The command line tool `larder`. cli.c has the table of commands and cli_options.c that of
 * options: parsing and --help come from these. A new command is a function here and a line
 * there. */
#ifndef LARDER_CLI_H
#define LARDER_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

/* Exit codes. `larder run` gives those of env(1), and then the program's own. */
enum {
	CLI_OK = 0,
	CLI_FAILED = 1,
	CLI_USAGE = 2,
	CLI_CANNOT_RUN = 126,
	CLI_NOT_FOUND = 127,
};

/* Options, as bits of what a command takes. */
enum {
	CLI_RUNTIME_DIR = 1 << 0,
	CLI_POLICY = 1 << 1,
	CLI_NO_INHERIT = 1 << 2,
	CLI_JSON = 1 << 3,
	CLI_HELP = 1 << 4,
	CLI_CONFIG = 1 << 5,
	CLI_ALL = 1 << 6,
	CLI_KEEP = 1 << 7,
};

struct cli {
	const char *runtime_dir; /* --runtime-dir, or NULL */
	const char *policy;	 /* --policy, or NULL */
	const char *config;	 /* --config, or NULL */
	bool no_inherit, json, all, keep, help;
	char **operands; /* what is left, NULL-terminated */
	int operand_count;
};

struct cli_command {
	const char *name;
	const char *operands;		/* for people: "[PID]" */
	int min_operands, max_operands; /* max -1: all the rest is another program's */
	unsigned options;		/* CLI_* bits, besides those that all take */
	int (*run)(const struct cli *cli);
	const char *help;
};

/* The commands; each returns an exit code and has said why on stderr if it failed. */
int cli_run(const struct cli *cli);
int cli_status(const struct cli *cli);
int cli_evict(const struct cli *cli);
int cli_release(const struct cli *cli);
int cli_reload(const struct cli *cli);
int cli_stop(const struct cli *cli);
int cli_doctor(const struct cli *cli);
int cli_check_config(const struct cli *cli);
int cli_dump_config(const struct cli *cli);
int cli_help_config(const struct cli *cli);

/* cli_run.c: full path of the shim, which the caller frees. NULL with errno: there is none at
 * *ret_wanted. */
char *cli_find_shim(const char **ret_wanted);

/* cli_options.c: reads options at *arg, which ends behind them. Stops at the first that isn't
 * an option of ours and leaves it to the caller. -EINVAL: it said what is wrong. */
int cli_parse_leading(struct cli *cli, char ***arg);
/* Reads a command's options and operands. The same. */
int cli_parse(struct cli *cli, const struct cli_command *command, char **args);
void cli_print_options(const struct cli_command *command, FILE *f); /* NULL: those of all */

/* cli_text.c */
void cli_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* --runtime-dir, LARDER_RUNTIME_DIR, or the default. */
const char *cli_runtime_dir(const struct cli *cli);
bool cli_parse_pid(const char *text, pid_t *ret);
/* Numbers for people; each returns text. */
char *cli_bytes(int64_t bytes, char *text, size_t size);	  /* "1.50 GiB" */
char *cli_micros(uint64_t us, char *text, size_t size);		  /* "12 us", "2.1 ms" */
char *cli_seconds(uint64_t seconds, char *text, size_t size);	  /* "3h 12m" */
char *cli_ratio(uint64_t a, uint64_t b, char *text, size_t size); /* "3.7:1", "-" of nothing */
/* Replaces what could steer a terminal; names come from other people's programs. */
char *cli_clean(const char *from, char *text, size_t size);

#endif
