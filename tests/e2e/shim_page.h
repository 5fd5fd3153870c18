/* What a program that was taken over can find of the shim in itself. */
#ifndef LARDER_TEST_SHIM_PAGE_H
#define LARDER_TEST_SHIM_PAGE_H

#include "shim.h"

/* NULL: there is none, as in a program that was not taken over. */
struct shim_page *find_page(void);

/* Our agent: has anybody else our memory? */
bool has_agent(void);

#endif
