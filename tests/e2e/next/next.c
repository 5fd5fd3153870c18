/* larderd_next as one that says that it can take over, and can't: LARDER_NEXT_FAILS in the
 * environment is where. */
#include "state.h"
#include "worker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int __real_worker_run(const struct worker_options *o);
int __wrap_worker_run(const struct worker_options *o);
int __real_state_load(struct state **ret, const char *dir, char why[STATE_WHY]);
int __wrap_state_load(struct state **ret, const char *dir, char why[STATE_WHY]);

static bool fails(const char *where)
{
	const char *said = getenv("LARDER_NEXT_FAILS");
	return said && strcmp(said, where) == 0;
}

int __wrap_worker_run(const struct worker_options *o)
{
	return fails("worker") ? -EIO : __real_worker_run(o);
}

/* Not by a check, which is state.c's own. */
int __wrap_state_load(struct state **ret, const char *dir, char why[STATE_WHY])
{
	return fails("state") ? -EIO : __real_state_load(ret, dir, why);
}
