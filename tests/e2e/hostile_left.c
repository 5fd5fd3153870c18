/* What a client that means harm does while there is no service, to be taken over by the next
 * one for what it isn't (both_hostile.sh). */
#include "hostile.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static void wait_for_end(void)
{
	for (;;)
		pause();
}

/* Another userfaultfd, of this memory, under the number of the one that the service knows. */
static void serve_swapped(struct hostile *h)
{
	struct uffdio_api api = {.api = UFFD_API};
	int fd = new_uffd(h);

	if (ioctl(fd, UFFDIO_API, &api) < 0 || dup2(fd, h->uffd) < 0)
		die("another userfaultfd");
	wait_for_end();
}

/* Memory that could be cut off under the service, under the name and the number of the link's.
 */
static void serve_relinked(struct hostile *h)
{
	int fd = memfd_create("larder-link", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, LINK_BYTES) < 0 || dup2(fd, h->fds[WELCOME_FD_LINK]) < 0)
		die("another link");
	wait_for_end();
}

/* A pipe that nobody reads, whose writer would wait. */
static void serve_deafened(struct hostile *h)
{
	int ends[2];

	if (pipe(ends) < 0 || dup2(ends[0], h->fds[WELCOME_FD_DOORBELL]) < 0)
		die("another doorbell");
	wait_for_end();
}

/* When the service is gone, the agent becomes another program, with all of its descriptors. */
static void serve_execed(struct hostile *h)
{
	const int fds[] = {
		h->uffd, h->fds[WELCOME_FD_LINK], h->fds[WELCOME_FD_DOORBELL], h->socket};

	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fcntl(fds[i], F_SETFD, 0) < 0)
			die("close-on-exec");
	struct pollfd end = {.fd = h->socket};
	while (poll(&end, 1, -1) < 0)
		;
	execl("/bin/sleep", "sleep", "1000", NULL);
	die("exec");
}

static void stay_with(void (*serve)(struct hostile *h))
{
	attach(serve);
	puts("ready");
	fflush(stdout);
	wait_for_end();
}

void left_swapped(void)
{
	stay_with(serve_swapped);
}

void left_relinked(void)
{
	stay_with(serve_relinked);
}

void left_deafened(void)
{
	stay_with(serve_deafened);
}

void left_execed(void)
{
	stay_with(serve_execed);
}

/* A process with the number of an agent that has ended: NUMBER. It has all that one had, as far
 * as it can be had: a userfaultfd, a memfd of that name. As root, for numbers aren't chosen by
 * others. */
void left_impostor(void)
{
	const char *text = getenv("NUMBER");
	pid_t number = text ? atoi(text) : 0;
	const struct clone_args args = {
		.exit_signal = SIGCHLD, .set_tid = (uintptr_t)&number, .set_tid_size = 1};
	long pid = syscall(SYS_clone3, &args, sizeof(args));

	if (pid < 0)
		die("clone3 with a number"); /* perhaps somebody was quicker */
	if (pid == 0) {
		int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (device < 0 || ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC) < 0 ||
			memfd_create("larder-link", MFD_CLOEXEC) < 0)
			die("what an agent has");
		puts("ready");
		fflush(stdout);
		wait_for_end();
	}
	waitpid((pid_t)pid, NULL, 0);
}
