/* Included first in every file of larderd_next and liblarder_next: today's service with a later
 * index and a later handshake, so that what a release will need is tried before there is one.
 */
#undef LARDER_VERSION
#define LARDER_VERSION "next"

#define PROTOCOL_VERSION 2

#define INDEX_SQL_VERSION 3
#define INDEX_SQL_STEPS(X)                                                                     \
	X(1, INDEX_SQL_FROM_1)                                                                 \
	X(2, "CREATE TABLE next (migrated INTEGER); INSERT INTO next SELECT count(*) FROM "    \
	     "leaf;")
