/* LARDER_POINTS: what it takes, what it refuses and says. */
#include "points.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static void wrong_text_is_named(void **state)
{
	static const char *const wrong[] = {"nowhere=100", "fetch", "fetch=", "fetch=0", "=100",
		"fetch=10:0", "fetch=10:", "fetch=x", "fetch=10x", "fetch=10:2x", "fetch=-1:1",
		"fetch=99999999", "move=10,zap=ten", "kill=10", "kill=dir", "fetc=10",
		"fetchh=10"};

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		char message[256] = "";
		int r = points_choose(wrong[i], message, sizeof(message));
		if (r != -EINVAL || !strstr(message, "LARDER_POINTS"))
			fail_msg("%s: %d, \"%s\"", wrong[i], r, message);
		assert_false(points_chosen);
	}
}

static void nothing_is_chosen_by_default(void **state)
{
	char message[256];

	(void)state;
	assert_int_equal(points_choose(NULL, message, sizeof(message)), 0);
	assert_int_equal(points_choose("", message, sizeof(message)), 0);
	assert_false(points_chosen);
	point(POINT_fetch);
}

static void right_text_is_taken(void **state)
{
	char message[256];

	(void)state;
	assert_int_equal(points_choose("fetch=1,move=1:3,settle=10000000:1000000", message,
				 sizeof(message)),
		0);
	assert_true(points_chosen);
	point(POINT_fetch);
	point(POINT_zap);
}

static void *pass(void *arg)
{
	(void)arg;
	point(POINT_hold);
	return NULL;
}

/* One that comes while the file is there stays until it is told; the next passes. */
static void a_thread_stays_while_there_is_a_file(void **state)
{
	char dir[] = "/tmp/larder-points.XXXXXX", path[64], at[64], text[96], message[256];
	pthread_t thread;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/hold", dir);
	snprintf(at, sizeof(at), "%s/hold.at", dir);
	snprintf(text, sizeof(text), "commit=5,hold=%s", path);
	assert_int_equal(points_choose(text, message, sizeof(message)), 0);
	point(POINT_hold); /* no file: passes */
	close(open(path, O_CREAT | O_WRONLY, 0600));
	assert_int_equal(pthread_create(&thread, NULL, pass, NULL), 0);
	while (access(at, F_OK) < 0)
		usleep(1000);
	assert_int_equal(access(path, F_OK), -1);
	point(POINT_hold); /* passes, for one is there already */
	assert_int_equal(pthread_tryjoin_np(thread, NULL), EBUSY);
	assert_int_equal(unlink(at), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	rmdir(dir);
}

/* Passes zap and adopt in another process. True: it was killed there. */
static bool dies(unsigned times)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		point(POINT_zap);
		for (unsigned i = 0; i < times; i++)
			point(POINT_adopt);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFSIGNALED(status))
		assert_int_equal(WTERMSIG(status), SIGKILL);
	else
		assert_int_equal(WEXITSTATUS(status), 0);
	return WIFSIGNALED(status);
}

/* Whoever passes it as the one that the link says is killed, and the next isn't. */
static void a_process_dies_while_there_is_a_link(void **state)
{
	char dir[] = "/tmp/larder-points.XXXXXX", path[64], at[64], text[96], message[256];

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/adopt", dir);
	snprintf(at, sizeof(at), "%s/adopt.at", dir);
	snprintf(text, sizeof(text), "commit=5,kill=%s", dir);
	assert_int_equal(points_choose(text, message, sizeof(message)), 0);
	assert_false(dies(10));
	assert_int_equal(symlink("3", path), 0);
	assert_false(dies(2));
	assert_true(dies(3));
	assert_int_equal(access(path, F_OK), -1);
	assert_false(dies(10));
	assert_int_equal(unlink(at), 0);
	assert_int_equal(symlink("1", path), 0);
	assert_true(dies(1));
	unlink(at);
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(nothing_is_chosen_by_default),
		cmocka_unit_test(wrong_text_is_named), cmocka_unit_test(right_text_is_taken),
		cmocka_unit_test(a_thread_stays_while_there_is_a_file),
		cmocka_unit_test(a_process_dies_while_there_is_a_link)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
