/* A second connection to a store's index, as an administrator's sqlite3 would make it. */
#ifndef TESTS_STORE_SQL_H
#define TESTS_STORE_SQL_H

#include <sqlite3.h>

#include "entries.h"

sqlite3 *sql_open(const char *dir);

/* The first column of the first row; both assert that there is one. sql_text: until the next.
 */
int64_t sql_number(sqlite3 *db, const char *query);
const char *sql_text(sqlite3 *db, const char *query);

/* false: there is no such leaf. */
bool sql_leaf(sqlite3 *db, int64_t id, struct index_entry ret[STORE_LEAF_PAGES]);

#endif
