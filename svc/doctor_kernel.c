/* Checks of the kernel and its settings. */
#include "doctor_check.h"

#include "cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Numbers of a release such as "6.12.41+deb13-amd64"; what isn't there is 0. */
struct release {
	unsigned major, minor, patch;
};

static bool before(struct release a, struct release b)
{
	if (a.major != b.major)
		return a.major < b.major;
	return a.minor != b.minor ? a.minor < b.minor : a.patch < b.patch;
}

static const struct release oldest = {6, 12, 0};

/* "userfaultfd: fix a crash in UFFDIO_MOVE when PMD is a migration entry", upstream
 * aba6faec0103 of August 2025, is in 6.12.43 (number 407 of its review series) and 6.16.2 (by
 * its announcement), and in no 6.13, 6.14 or 6.15 that is still looked after. */
static const struct release fixed_6_12 = {6, 12, 43}, fixed_6_16 = {6, 16, 2};

static bool crashes(struct release r)
{
	if (r.major == fixed_6_12.major && r.minor == fixed_6_12.minor)
		return before(r, fixed_6_12);
	return before(r, fixed_6_16);
}

bool doctor_check_kernel(struct doctor *d)
{
	struct release r = {0};
	_cleanup_free_ char *text = doctor_text(d, NULL, "/proc/sys/kernel/osrelease");

	if (!text || sscanf(text, "%u.%u.%u", &r.major, &r.minor, &r.patch) < 2) {
		doctor_warn(d, "the kernel's release isn't known");
		doctor_remedy(d, "mount /proc: mount -t proc proc /proc");
		return true;
	}
	text[strcspn(text, "\n")] = '\0';
	if (before(r, oldest)) {
		doctor_fail(d, "Linux %s: 6.12 or later is needed", text);
		doctor_remedy(d, "Debian 12: apt-get install linux-image-6.12-amd64, then "
				 "reboot");
	} else if (crashes(r)) {
		doctor_warn(d,
			"Linux %s: UFFDIO_MOVE can crash it when a huge page migrates (fixed "
			"in "
			"6.12.%u and 6.16.%u)",
			text, fixed_6_12.patch, fixed_6_16.patch);
		doctor_remedy(d, "install a newer kernel, unless your distributor says that it "
				 "has the fix aba6faec0103");
	} else {
		doctor_ok(d, "Linux %s", text);
	}
	return true;
}

bool doctor_check_device(struct doctor *d)
{
	_cleanup_fd_ int fd = doctor_open(d, O_RDWR, "/dev/userfaultfd");

	if (fd >= 0) {
		doctor_ok(d, "/dev/userfaultfd can be opened");
	} else if (fd == -EACCES && d->uid != 0) {
		doctor_ok(d, "/dev/userfaultfd is there; only root opens it, as the service "
			     "does");
	} else if (fd == -ENOENT) {
		doctor_fail(d, "there is no /dev/userfaultfd");
		doctor_remedy(d,
			"take a kernel with CONFIG_USERFAULTFD (grep USERFAULTFD "
			"/boot/config-$(uname -r)); in a container, pass the device in");
	} else {
		doctor_fail(d, "/dev/userfaultfd: %s", strerror(-fd));
		doctor_remedy(d, "in a container, allow the device: docker run --device "
				 "/dev/userfaultfd");
	}
	return true;
}

bool doctor_check_features(struct doctor *d)
{
	char what[300];
	_cleanup_fd_ int fd = doctor_open(d, O_RDWR, "/dev/userfaultfd");

	if (fd < 0 && d->uid != 0) {
		doctor_warn(d, "not tried: that takes root");
		doctor_remedy_sudo(d);
		return true;
	}
	if (fd < 0)
		return true; /* said before */
	int r = d->probe(fd, what, sizeof(what));
	if (r == 0) {
		doctor_ok(d, "a page was moved out, an event held up and followed, a fault "
			     "answered");
	} else if (r > 0) {
		doctor_fail(d, "%s", what);
		doctor_remedy(d, "run Linux 6.12.%u, 6.16.%u or later, and larderd as root",
			fixed_6_12.patch, fixed_6_16.patch);
	} else {
		doctor_warn(d, "not tried: %s", strerror(-r));
		doctor_remedy(d, "larder doctor again, when the machine has memory and "
				 "processes to spare");
	}
	return true;
}

/* "always [madvise] never": what stands in the brackets. */
bool doctor_check_huge_pages(struct doctor *d)
{
	_cleanup_free_ char *text =
		doctor_text(d, NULL, "/sys/kernel/mm/transparent_hugepage/enabled");
	char *mode = text ? strchr(text, '[') : NULL, *end = mode ? strchr(mode, ']') : NULL;

	if (!end) {
		doctor_ok(d, "this kernel has no transparent huge pages");
		return true;
	}
	*end = '\0';
	mode++;
	doctor_ok(d, "%s%s", mode,
		strcmp(mode, "never") == 0
			? ""
			: ": a huge page leaves as a whole, and comes back as small pages");
	return true;
}

/* A second compressor under ours: what larder takes out was perhaps packed there already, is
 * unpacked to be moved, and what larder leaves is packed there. */
static bool has_zram(const char *swaps)
{
	return strstr(swaps, "/zram") != NULL;
}

static bool zswap_on(const struct doctor *d)
{
	_cleanup_free_ char *text =
		doctor_text(d, NULL, "/sys/module/zswap/parameters/enabled");
	return text && (*text == 'Y' || *text == '1');
}

bool doctor_check_swap(struct doctor *d)
{
	_cleanup_free_ char *swaps = doctor_text(d, NULL, "/proc/swaps");
	bool any = swaps && strchr(swaps, '/') != NULL;

	if (any && has_zram(swaps)) {
		doctor_warn(d, "zram is a swap device: memory of programs is compressed twice, "
			       "by the kernel and by larder");
		doctor_remedy(d,
			"keep managed programs out of it (cgroup memory.swap.max = 0), "
			"or swapoff /dev/zram0");
	} else if (any && zswap_on(d)) {
		doctor_warn(d, "zswap is on: memory of programs is compressed twice, by the "
			       "kernel and by larder");
		doctor_remedy(d,
			"echo N > /sys/module/zswap/parameters/enabled, or keep managed "
			"programs out of it (cgroup memory.zswap.max = 0)");
	} else {
		doctor_ok(d, any ? "swap without compression" : "no swap in use");
	}
	return true;
}

bool doctor_check_overcommit(struct doctor *d)
{
	uint64_t mode;

	if (!doctor_number(d, "/proc/sys/vm/overcommit_memory", &mode) || mode != 2) {
		doctor_ok(d, "memory may be overcommitted");
		return true;
	}
	doctor_warn(d,
		"vm.overcommit_memory is 2: evicted memory stays committed, so that no other "
		"program can be given it");
	doctor_remedy(d, "sysctl vm.overcommit_memory=0, or raise vm.overcommit_ratio");
	return true;
}

bool doctor_check_mappings(struct doctor *d)
{
	enum { USUAL = 65530 }; /* the kernel's default */
	uint64_t count;

	if (!doctor_number(d, "/proc/sys/vm/max_map_count", &count) || count >= USUAL) {
		doctor_ok(d, "programs may have as many mappings as usual");
		return true;
	}
	doctor_warn(d,
		"vm.max_map_count is %llu: programs near it are refused mappings, and larder's "
		"count too",
		(unsigned long long)count);
	doctor_remedy(d, "sysctl vm.max_map_count=%d", USUAL);
	return true;
}

/* Each of up to 32 readers watches every program. */
bool doctor_check_watches(struct doctor *d)
{
	enum { PER_PROGRAM = 34, PROGRAMS = 1000 };
	uint64_t watches;

	if (!doctor_number(d, "/proc/sys/fs/epoll/max_user_watches", &watches)) {
		doctor_ok(d, "no limit is known");
		return true;
	}
	if (watches >= PER_PROGRAM * PROGRAMS) {
		doctor_ok(d, "enough for %llu programs",
			(unsigned long long)(watches / PER_PROGRAM));
		return true;
	}
	doctor_warn(d, "fs.epoll.max_user_watches is %llu: enough for %llu programs",
		(unsigned long long)watches, (unsigned long long)(watches / PER_PROGRAM));
	doctor_remedy(d, "sysctl fs.epoll.max_user_watches=%d", PER_PROGRAM * PROGRAMS);
	return true;
}
