/* The end of programs: how it is noticed, and what becomes of their clients. The main thread's.
 *
 *   pidfd       the program's leader has exited
 *   socket      the agent has ended, or its exec pipe has hung up
 *   the sweep   what nobody tells of: forked children, an exec after closefrom(3) */
#ifndef LARDER_GONE_H
#define LARDER_GONE_H

#include <stdbool.h>
#include <stdint.h>

struct worker;

/* Looks at all clients. False: there is none left. */
bool gone_sweep(struct worker *w);
/* What tells of the agent's end (client_agent_end), or the program's pidfd, is readable. */
void gone_agent(struct worker *w, uint64_t id);
void gone_program(struct worker *w, uint64_t id);

#endif
