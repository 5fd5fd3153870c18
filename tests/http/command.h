/* Runs `larder` as a user would, in a directory of the test's own. */
#ifndef LARDER_TEST_COMMAND_H
#define LARDER_TEST_COMMAND_H

struct output {
	int code;	 /* exit code, 128 + signal */
	char *out, *err; /* owned */
};

/* Runs a shell command line in dir, in which $larder is the tool. */
void run_in(const char *dir, const char *command, struct output *ret);
void output_done(struct output *o);

/* A case of a table: what the command must give. NULL: nothing at all. */
struct expect {
	const char *command;
	int code;
	const char *out, *err; /* contained in it */
};
/* Fails the test unless all hold. */
void expect_in(const char *dir, const struct expect *cases, unsigned long count);

void write_file(const char *dir, const char *name, const char *text);

/* For cmocka: *state is the directory's path. */
int directory_setup(void **state);
int directory_teardown(void **state);

#endif
