/* `larder doctor PID`: what keeps a process from being managed, one reason at a time. The
 * process is this test, as far as the kernel itself is asked; all else is a tree that looks
 * like its /proc. */
#include "doctor_help.h"

#include <elf.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SMAPS_FIELDS                                                                           \
	"Rss:                1024 kB\nAnonymous:          1024 kB\nAnonHugePages:         0 "  \
	"kB\n"                                                                                 \
	"Swap:                  0 kB\n"
#define MAPPING(range, permissions, name, flags)                                               \
	range " " permissions " 00000000 00:00 0 " name "\n" SMAPS_FIELDS "VmFlags: " flags "\n"
#define HEAP	MAPPING("10000000-10400000", "rw-p", "[heap]", "rd wr mr mw me ac sd")
#define LOCKED	MAPPING("20000000-20400000", "rw-p", "", "rd wr mr mw me lo ac sd")
#define UFFD	MAPPING("20000000-20400000", "rw-p", "", "rd wr mr mw me um ac sd")
#define THREADS MAPPING("7ff00000-80000000", "rw-p", "", "rd wr mr mw me ac sd")
#define SMALL	MAPPING("30000000-30004000", "rw-p", "", "rd wr mr mw me ac sd")

static const char shim_maps[] = "7f00-7f01 r-xp 00000000 08:01 77   /usr/lib/liblarder.so\n";

/* A file of the process's. */
static void write_own(struct machine *m, const char *name, const char *text, size_t size)
{
	char path[128];

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)getpid(), name);
	machine_write_bytes(m, path, text, size);
}

#define OWN(m, name, text) write_own(m, name, text, sizeof(text) - 1)

static void write_status(struct machine *m, unsigned uid)
{
	char text[256];

	snprintf(text, sizeof(text),
		"Name:\tprogram\nState:\tS (sleeping)\nUid:\t%u\t%u\t%u\t%u\nGid:\t7\t7\t7\t7\n"
		"Groups:\t8 9 \nVmSize:\t  1000 kB\n",
		uid, uid, uid, uid);
	write_own(m, "status", text, strlen(text));
}

static void write_secure(struct machine *m, uint64_t value)
{
	Elf64_auxv_t v[] = {{.a_type = AT_PAGESZ, .a_un = {4096}},
		{.a_type = AT_SECURE, .a_un = {value}}, {.a_type = AT_NULL}};

	write_own(m, "auxv", (const char *)v, sizeof(v));
}

static void write_threads(struct machine *m)
{
	static const char call[] = "0 0x0 0x0 0x0 0x0 0x0 0x0 0x7fffff00 0x7f1000\n";
	char name[64];

	snprintf(name, sizeof(name), "task/%d/syscall", (int)getpid());
	write_own(m, name, call, sizeof(call) - 1);
	snprintf(name, sizeof(name), "task/%d/children", (int)getpid());
	write_own(m, name, "", 0);
	snprintf(name, sizeof(name), "task/%d/fd/none", (int)getpid());
	write_own(m, name, "", 0);
}

/* The environment that larder run leaves, with more behind it; text holds NULs. */
static void write_environ(struct machine *m, pid_t run_pid, const char *more, size_t size)
{
	char text[512];
	int n = snprintf(text, sizeof(text),
		"LD_PRELOAD=/usr/lib/liblarder.so%cLARDER_RUN_PID=%d%c", 0, (int)run_pid, 0);

	memcpy(text + n, more, size);
	write_own(m, "environ", text, (size_t)n + size);
}

/* A program that does all that a managed one should. */
static void process_init(struct machine *m, bool client)
{
	char exe[64];

	machine_init(m);
	m->d.pid = getpid();
	machine_elf(m, "/usr/bin/program", sizeof(void *) == 8, true);
	snprintf(exe, sizeof(exe), "/proc/%d/exe", (int)getpid());
	char target[256];
	snprintf(target, sizeof(target), "%s/usr/bin/program", m->root);
	machine_link(m, exe, target);
	write_status(m, 1234);
	write_secure(m, 0);
	write_threads(m);
	write_environ(m, getpid(), "", 0);
	OWN(m, "maps", shim_maps);
	OWN(m, "limits",
		"Max address space    unlimited   unlimited   bytes\n"
		"Max data size        unlimited   unlimited   bytes\n");
	OWN(m, "smaps", HEAP);
	m->d.client = (struct doctor_client){.is = DOCTOR_NO_CLIENT};
	if (client)
		m->d.client = (struct doctor_client){.is = DOCTOR_CLIENT,
			.state = "managed",
			.policy = "default",
			.agent_pid = 99,
			.uptime_ms = 5000};
}

static void a_client_is_right(void **state)
{
	(void)state;
	struct machine m;

	process_init(&m, true);
	doctor_process(&m.d);
	check_remedies(&m.d);
	expect_rest_ok(&m.d, NULL);
	expect_finding(&m.d, DOCTOR_OK, "attached", "managed, policy default, agent 99");
	expect_finding(&m.d, DOCTOR_OK, "memory", "1.0 MiB in memory, in 1 mappings, may");
	machine_done(&m);
}

/* Nothing is wrong with it but that it started before the service did. */
static void one_that_came_too_early(void **state)
{
	(void)state;
	struct machine m;

	process_init(&m, false);
	doctor_process(&m.d);
	expect_finding(&m.d, DOCTOR_FAIL, "attached", "the service doesn't know it");
	expect_rest_ok(&m.d, "attached");
	machine_done(&m);
}

/* Files of the process, with another text. */
#define TEXT(t) (t), sizeof(t) - 1
static const struct own_case {
	const char *name, *text;
	size_t size;
	bool client;
	enum doctor_level level;
	const char *check, *what;
} own_cases[] = {
	{"environ", TEXT("HOME=/\0"), true, DOCTOR_OK, "attached", "managed"},
	{"limits", TEXT("Max address space   1048576   unlimited   bytes\n"), false,
		DOCTOR_FAIL, "limits", "address space is limited to 1 MiB"},
	{"limits", TEXT("Max data size      67108863   unlimited   bytes\n"), false,
		DOCTOR_FAIL, "limits", "data size is limited to 63 MiB"},
	{"limits", TEXT("Max data size      67108864   unlimited   bytes\n"), false, DOCTOR_OK,
		"limits", "room enough"},
	{"maps", TEXT("1-2 r-xp 0 08:01 7  /usr/lib/liblarder.so (deleted)\n"), true,
		DOCTOR_WARN, "shim", "was replaced"},
	{"maps", TEXT("1-2 r-xp 0 08:01 7  /usr/lib/libc.so\n"), false, DOCTOR_FAIL, "shim",
		"though LD_PRELOAD names it"},
	{"smaps", TEXT(SMALL), true, DOCTOR_FAIL, "memory", "nothing of its memory"},
	{"smaps", TEXT(HEAP LOCKED), true, DOCTOR_WARN, "memory", "1.0 MiB stay: locked"},
	{"smaps", TEXT(HEAP SMALL), true, DOCTOR_OK, "memory", "stay: too small"},
	{"smaps", TEXT(HEAP THREADS), true, DOCTOR_WARN, "memory", "thread's stack"},
	{"smaps", TEXT(HEAP UFFD), true, DOCTOR_OK, "memory", "2.0 MiB in memory, in 2"},
	{"smaps", TEXT(HEAP UFFD), false, DOCTOR_WARN, "memory", "another userfaultfd"},
};

static void one_file_is_wrong(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(own_cases); i++) {
		const struct own_case *c = &own_cases[i];
		struct machine m;

		process_init(&m, c->client);
		write_own(&m, c->name, c->text, c->size);
		doctor_process(&m.d);
		expect_finding(&m.d, c->level, c->check, c->what);
		machine_done(&m);
	}
}

/* The configuration, for a process that isn't attached: what it says prevents it, and for one
 * that is: only the next start will feel it. */
static const struct config_case {
	const char *config;
	const char *more; /* environment */
	size_t more_size;
	bool child;
	enum doctor_level level;
	const char *check, *what;
} config_cases[] = {
	{"[service]\nallow-user = *\n[policy no]\nmatch-exe = program\nmanage = no\n", TEXT(""),
		false, DOCTOR_FAIL, "policy", "says manage = no"},
	{"[service]\nallow-user = *\n[policy no]\nmatch-user = 1234\nmanage = no\n", TEXT(""),
		false, DOCTOR_FAIL, "policy", "says manage = no"},
	{"[service]\nallow-user = *\n[policy no]\nmatch-exe = other\nmanage = no\n", TEXT(""),
		false, DOCTOR_OK, "policy", "default"},
	{"[service]\nallow-user = *\n[policy no]\nmatch-exe = program\ninherit = no\n",
		TEXT(""), true, DOCTOR_FAIL, "policy", "says inherit = no"},
	{"[service]\nallow-user = *\n[policy no]\nmatch-exe = program\ninherit = no\n",
		TEXT(""), false, DOCTOR_OK, "policy", "no"},
	{"[service]\nallow-user = *\n", TEXT("LARDER_POLICY=fast"), false, DOCTOR_FAIL,
		"policy", "asks for policy \"fast\", which doesn't exist"},
	{"[service]\nallow-user = *\n[policy fast]\n", TEXT("LARDER_POLICY=fast"), false,
		DOCTOR_OK, "policy", "fast, as it asks"},
	{"[service]\nallow-user = *\n", TEXT("LARDER_INHERIT=0"), true, DOCTOR_FAIL, "inherit",
		"--no-inherit"},
	{"[service]\nallow-user = *\n", TEXT("LARDER_INHERIT=0"), false, DOCTOR_OK, "inherit",
		"started by larder run"},
	{"[service]\nallow-user = *\n", TEXT(""), true, DOCTOR_OK, "inherit",
		"a child of what larder run started"},
	{"[service]\nallow-user = *\n", TEXT("LARDER_RUNTIME_DIR=/else"), false, DOCTOR_FAIL,
		"inherit", "looks for the service at /else, not at /run/larder"},
	{"[service]\nallow-user = root\nallow-group = 6\n", TEXT(""), false, DOCTOR_FAIL,
		"permission", "user 1234 is in neither"},
	{"[service]\nallow-user = root\nallow-group = 7\n", TEXT(""), false, DOCTOR_OK,
		"permission", "may have"},
	{"[service]\nallow-user = root\nallow-group = 9\n", TEXT(""), false, DOCTOR_OK,
		"permission", "may have"},
	{"[service]\ncolour = blue\n", TEXT(""), false, DOCTOR_WARN, "policy",
		"larder.conf:2: unknown key"},
};

static void configuration_says_no(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(config_cases); i++) {
		const struct config_case *c = &config_cases[i];
		struct machine m;

		process_init(&m, false);
		machine_write(&m, "/etc/larder/larder.conf", c->config);
		write_environ(&m, c->child ? getppid() : getpid(), c->more, c->more_size);
		doctor_process(&m.d);
		expect_finding(&m.d, c->level, c->check, c->what);
		/* one that is attached stays so */
		m.d.client = (struct doctor_client){.is = DOCTOR_CLIENT,
			.state = "managed",
			.policy = "default",
			.agent_pid = 99};
		doctor_process(&m.d);
		check_remedies(&m.d);
		assert_int_equal(doctor_count(&m.d, DOCTOR_FAIL), 0);
		machine_done(&m);
	}
}

static void a_client_of_another_policy_or_too_young(void **state)
{
	(void)state;
	struct machine m;

	process_init(&m, true);
	machine_write(&m, "/etc/larder/larder.conf",
		"[service]\nallow-user = *\n[policy old]\nmatch-exe = program\nmin-age = 1m\n");
	doctor_process(&m.d);
	expect_finding(&m.d, DOCTOR_WARN, "policy", "attached with policy default; now old");
	snprintf(m.d.client.policy, sizeof(m.d.client.policy), "old");
	doctor_process(&m.d);
	expect_finding(
		&m.d, DOCTOR_WARN, "policy", "until it is 60 s old (min-age); it is 5 s");
	m.d.client.uptime_ms = 60000;
	doctor_process(&m.d);
	expect_rest_ok(&m.d, NULL);
	machine_done(&m);
}

static void states_of_a_client(void **state)
{
	(void)state;
	struct machine m;

	process_init(&m, true);
	snprintf(m.d.client.state, sizeof(m.d.client.state), "forked");
	doctor_process(&m.d);
	expect_finding(&m.d, DOCTOR_WARN, "attached", "a forked child");
	snprintf(m.d.client.state, sizeof(m.d.client.state), "managed");
	m.d.client.agent_pid = 0;
	doctor_process(&m.d);
	expect_finding(&m.d, DOCTOR_WARN, "attached", "its agent is gone");
	machine_done(&m);
}

static void programs_that_preload_nothing(void **state)
{
	static const char *const path = "/usr/bin/program";
	(void)state;
	struct machine m;

	process_init(&m, false);
	machine_elf(&m, path, sizeof(void *) == 8, false);
	doctor_process(&m.d);
	expect_finding(&m.d, DOCTOR_FAIL, "program", "statically linked");
	/* which says it all */
	OWN(&m, "maps", "1-2 r-xp 0 08:01 7  /usr/bin/program\n");
	doctor_process(&m.d);
	assert_int_equal(doctor_count(&m.d, DOCTOR_FAIL), 2); /* and not attached */
	OWN(&m, "maps", shim_maps);
	machine_elf(&m, path, sizeof(void *) != 8, true);
	doctor_process(&m.d);
	expect_finding(&m.d, DOCTOR_FAIL, "program", "-bit program: the shim is for");
	machine_write(&m, path, "#!/bin/sh\n");
	doctor_process(&m.d);
	expect_finding(&m.d, DOCTOR_WARN, "program", "not an ELF program");

	machine_elf(&m, path, sizeof(void *) == 8, true);
	machine_chmod(&m, path, 04755);
	doctor_process(&m.d);
	expect_finding(&m.d, DOCTOR_OK, "program", "dynamically"); /* run by its owner */
	write_secure(&m, 1);
	doctor_process(&m.d);
	expect_finding(&m.d, DOCTOR_FAIL, "program", "a setuid or setgid program");
	machine_chmod(&m, path, 0755);
	doctor_process(&m.d);
	expect_finding(&m.d, DOCTOR_FAIL, "program", "capabilities of its own");
	machine_done(&m);
}

/* As most processes are. */
static void one_that_was_started_bare(void **state)
{
	(void)state;
	struct machine m;

	process_init(&m, false);
	OWN(&m, "environ", "HOME=/\0PATH=/bin\0");
	OWN(&m, "maps", "1-2 r-xp 0 08:01 7  /usr/lib/libc.so\n");
	doctor_process(&m.d);
	expect_finding(&m.d, DOCTOR_FAIL, "preload", "LD_PRELOAD is not set");
	assert_int_equal(doctor_count(&m.d, DOCTOR_FAIL), 2); /* and not attached */
	OWN(&m, "environ", "LD_PRELOAD=/usr/lib/libfaketime.so\0");
	doctor_process(&m.d);
	expect_finding(&m.d, DOCTOR_FAIL, "preload", "LD_PRELOAD is /usr/lib/libfaketime.so");
	machine_done(&m);
}

static void one_with_a_userfaultfd(void **state)
{
	char path[64];
	(void)state;
	struct machine m;

	process_init(&m, true);
	snprintf(path, sizeof(path), "/proc/%d/task/%d/fd/5", (int)getpid(), (int)getpid());
	machine_link(&m, path, "anon_inode:[userfaultfd]");
	doctor_process(&m.d);
	expect_finding(&m.d, DOCTOR_FAIL, "threads", "has a userfaultfd of its own");
	expect_rest_ok(&m.d, "threads");
	machine_done(&m);
}

static void processes_that_cannot_be_asked_about(void **state)
{
	(void)state;
	struct machine m;

	process_init(&m, false);
	m.d.uid = 4321;
	doctor_process(&m.d);
	expect_finding(&m.d, DOCTOR_FAIL, "owner", "belongs to user 1234");
	m.d.uid = 1234;
	doctor_process(&m.d);
	expect_finding(&m.d, DOCTOR_OK, "owner", "runs as user 1234");
	m.d.uid = 0;

	OWN(&m, "status", "Name:\tprogram\nState:\tZ (zombie)\nUid:\t0\t0\t0\t0\n");
	doctor_process(&m.d);
	expect_finding(&m.d, DOCTOR_FAIL, "process", "has ended");
	OWN(&m, "status", "Name:\tkthreadd\nState:\tS (sleeping)\nUid:\t0\t0\t0\t0\n");
	doctor_process(&m.d);
	expect_finding(&m.d, DOCTOR_FAIL, "process", "a kernel thread");
	OWN(&m, "status", "Name:\tlarder-agent\nState:\tS\nUid:\t0\t0\t0\t0\nVmSize:\t 1 kB\n");
	doctor_process(&m.d);
	expect_finding(&m.d, DOCTOR_FAIL, "process", "an agent");
	m.d.pid = 999;
	doctor_process(&m.d);
	expect_finding(&m.d, DOCTOR_FAIL, "process", "there is no process 999");
	machine_write(&m, "/proc/100/status", "Name:\tlarderd\nState:\tS\nVmSize:\t 1 kB\n");
	m.d.pid = SERVICE_PID;
	doctor_process(&m.d);
	expect_finding(&m.d, DOCTOR_FAIL, "process", "never its own client");
	machine_done(&m);
}

/* The rest can be told all the same. */
static void without_a_service(void **state)
{
	(void)state;
	struct machine m;

	process_init(&m, false);
	m.d.service = (struct doctor_service){.why = "no larderd"};
	m.d.client = (struct doctor_client){.is = DOCTOR_UNASKED};
	doctor_process(&m.d);
	expect_finding(&m.d, DOCTOR_FAIL, "service", "no larderd");
	expect_rest_ok(&m.d, "service");
	machine_done(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_client_is_right),
		cmocka_unit_test(one_that_came_too_early),
		cmocka_unit_test(one_file_is_wrong),
		cmocka_unit_test(configuration_says_no),
		cmocka_unit_test(a_client_of_another_policy_or_too_young),
		cmocka_unit_test(states_of_a_client),
		cmocka_unit_test(programs_that_preload_nothing),
		cmocka_unit_test(one_that_was_started_bare),
		cmocka_unit_test(one_with_a_userfaultfd),
		cmocka_unit_test(processes_that_cannot_be_asked_about),
		cmocka_unit_test(without_a_service),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
