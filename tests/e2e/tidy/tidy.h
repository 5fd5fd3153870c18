/* Programs that tidy up: each case does to its own process what a careful daemon does at its
 * start (closes what it doesn't know, drops privilege, locks itself in), or looks at itself,
 * while its memory is out. tidy.sh runs each bare, under the service and without one, and
 * compares.
 *
 *   holds 8 MiB, "point take" -> the case's function -> checks it, "point ..." -> checks it,
 * "end"
 *
 * What a program prints must be the same each time, but for lines that begin with "known":
 * these are NAME NUMBER, and tidy.sh has the names that may differ, by how much, and the words
 * of the README that say so. */
#ifndef TIDY_H
#define TIDY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Each case and who runs it: `user` is nobody. CMakeLists.txt reads this list. */
#define TIDY_CASES(X)                                                                          \
	X(closefrom, user)                                                                     \
	X(setuid, root)                                                                        \
	X(chroot, root)                                                                        \
	X(unshare_user, user)                                                                  \
	X(unshare_pid, root)                                                                   \
	X(unshare_mount, root)                                                                 \
	X(time_namespace, root)                                                                \
	X(pid_namespace, root)                                                                 \
	X(user_namespace, user)                                                                \
	X(dumpable, user)                                                                      \
	X(capabilities, root)                                                                  \
	X(seccomp_strict, user)                                                                \
	X(seccomp_tsync, user)                                                                 \
	X(seccomp_calls, user)                                                                 \
	X(seccomp_child, user)                                                                 \
	X(rlimit_nofile, user)                                                                 \
	X(rlimit_nofile_start, user)                                                           \
	X(rlimit_nproc, user)                                                                  \
	X(rlimit_as, user)                                                                     \
	X(rlimit_as_start, user)                                                               \
	X(rlimit_as_fixed, user)                                                               \
	X(rlimit_data_fixed, user)                                                             \
	X(rlimit_data, user)                                                                   \
	X(rlimit_stack, user)                                                                  \
	X(rlimit_zero, user)                                                                   \
	X(mlock_future, root)                                                                  \
	X(mlock_all, root)                                                                     \
	X(pthread_exit, user)                                                                  \
	X(fork, user)                                                                          \
	X(double_fork, user)                                                                   \
	X(vfork, user)                                                                         \
	X(traced, user)                                                                        \
	X(wait_any, user)                                                                      \
	X(wait_all_kinds, user)                                                                \
	X(exec_same, user)                                                                     \
	X(exec_other, user)                                                                    \
	X(exec_static, user)                                                                   \
	X(exec_setuid, user)                                                                   \
	X(static, user)                                                                        \
	X(setuid_binary, user)                                                                 \
	X(exec_after_closefrom, user)                                                          \
	X(exec_after_fork, user)                                                               \
	X(uffd_own, user)                                                                      \
	X(uffd_move, user)                                                                     \
	X(jemalloc_first, user)                                                                \
	X(jemalloc_last, user)                                                                 \
	X(eatmydata_first, user)                                                               \
	X(eatmydata_last, user)                                                                \
	X(faketime_first, user)                                                                \
	X(faketime_last, user)                                                                 \
	X(preload_missing, user)                                                               \
	X(preload_lost, user)                                                                  \
	X(no_inherit, user)                                                                    \
	X(threads, user)                                                                       \
	X(children, user)                                                                      \
	X(descriptors, user)                                                                   \
	X(processes, user)                                                                     \
	X(maps, user)                                                                          \
	X(environment, user)                                                                   \
	X(usage, user)                                                                         \
	X(guard, user)                                                                         \
	X(wipeonfork, user)                                                                    \
	X(lock, root)                                                                          \
	X(lock_all, root)                                                                      \
	X(stack, user)                                                                         \
	X(stack_kept, user)                                                                    \
	X(stack_later, user)                                                                   \
	X(inherited, user)                                                                     \
	X(freed, user)

enum { TIDY_PAGE = 4096, TIDY_PAGES = 2048, TIDY_BYTES = TIDY_PAGES * TIDY_PAGE };

/* What tidy.sh does at a point, when there is a service, before it lets the program go on. */
#define POINT_TAKE  "take"  /* evicts, and demands that nearly all of TIDY_BYTES left */
#define POINT_LEAVE "leave" /* orders an eviction, whatever comes of it */
#define POINT_GONE  "gone"  /* waits until no client with an agent is left */
#define POINT_QUIET "quiet" /* waits until no timer of the service is a one-off */

struct tidy {
	const char *self;  /* argv[0]: an absolute path */
	const char *name;  /* of the case */
	const char *stage; /* argv[2]: what an image says to the next one; "" = the first */
	uint8_t *memory;   /* TIDY_BYTES */
	const char *next;  /* the point after the function */
};

/* The exit code, 77 for a skip. */
typedef int tidy_fn(struct tidy *t);
#define X(name, user) tidy_fn tidy_##name;
TIDY_CASES(X)
#undef X

/* A line of output, by write(2) alone. */
__attribute__((format(printf, 1, 2))) void say(const char *format, ...);
void known(const char *name, long number);
void point(const char *what);

uint8_t *memory_new(void);			    /* filled; a mapping of its own */
void memory_fill(uint8_t *memory);		    /* anew */
int memory_check(const char *who, uint8_t *memory); /* says so; 0 or 1 */

/* After the case's function: what every program ends with. Returns the exit code. */
int tidy_finish(struct tidy *t);

long call_result(const char *what, long r); /* says "what: 0" or the error; returns r */
int child_check(struct tidy *t);	    /* forks, checks there, waits: 0 or 1 */
int exec_image(const struct tidy *t, const char *file, const char *stage);
long status_number(const char *key); /* of /proc/self/status; -1 = none */
int skip(const char *why);	     /* 77 */

#endif
