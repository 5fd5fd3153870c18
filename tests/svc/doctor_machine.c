/* `larder doctor`: each thing that can be wrong with a machine, one at a time, on a tree where
 * all else is right. */
#include "doctor_help.h"

#include <stdio.h>
#include <string.h>

static void all_is_right(void **state)
{
	(void)state;
	struct machine m;

	machine_init(&m);
	doctor_machine(&m.d);
	check_remedies(&m.d);
	expect_rest_ok(&m.d, NULL);
	expect_finding(&m.d, DOCTOR_OK, "kernel", "Linux 6.12.43+deb13-amd64");
	expect_finding(&m.d, DOCTOR_OK, "huge-pages", "madvise");
	expect_finding(&m.d, DOCTOR_OK, "store", "/run/larder/store: a tmpfs");
	expect_finding(&m.d, DOCTOR_OK, "store", "3.5 MiB free of 3.9 MiB");
	expect_finding(&m.d, DOCTOR_OK, "files", "65536 programs");
	assert_int_equal(doctor_count(&m.d, DOCTOR_OK), m.d.count);
	machine_done(&m);
}

/* One file with another text; NULL: it isn't there. Nothing else may be found fault with. */
static const struct file_case {
	const char *path, *text;
	enum doctor_level level;
	const char *name, *what;
} file_cases[] = {
	{"/proc/sys/kernel/osrelease", "6.1.0-37-amd64\n", DOCTOR_FAIL, "kernel",
		"6.12 or later is needed"},
	{"/proc/sys/kernel/osrelease", "5.99.99\n", DOCTOR_FAIL, "kernel", "Linux 5.99.99:"},
	{"/proc/sys/kernel/osrelease", "6.12\n", DOCTOR_WARN, "kernel", "can crash"},
	{"/proc/sys/kernel/osrelease", "6.12.42-rt\n", DOCTOR_WARN, "kernel", "can crash"},
	{"/proc/sys/kernel/osrelease", "6.13.99\n", DOCTOR_WARN, "kernel", "can crash"},
	{"/proc/sys/kernel/osrelease", "6.16.1\n", DOCTOR_WARN, "kernel", "can crash"},
	{"/proc/sys/kernel/osrelease", "6.16.2\n", DOCTOR_OK, "kernel", "Linux 6.16.2"},
	{"/proc/sys/kernel/osrelease", "6.17.0\n", DOCTOR_OK, "kernel", "Linux 6.17.0"},
	{"/proc/sys/kernel/osrelease", "7.0.0\n", DOCTOR_OK, "kernel", "Linux 7.0.0"},
	{"/proc/sys/kernel/osrelease", "next\n", DOCTOR_WARN, "kernel", "isn't known"},
	{"/proc/sys/kernel/osrelease", NULL, DOCTOR_WARN, "kernel", "isn't known"},
	{"/dev/userfaultfd", NULL, DOCTOR_FAIL, "device", "there is no /dev/userfaultfd"},
	{"/sys/kernel/mm/transparent_hugepage/enabled", NULL, DOCTOR_OK, "huge-pages", "no"},
	{"/sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n", DOCTOR_OK,
		"huge-pages", "always: "},
	{"/proc/swaps", "Filename Type\n/dev/vdb partition 1 0 -2\n", DOCTOR_OK, "swap",
		"without compression"},
	{"/proc/swaps", "Filename Type\n/dev/zram0 partition 1 0 100\n", DOCTOR_WARN, "swap",
		"zram is a swap device"},
	{"/proc/sys/vm/overcommit_memory", "2\n", DOCTOR_WARN, "overcommit",
		"vm.overcommit_memory is 2"},
	{"/proc/sys/vm/overcommit_memory", "1\n", DOCTOR_OK, "overcommit", "may be"},
	{"/proc/sys/vm/max_map_count", "1000\n", DOCTOR_WARN, "max-map-count",
		"vm.max_map_count is 1000"},
	{"/proc/sys/fs/epoll/max_user_watches", "340\n", DOCTOR_WARN, "epoll-watches",
		"enough for 10 programs"},
	{"/etc/larder/larder.conf", NULL, DOCTOR_OK, "config", "built-in settings"},
	{"/etc/larder/larder.conf",
		"[service]\nreaders = 2\nallow-group = no-such-group-here\n", DOCTOR_WARN,
		"config", "only root's programs"},
	{"/etc/larder/larder.conf", "[service]\nallow-group = 0\n", DOCTOR_OK, "config",
		"larder.conf: 1 policy"},
	{"/etc/larder/larder.conf", "\n[service]\ncolour = blue\n", DOCTOR_WARN, "config",
		"/etc/larder/larder.conf:3: unknown key colour"},
	{"/usr/lib/liblarder.so", NULL, DOCTOR_FAIL, "shim",
		"no shim at /usr/lib/liblarder.so"},
	{"/usr/lib/liblarder.so", "GROUP ( libc.so )", DOCTOR_FAIL, "shim", "is no library"},
	{"/proc/100/status", "CapEff:\t000001fffff7ffff\nVmLck:\t1 kB\n", DOCTOR_FAIL,
		"capabilities", "no CAP_SYS_PTRACE"},
	{"/proc/100/status", "CapEff:\t000001fffffffff9\nVmLck:\t1 kB\n", DOCTOR_FAIL,
		"capabilities", "no CAP_DAC_READ_SEARCH"},
	{"/proc/100/status", "CapEff:\t000001fffffffffb\nVmLck:\t1 kB\n", DOCTOR_FAIL + 1,
		"capabilities", ""},
	{"/proc/100/status", "CapEff:\t000001ffffffbfff\nVmLck:\t1 kB\n", DOCTOR_WARN,
		"capabilities", "no CAP_IPC_LOCK"},
	{"/proc/100/status", "CapEff:\t000001ffffffffdf\nVmLck:\t1 kB\n", DOCTOR_WARN,
		"capabilities", "no CAP_KILL"},
	/* the store is mounted already */
	{"/proc/100/status", "CapEff:\t000001ffffdfffff\nVmLck:\t1 kB\n", DOCTOR_OK,
		"capabilities", "all that the service uses"},
	{"/proc/100/status", "CapEff:\t000001ffffffffff\nVmLck:\t0 kB\n", DOCTOR_WARN,
		"locked-memory", "isn't locked"},
	{"/proc/100/status", "CapEff:\t000001ffffffffff\nVmLck:\t1 kB\nTHP_enabled:\t1\n",
		DOCTOR_WARN, "own-memory", "takes huge pages"},
	{"/proc/100/status", "CapEff:\t000001ffffffffff\nVmLck:\t1 kB\nTHP_enabled:\t0\n",
		DOCTOR_OK, "own-memory", "no huge pages"},
	{"/proc/100/oom_score_adj", "0\n", DOCTOR_WARN, "oom-score", "oom_score_adj is 0"},
	{"/proc/100/oom_score_adj", "-899\n", DOCTOR_WARN, "oom-score", "is -899"},
	{"/proc/100/oom_score_adj", "-900\n", DOCTOR_OK, "oom-score", "others before"},
	{"/proc/100/oom_score_adj", "-1000\n", DOCTOR_OK, "oom-score", "others before"},
	{"/sys/fs/cgroup/system.slice/larderd.service/pids.max", "299\n", DOCTOR_WARN, "tasks",
		"may have 299 tasks"},
	{"/sys/fs/cgroup/pids/daemons/pids.max", "10\n", DOCTOR_WARN, "tasks",
		"may have 10 tasks"},
	{"/sys/fs/cgroup/pids/daemons/pids.max", "max\n", DOCTOR_OK, "tasks", "may need"},
	{"/proc/100/status", NULL, DOCTOR_WARN, "capabilities", "isn't known"},
	{"/proc/100/limits", "Max open files            80      800    files\n", DOCTOR_WARN,
		"files", "enough for 100 programs"},
	{"/proc/100/limits", "Max open files       unlimited    unlimited    files\n",
		DOCTOR_OK, "files", "enough for"},
	{"/proc/100/mountinfo",
		"36 22 0:40 / /run/larder/store rw,nosuid - ext4 /dev/vdb rw,noswap\n",
		DOCTOR_FAIL, "store", "/run/larder/store is a ext4"},
	{"/proc/100/mountinfo",
		"36 22 0:40 / /run/larder/store rw - tmpfs larder rw,noswapping\n", DOCTOR_WARN,
		"store", "without noswap"},
	/* mounted twice: the later one is what is seen */
	{"/proc/100/mountinfo",
		"36 22 0:40 / /run/larder/store rw - ext4 larder rw\n"
		"37 36 0:41 / /run/larder/store rw - tmpfs larder rw,noswap\n",
		DOCTOR_OK, "store", "never swapped"},
};

static void one_file_is_wrong(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(file_cases); i++) {
		const struct file_case *c = &file_cases[i];
		struct machine m;

		machine_init(&m);
		if (c->text)
			machine_write(&m, c->path, c->text);
		else
			machine_remove(&m, c->path);
		doctor_machine(&m.d);
		if (c->level <= DOCTOR_FAIL)
			expect_finding(&m.d, c->level, c->name, c->what);
		expect_rest_ok(&m.d, c->level <= DOCTOR_FAIL ? c->name : NULL);
		machine_done(&m);
	}
}

static void kernel_fails_the_trial(void **state)
{
	(void)state;
	struct machine m;

	machine_init(&m);
	probe_says(1, "this kernel has no UFFDIO_MOVE");
	doctor_machine(&m.d);
	expect_finding(&m.d, DOCTOR_FAIL, "userfaultfd", "this kernel has no UFFDIO_MOVE");
	expect_rest_ok(&m.d, "userfaultfd");
	probe_says(-11, "");
	doctor_machine(&m.d);
	expect_finding(&m.d, DOCTOR_WARN, "userfaultfd", "not tried");
	machine_done(&m);
}

static void zswap_matters_with_swap_only(void **state)
{
	(void)state;
	struct machine m;

	machine_init(&m);
	machine_write(&m, "/sys/module/zswap/parameters/enabled", "Y\n");
	doctor_machine(&m.d);
	expect_finding(&m.d, DOCTOR_OK, "swap", "no swap");
	machine_write(&m, "/proc/swaps", "Filename Type\n/swapfile file 1 0 -2\n");
	doctor_machine(&m.d);
	expect_finding(&m.d, DOCTOR_WARN, "swap", "zswap is on");
	machine_done(&m);
}

static void store_is_nearly_full(void **state)
{
	(void)state;
	struct machine m;

	machine_init(&m);
	space_says(1000, 99);
	doctor_machine(&m.d);
	expect_finding(&m.d, DOCTOR_WARN, "store", "nearly full");
	expect_rest_ok(&m.d, "store");
	machine_done(&m);
}

static void path_of_the_store_is_the_kernels(void **state)
{
	(void)state;
	struct machine m;

	machine_init(&m);
	machine_write(&m, "/srv/a b/store/index.db", "");
	machine_link(&m, "/link", "srv/a b");
	machine_write(&m, "/proc/100/mountinfo",
		"36 22 0:40 / /srv/a\\040b/store rw - ramfs larder rw\n");
	m.d.runtime_dir = "/link";
	doctor_machine(&m.d);
	expect_finding(&m.d, DOCTOR_FAIL, "store", "/srv/a b/store is a ramfs");
	machine_done(&m);
}

static void other_users_cannot_read_the_shim(void **state)
{
	(void)state;
	struct machine m;

	machine_init(&m);
	machine_chmod(&m, "/usr/lib/liblarder.so", 0600);
	doctor_machine(&m.d);
	expect_finding(&m.d, DOCTOR_WARN, "shim", "other users can't read it");
	machine_chmod(&m, "/usr/lib/liblarder.so", 0644);
	machine_chmod(&m, "/usr", 0700);
	doctor_machine(&m.d);
	expect_finding(&m.d, DOCTOR_WARN, "shim", "as /usr is closed to them");
	machine_done(&m);
}

static void shim_of_another_class(void **state)
{
	(void)state;
	struct machine m;

	machine_init(&m);
	machine_elf(&m, "/usr/lib/liblarder.so", sizeof(void *) != 8, false);
	doctor_machine(&m.d);
	expect_finding(&m.d, DOCTOR_FAIL, "shim", "is no library for");
	machine_elf(&m, "/usr/lib/a b.so", sizeof(void *) == 8, false);
	m.d.shim = "/usr/lib/a b.so";
	doctor_machine(&m.d);
	expect_finding(&m.d, DOCTOR_FAIL, "shim", "no path with a space or colon");
	machine_done(&m);
}

static void service_is_of_another_version(void **state)
{
	(void)state;
	struct machine m;

	machine_init(&m);
	snprintf(m.d.service.version, sizeof(m.d.service.version), "0.0.1");
	doctor_machine(&m.d);
	expect_finding(&m.d, DOCTOR_WARN, "version", "larderd is 0.0.1, larder is");
	expect_rest_ok(&m.d, "version");
	machine_done(&m);
}

/* A machine before the first start: what root would have, and no more to complain of than that
 * it doesn't run. */
static void service_does_not_run(void **state)
{
	(void)state;
	struct machine m;

	machine_init(&m);
	m.d.service = (struct doctor_service){.why = "no larderd at /run: is it running?"};
	doctor_machine(&m.d);
	expect_finding(&m.d, DOCTOR_FAIL, "service", "no larderd at /run");
	expect_finding(&m.d, DOCTOR_OK, "store", "larderd will mount a tmpfs");
	expect_rest_ok(&m.d, "service");

	machine_write(&m, "/proc/self/status", "CapBnd:\t00000000a80425fb\n");
	machine_write(&m, "/etc/larder/larder.conf", "[sevice]\n");
	doctor_machine(&m.d);
	expect_finding(&m.d, DOCTOR_FAIL, "capabilities", "root has here no CAP_SYS_ADMIN");
	expect_finding(&m.d, DOCTOR_FAIL, "capabilities", "root has here no CAP_SYS_PTRACE");
	expect_finding(&m.d, DOCTOR_FAIL, "config", "/etc/larder/larder.conf:1: ");
	machine_done(&m);
}

/* The file that the service was started with is the one that counts. */
static void configuration_is_the_services(void **state)
{
#define TEXT(t)                                                                                \
	{                                                                                      \
		(t), sizeof(t)                                                                 \
	}
	static const struct {
		const char *text;
		size_t size;
	} arguments[] = {TEXT("larderd\0--config\0/srv/my.conf"),
		TEXT("larderd\0--debug\0--config=/srv/my.conf"),
		TEXT("larderd\0-c\0/srv/my.conf"), TEXT("larderd\0--config\0my.conf")};

	(void)state;
	for (size_t i = 0; i < COUNT(arguments); i++) {
		struct machine m;
		machine_init(&m);
		machine_write(&m, "/srv/my.conf",
			"[service]\nallow-user = *\n[policy x]\nmatch-exe = y\n");
		machine_link(&m, "/proc/100/cwd", "/srv");
		machine_write_bytes(
			&m, "/proc/100/cmdline", arguments[i].text, arguments[i].size);
		doctor_machine(&m.d);
		expect_finding(&m.d, DOCTOR_OK, "config", "/srv/my.conf: 2 policies");
		/* what is asked for goes before */
		m.d.config_path = "/absent.conf";
		doctor_machine(&m.d);
		expect_finding(&m.d, DOCTOR_WARN, "config", "/absent.conf: No such file");
		machine_done(&m);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_is_right),
		cmocka_unit_test(one_file_is_wrong),
		cmocka_unit_test(kernel_fails_the_trial),
		cmocka_unit_test(zswap_matters_with_swap_only),
		cmocka_unit_test(store_is_nearly_full),
		cmocka_unit_test(path_of_the_store_is_the_kernels),
		cmocka_unit_test(other_users_cannot_read_the_shim),
		cmocka_unit_test(shim_of_another_class),
		cmocka_unit_test(service_is_of_another_version),
		cmocka_unit_test(service_does_not_run),
		cmocka_unit_test(configuration_is_the_services),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
