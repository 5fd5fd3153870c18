/* The shim's mremap, while the service registers a part of the range and another thread gets
 * the place that the rest has just left. A seccomp filter stops mremap, so that both happen at
 * just that moment. */
#include "shim.h"
#include "uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <cmocka.h>

enum { PAGES = 4, THEIRS = 0x77 };
#define SIZE	 (PAGES * PAGE_SIZE)
#define LET_PASS 0x6c657470 /* the sixth argument, which mremap hasn't */

static int uffd = -1;
static uint8_t *from, *to, *theirs;
static unsigned calls, at_call; /* which of them is disturbed */

/* ---- the rest of the shim ---- */

static struct shim_page page;
struct shim_page *shim_page = &page;
_Atomic bool shim_locked_unlinked;

void shim_give_back(struct shim_call *call, const void *addr, size_t len)
{
	(void)call;
	uffd_unregister(uffd, (uintptr_t)addr, len);
}

void shim_end(struct shim_call *call)
{
	(void)call;
}

void shim_touch_in_child(const struct shim_call *call, const void *addr, size_t len, bool fill)
{
	(void)call, (void)addr, (void)len, (void)fill;
}

long shim_result(long r)
{
	if (r > -4096 && r < 0) {
		errno = (int)-r;
		return -1;
	}
	return r;
}

/* ---- what happens meanwhile ---- */

static void meanwhile(long before)
{
	if (before && calls == at_call + 1)
		uffd_unregister(uffd, (uintptr_t)from, SIZE); /* nobody reads events here */
	if (calls != at_call)
		return;
	if (before) {
		uffd_register(uffd, (uintptr_t)from + 2 * PAGE_SIZE, 2 * PAGE_SIZE,
			UFFDIO_REGISTER_MODE_MISSING);
		return;
	}
	theirs = mmap(from, PAGE_SIZE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (theirs == from)
		memset(theirs, THEIRS, PAGE_SIZE);
}

static void on_call(int signal, siginfo_t *info, void *context)
{
	greg_t *reg = ((ucontext_t *)context)->uc_mcontext.gregs;

	(void)signal, (void)info;
	calls++;
	meanwhile(true);
	long r = syscall(SYS_mremap, reg[REG_RDI], reg[REG_RSI], reg[REG_RDX], reg[REG_R10],
		reg[REG_R8], LET_PASS);
	reg[REG_RAX] = r < 0 ? -errno : r;
	meanwhile(false);
}

static int stop_calls(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mremap, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[5])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, LET_PASS, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog filter = {sizeof(code) / sizeof(code[0]), code};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -1;
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter);
}

/* ---- */

static uint8_t *area(void)
{
	uint8_t *p =
		mmap(NULL, SIZE + 2 * PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return p + PAGE_SIZE;
}

static int setup(void **state)
{
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

	(void)state;
	uffd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	close(device);
	from = area();
	to = area();
	mprotect(from, SIZE, PROT_READ | PROT_WRITE);
	for (unsigned i = 0; i < PAGES; i++)
		memset(from + i * PAGE_SIZE, (int)i + 1, PAGE_SIZE);
	atomic_store(&shim_locked_unlinked, false);
	calls = 0;
	at_call = 1;
	alarm(60);
	theirs = NULL;
	return uffd_api(uffd);
}

static int teardown(void **state)
{
	(void)state;
	close(uffd);
	munmap(from - PAGE_SIZE, SIZE + 2 * PAGE_SIZE);
	munmap(to - PAGE_SIZE, SIZE + 2 * PAGE_SIZE);
	return 0;
}

/* cmocka has a handler of its own before each test. */
static void handle_calls(void)
{
	struct sigaction act = {.sa_sigaction = on_call, .sa_flags = SA_SIGINFO};

	sigaction(SIGSYS, &act, NULL);
}

/* All of it has moved, and what another thread mapped meanwhile is where it was. */
static void move_and_compare_by(int flags, size_t size)
{
	handle_calls();
	assert_ptr_equal(
		mremap(from, SIZE, size, MREMAP_MAYMOVE | MREMAP_FIXED | flags, to), to);
	assert_true(calls > 0);
	for (unsigned i = 0; i < PAGES; i++) {
		assert_int_equal(to[i * PAGE_SIZE], i + 1);
		assert_int_equal(to[(i + 1) * PAGE_SIZE - 1], i + 1);
	}
	if (calls > at_call && !flags) { /* else this kernel moves all or nothing */
		assert_ptr_equal(theirs, from);
		assert_int_equal(*theirs, THEIRS);
	}
}

static void move_and_compare(void)
{
	move_and_compare_by(0, SIZE);
}

static void the_rest_goes_after_what_has_moved(void **state)
{
	(void)state;
	munmap(to, SIZE);
	move_and_compare();
}

static void the_same_over_another_mapping(void **state)
{
	(void)state;
	mprotect(to, SIZE, PROT_READ | PROT_WRITE);
	memset(to, 0x99, SIZE);
	move_and_compare();
}

/* It was several mappings before. */
static void the_same_in_the_middle_of_several(void **state)
{
	(void)state;
	madvise(from, PAGE_SIZE, MADV_NOHUGEPAGE);
	at_call = 2;
	mprotect(to, SIZE, PROT_READ | PROT_WRITE);
	move_and_compare();
}

/* Was it given back by a service that didn't know of all that was registered? */
static void what_stays_mapped_moves_by_mapping_too(void **state)
{
	(void)state;
	mprotect(to, SIZE, PROT_READ | PROT_WRITE);
	move_and_compare_by(MREMAP_DONTUNMAP, SIZE);
	for (unsigned i = 0; i < 2 * PAGE_SIZE; i++) /* the others' faults nobody answers */
		assert_int_equal(from[i], 0);
}

/* Growth of what may be locked is a move and then growth in place. */
static void what_grows_loses_nothing_on_its_way(void **state)
{
	(void)state;
	atomic_store(&shim_locked_unlinked, true);
	move_and_compare_by(0, SIZE + PAGE_SIZE);
	for (size_t i = 0; i < PAGE_SIZE; i++)
		assert_int_equal(to[SIZE + i], 0);
}

/* Two mappings that don't merge, of which one has been registered for long. */
static void what_grows_may_be_two_mappings_for_our_sake(void **state)
{
	uint8_t *part = from + 2 * PAGE_SIZE;

	(void)state;
	at_call = 100;
	mmap(part, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	uffd_register(uffd, (uintptr_t)part, 2 * PAGE_SIZE, UFFDIO_REGISTER_MODE_WP);
	for (size_t i = 2; i < PAGES; i++)
		memset(from + i * PAGE_SIZE, (int)i + 1, PAGE_SIZE);
	uffd_unregister(uffd, (uintptr_t)part, 2 * PAGE_SIZE);
	what_grows_loses_nothing_on_its_way(state);
}

/* Of other kinds, they don't grow together, and nothing is moved. */
static void what_is_two_for_the_program_stays_where_it_is(void **state)
{
	(void)state;
	at_call = 100;
	atomic_store(&shim_locked_unlinked, true);
	mprotect(from + 2 * PAGE_SIZE, 2 * PAGE_SIZE, PROT_READ);
	handle_calls();
	assert_ptr_equal(
		mremap(from, SIZE, SIZE + PAGE_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, to),
		MAP_FAILED);
	assert_int_equal(errno, EFAULT);
	for (unsigned i = 0; i < PAGES; i++)
		assert_int_equal(from[i * PAGE_SIZE], i + 1);
}

int main(void)
{
	if (access("/dev/userfaultfd", R_OK | W_OK) < 0) {
		puts("skipped: /dev/userfaultfd can't be opened: not root, or no such device");
		return 77;
	}
	if (stop_calls() < 0) {
		puts("skipped: no seccomp filter can be set");
		return 77;
	}
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(the_rest_goes_after_what_has_moved),
		T(the_same_over_another_mapping),
		T(the_same_in_the_middle_of_several),
		T(what_stays_mapped_moves_by_mapping_too),
		T(what_grows_loses_nothing_on_its_way),
		T(what_grows_may_be_two_mappings_for_our_sake),
		T(what_is_two_for_the_program_stays_where_it_is),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
