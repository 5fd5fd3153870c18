/* The trial of the kernel, on this one. */
#include "maps_help.h"
#include "probe.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int open_device(void)
{
	int fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		skip_program("/dev/userfaultfd can't be opened");
	return fd;
}

static void this_kernel_is_fit(void **state)
{
	int device = open_device();
	char what[300] = "untouched";

	(void)state;
	/* Twice: the first leaves nothing behind. */
	for (int i = 0; i < 2; i++)
		assert_null(probe_kernel(device));
	assert_int_equal(probe_forked(device, what, sizeof(what)), 0);
	assert_string_equal(what, "untouched");
	close(device);
}

static void what_is_missing_comes_out_of_the_child(void **state)
{
	int other = open("/dev/null", O_RDWR | O_CLOEXEC);
	char what[300];

	(void)state;
	assert_int_equal(probe_forked(other, what, sizeof(what)), 1);
	assert_non_null(strstr(what, "makes no userfaultfd"));
	assert_string_equal(what, probe_kernel(other));
	close(other);
}

static void drop_ptrace(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &head, data) < 0)
		_exit(3);
	data[0].effective &= ~(1u << CAP_SYS_PTRACE);
	if (syscall(SYS_capset, &head, data) < 0)
		_exit(3);
}

/* The kernel is not to blame, and the message doesn't. */
static void a_missing_capability_is_named(void **state)
{
	int device = open_device(), status;

	(void)state;
	pid_t child = fork();
	if (child == 0) {
		drop_ptrace();
		const char *what = probe_kernel(device);
		_exit(what && strstr(what, "CAP_SYS_PTRACE") ? 0 : 1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	close(device);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(this_kernel_is_fit),
		cmocka_unit_test(what_is_missing_comes_out_of_the_child),
		cmocka_unit_test(a_missing_capability_is_named),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
