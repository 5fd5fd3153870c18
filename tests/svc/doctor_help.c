#include "doctor_help.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

static struct {
	int result;
	const char *what;
	struct statfs space;
} says;

void probe_says(int result, const char *what)
{
	says.result = result;
	says.what = what;
}

void space_says(uint64_t blocks, uint64_t available)
{
	says.space =
		(struct statfs){.f_bsize = 4096, .f_blocks = blocks, .f_bavail = available};
}

static int fake_probe(int device, char *what, size_t size)
{
	assert_true(device >= 0);
	snprintf(what, size, "%s", says.what);
	return says.result;
}

static int fake_space(const char *path, struct statfs *ret)
{
	(void)path;
	*ret = says.space;
	return 0;
}

static void full_path(const struct machine *m, const char *path, char full[static 512])
{
	assert_true(snprintf(full, 512, "%s%s", m->root, path) < 512);
}

static void make_folders(const struct machine *m, const char *path)
{
	char full[512];

	full_path(m, path, full);
	for (char *slash = strchr(full + strlen(m->root) + 1, '/'); slash;
		slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		assert_true(mkdir(full, 0755) == 0 || errno == EEXIST);
		*slash = '/';
	}
}

void machine_write_bytes(struct machine *m, const char *path, const void *data, size_t size)
{
	char full[512];

	make_folders(m, path);
	full_path(m, path, full);
	unlink(full); /* never write through a link */
	int fd = open(full, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, size), (ssize_t)size);
	close(fd);
}

void machine_write(struct machine *m, const char *path, const char *text)
{
	machine_write_bytes(m, path, text, strlen(text));
}

void machine_link(struct machine *m, const char *path, const char *target)
{
	char full[512];

	make_folders(m, path);
	full_path(m, path, full);
	assert_int_equal(symlink(target, full), 0);
}

void machine_remove(struct machine *m, const char *path)
{
	char full[512];

	full_path(m, path, full);
	assert_int_equal(remove(full), 0);
}

void machine_chmod(struct machine *m, const char *path, unsigned mode)
{
	char full[512];

	full_path(m, path, full);
	assert_int_equal(chmod(full, mode), 0);
}

void machine_elf(struct machine *m, const char *path, bool is_64, bool has_interpreter)
{
	uint32_t type = has_interpreter ? PT_INTERP : PT_LOAD;
	struct {
		Elf64_Ehdr head;
		Elf64_Phdr program;
	} e64 = {.head = {.e_phoff = sizeof(Elf64_Ehdr),
			 .e_phentsize = sizeof(Elf64_Phdr),
			 .e_phnum = 1,
			 .e_machine = EM_X86_64},
		.program = {.p_type = type}};
	struct {
		Elf32_Ehdr head;
		Elf32_Phdr program;
	} e32 = {.head = {.e_phoff = sizeof(Elf32_Ehdr),
			 .e_phentsize = sizeof(Elf32_Phdr),
			 .e_phnum = 1,
			 .e_machine = EM_386},
		.program = {.p_type = type}};

	memcpy(e64.head.e_ident, ELFMAG, SELFMAG);
	memcpy(e32.head.e_ident, ELFMAG, SELFMAG);
	e64.head.e_ident[EI_CLASS] = ELFCLASS64;
	e32.head.e_ident[EI_CLASS] = ELFCLASS32;
	if (is_64)
		machine_write_bytes(m, path, &e64, sizeof(e64));
	else
		machine_write_bytes(m, path, &e32, sizeof(e32));
}

/* What a machine has where nothing is wrong. */
static const struct file {
	const char *path, *text;
} files[] = {
	{"/proc/sys/kernel/osrelease", "6.12.43+deb13-amd64\n"},
	{"/dev/userfaultfd", ""},
	{"/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"},
	{"/sys/module/zswap/parameters/enabled", "N\n"},
	{"/proc/swaps", "Filename Type Size Used Priority\n"},
	{"/proc/sys/vm/overcommit_memory", "0\n"},
	{"/proc/sys/vm/max_map_count", "65530\n"},
	{"/proc/sys/fs/epoll/max_user_watches", "1000000\n"},
	{"/etc/larder/larder.conf", "[service]\nallow-user = *\n"},
	{"/run/larder/store/index.db", ""},
	{"/proc/100/cmdline", "larderd"},
	{"/proc/100/oom_score_adj", "-900\n"},
	{"/proc/100/cgroup", "5:pids:/daemons\n0::/system.slice/larderd.service\n"},
	{"/sys/fs/cgroup/system.slice/larderd.service/pids.max", "4915\n"},
	{"/proc/100/status", "Name:\tlarderd\nVmLck:\t  123 kB\nCapEff:\t000001ffffffffff\n"},
	{"/proc/100/limits",
		"Limit                     Soft Limit           Hard Limit\n"
		"Max open files            1024                 524288    files\n"},
	{"/proc/100/mountinfo",
		"22 1 0:20 / / rw - ext4 /dev/vda rw\n"
		"36 22 0:40 / /run/larder/store rw,nosuid shared:1 - tmpfs larder "
		"rw,size=100k,mode=700,noswap\n"},
	/* for when the service isn't there */
	{"/proc/self/status", "CapBnd:\t000001ffffffffff\n"},
	{"/proc/self/limits",
		"Max open files            1024                 524288    files\n"},
	{"/proc/self/mountinfo", "22 1 0:20 / / rw - ext4 /dev/vda rw\n"},
};

void machine_init(struct machine *m)
{
	*m = (struct machine){.root = "/tmp/larder-machine-XXXXXX"};
	assert_non_null(mkdtemp(m->root));
	for (size_t i = 0; i < COUNT(files); i++)
		machine_write(m, files[i].path, files[i].text);
	machine_elf(m, "/usr/lib/liblarder.so", sizeof(void *) == 8, false);
	probe_says(0, "");
	space_says(1000, 900);
	m->d = (struct doctor){.root = m->root,
		.runtime_dir = "/run/larder",
		.shim = "/usr/lib/liblarder.so",
		.probe = fake_probe,
		.space = fake_space,
		.service = {.answers = true, .pid = SERVICE_PID, .version = LARDER_VERSION}};
}

static int remove_entry(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st, (void)flag, (void)ftw;
	return remove(path);
}

void machine_done(struct machine *m)
{
	assert_int_equal(nftw(m->root, remove_entry, 8, FTW_DEPTH | FTW_PHYS), 0);
}

static void print_findings(const struct doctor *d)
{
	for (size_t i = 0; i < d->count; i++)
		print_message("%s %s: %s (%s)\n", doctor_level_name(d->finding[i].level),
			d->finding[i].name, d->finding[i].what, d->finding[i].remedy);
}

void check_remedies(const struct doctor *d)
{
	for (size_t i = 0; i < d->count; i++) {
		const struct doctor_finding *f = &d->finding[i];
		if ((f->level == DOCTOR_OK) == (*f->remedy != '\0') || *f->what == '\0')
			fail_msg("%s %s: %s: remedy \"%s\"", doctor_level_name(f->level),
				f->name, f->what, f->remedy);
	}
}

void expect_finding(
	const struct doctor *d, enum doctor_level level, const char *name, const char *what)
{
	check_remedies(d);
	for (size_t i = 0; i < d->count; i++) {
		const struct doctor_finding *f = &d->finding[i];
		if (f->level == level && strcmp(f->name, name) == 0 && strstr(f->what, what))
			return;
	}
	print_findings(d);
	fail_msg("no finding: %s %s: ...%s...", doctor_level_name(level), name, what);
}

void expect_rest_ok(const struct doctor *d, const char *name)
{
	for (size_t i = 0; i < d->count; i++) {
		const struct doctor_finding *f = &d->finding[i];
		if (f->level == DOCTOR_OK || (name && strcmp(f->name, name) == 0))
			continue;
		print_findings(d);
		fail_msg("%s isn't ok", f->name);
	}
}
