/* What a killed process has left, which can be damaged, reopened, compared, and put back as it
 * was, again and again. */
#ifndef TESTS_STORE_LEFT_H
#define TESTS_STORE_LEFT_H

#include "store_world.h"

enum { LEFT_LEAVES = 12 }; /* each the leaf of a block */

enum file { DB, WAL, SHM, RUN, SEG, FILES };

struct left {
	char dir[64];
	unsigned char *bytes[FILES];
	size_t size[FILES]; /* up to the last byte that isn't 0, of SEG; 0 = no file */
};

/* How often it was refused; was all right; was right but for pages that say that they are lost.
 */
struct tally {
	unsigned refused, right, lost;
};

void left_make(struct left *f);
/* The same, but closed in order: all of the index is in index.db. */
void left_settle(struct left *f);
void left_put_back_file(const struct left *f, enum file i);
void left_put_back(const struct left *f);
void left_done(struct left *f);

const char *left_file_name(enum file i);
int left_open(const struct left *f, enum file i, int flags);
void left_flip(const struct left *f, enum file i, uint64_t byte, unsigned bit);

/* Reopens it: either it is refused, with words, and database and log are as they were; or every
 * row is there, each page is right or says that it isn't, and at most so many say that. */
void left_reopen(const struct left *f, unsigned may_lose, struct tally *t);
void left_report(enum file i, const struct tally *t);

#endif
