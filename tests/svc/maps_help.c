#include "maps_help.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

void fake_proc_init(struct fake_proc *f)
{
	strcpy(f->path, "/tmp/larder-fake-proc-XXXXXX");
	assert_non_null(mkdtemp(f->path));
	f->fd = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(f->fd >= 0);
}

void fake_proc_write(struct fake_proc *f, const char *name, const char *text)
{
	char path[128];

	assert_true(strlen(name) < sizeof(path));
	for (const char *slash = strchr(name, '/'); slash; slash = strchr(slash + 1, '/')) {
		snprintf(path, sizeof(path), "%.*s", (int)(slash - name), name);
		assert_true(mkdirat(f->fd, path, 0700) == 0 || errno == EEXIST);
	}
	int fd = openat(f->fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

static int remove_entry(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st, (void)flag, (void)ftw;
	return remove(path);
}

void fake_proc_done(struct fake_proc *f)
{
	close(f->fd);
	assert_int_equal(nftw(f->path, remove_entry, 8, FTW_DEPTH | FTW_PHYS), 0);
}

static _Noreturn void be_specimen(
	struct board *b, bool (*setup)(struct board *b), int ready, int hold)
{
	char byte = 0;

	b->ready = ready;
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* a failed assertion must not leave it behind */
	if (!setup(b) || write(ready, &byte, 1) != 1)
		_exit(1);
	close(ready);
	while (read(hold, &byte, 1) < 0 && errno == EINTR)
		;
	_exit(0);
}

void specimen_start(struct specimen *s, bool (*setup)(struct board *b))
{
	int ready[2], hold[2];
	char path[32], byte;

	s->board = mmap(NULL, sizeof(*s->board), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(s->board, MAP_FAILED);
	assert_int_equal(pipe(ready), 0);
	assert_int_equal(pipe(hold), 0);
	/* What it leaves behind comes to us, to be waited for. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	s->pid = fork();
	assert_true(s->pid >= 0);
	if (s->pid == 0) {
		close(ready[0]);
		close(hold[1]);
		be_specimen(s->board, setup, ready[1], hold[0]);
	}
	close(ready[1]);
	close(hold[0]);
	s->hold = hold[1];
	snprintf(path, sizeof(path), "/proc/%d", (int)s->pid);
	s->procdir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(s->procdir >= 0);
	assert_int_equal(read(ready[0], &byte, 1), 1); /* else its setup failed */
	close(ready[0]);
}

bool specimen_tasks(const struct specimen *s, const char *name, bool (*fn)(const char *text))
{
	char path[300], text[512];
	bool found = false;
	struct dirent *entry;
	DIR *tasks = fdopendir(openat(s->procdir, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC));

	assert_non_null(tasks);
	while (!found && (entry = readdir(tasks))) {
		snprintf(path, sizeof(path), "%s/%s", entry->d_name, name);
		int fd = openat(dirfd(tasks), path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		ssize_t n = read(fd, text, sizeof(text) - 1);
		close(fd);
		text[n > 0 ? n : 0] = '\0';
		found = fn(text);
	}
	closedir(tasks);
	return found;
}

static bool kill_all(const char *children)
{
	char *end;

	for (long pid; (pid = strtol(children, &end, 10)) > 1; children = end)
		kill((pid_t)pid, SIGKILL);
	return false;
}

void specimen_end(struct specimen *s)
{
	int status;

	specimen_tasks(s, "children", kill_all); /* those that share its memory outlive it */
	close(s->hold);
	kill(s->pid, SIGKILL);
	while (waitpid(-1, &status, 0) > 0)
		;
	assert_int_equal(errno, ECHILD);
	close(s->procdir);
	munmap(s->board, sizeof(*s->board));
}

void wait_until(bool (*done)(void *arg), void *arg)
{
	for (unsigned i = 0; i < 5000000; i++) {
		if (done(arg))
			return;
		sched_yield();
	}
	fail_msg("what was waited for did not come");
}

_Noreturn void skip_program(const char *reason)
{
	fprintf(stderr, "skipped: %s\n", reason);
	exit(getenv("MUST_WORK") ? 1 : 77);
}
