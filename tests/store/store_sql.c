#include "store_sql.h"

#include <stdio.h>

#include "store_world.h"

sqlite3 *sql_open(const char *dir)
{
	char path[128];
	sqlite3 *db;

	snprintf(path, sizeof(path), "%s/index.db", dir);
	assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
	return db;
}

static sqlite3_stmt *first_row(sqlite3 *db, const char *query)
{
	sqlite3_stmt *st;

	if (sqlite3_prepare_v2(db, query, -1, &st, NULL) != SQLITE_OK)
		fail_msg("%s: %s", query, sqlite3_errmsg(db));
	if (sqlite3_step(st) != SQLITE_ROW)
		fail_msg("%s: no row: %s", query, sqlite3_errmsg(db));
	return st;
}

int64_t sql_number(sqlite3 *db, const char *query)
{
	sqlite3_stmt *st = first_row(db, query);
	int64_t n = sqlite3_column_int64(st, 0);

	sqlite3_finalize(st);
	return n;
}

const char *sql_text(sqlite3 *db, const char *query)
{
	static char text[4096];
	sqlite3_stmt *st = first_row(db, query);

	snprintf(text, sizeof(text), "%s", (const char *)sqlite3_column_text(st, 0));
	sqlite3_finalize(st);
	return text;
}

bool sql_leaf(sqlite3 *db, int64_t id, struct index_entry ret[STORE_LEAF_PAGES])
{
	sqlite3_stmt *st;

	assert_int_equal(
		sqlite3_prepare_v2(db, "SELECT entries FROM leaf WHERE id = ?", -1, &st, NULL),
		SQLITE_OK);
	sqlite3_bind_int64(st, 1, id);
	bool found = sqlite3_step(st) == SQLITE_ROW;
	if (found)
		assert_int_equal(index_unpack(sqlite3_column_blob(st, 0),
					 (size_t)sqlite3_column_bytes(st, 0), ret),
			0);
	sqlite3_finalize(st);
	return found;
}
