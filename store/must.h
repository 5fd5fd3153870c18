/* must(x): an assertion that release builds keep. The store fails closed: where its own books
 * are wrong, going on could serve one page's bytes for another's. */
#ifndef LARDER_STORE_MUST_H
#define LARDER_STORE_MUST_H

#include <stdio.h>
#include <stdlib.h>

#define must(x)                                                                                \
	do {                                                                                   \
		if (!(x)) {                                                                    \
			fprintf(stderr, "%s:%d: %s: must hold: %s\n", __FILE__, __LINE__,      \
				__func__, #x);                                                 \
			abort();                                                               \
		}                                                                              \
	} while (0)

#endif
