/* Reading the index. What is read may have been damaged in any way, so nothing is believed that
 * isn't looked at here: types, ranges, the row's checksum, and that what it names is there. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "index_private.h"

/* Of one statement that reads a table: for the words when a row isn't as we write them. */
struct reading {
	struct index *x;
	sqlite3_stmt *st;
	const char *table;
	unsigned keys;	   /* columns */
	const char *types; /* of its columns; the last is whether the checksum is right */
	char *why;
};

static const char *column_text(sqlite3_stmt *st, int i)
{
	const void *text = sqlite3_column_text(st, i);

	return text ? text : "NULL";
}

static int bad_row(const struct reading *rd, const char *what)
{
	snprintf(rd->why, STORE_WHY, "index.db, table %s, row %.20s%s%.20s: %s", rd->table,
		column_text(rd->st, 0), rd->keys > 1 ? ", " : "",
		rd->keys > 1 ? column_text(rd->st, 1) : "", what);
	return -EBADMSG;
}

static int check_row(const struct reading *rd)
{
	static const int type_of[] = {
		['i'] = SQLITE_INTEGER, ['t'] = SQLITE_TEXT, ['b'] = SQLITE_BLOB};
	int n = (int)strlen(rd->types);

	/* Before anything converts them. A checksum of a wrong type is NULL here. */
	for (int i = 0; i < n; i++)
		if (sqlite3_column_type(rd->st, i) != type_of[(unsigned char)rd->types[i]])
			return bad_row(rd, "a value is of the wrong type");
	return sqlite3_column_int(rd->st, n - 1) == 1 ? 0
						      : bad_row(rd, "its checksum is wrong");
}

/* Calls row for each row of the statement, which is bound. */
static int read_rows(struct reading *rd, int (*row)(struct reading *rd, void *arg), void *arg)
{
	int rc, r = 0;

	while (r == 0 && (rc = sqlite3_step(rd->st)) == SQLITE_ROW) {
		r = check_row(rd);
		if (r == 0)
			r = row(rd, arg);
	}
	if (r == 0 && rc != SQLITE_DONE) {
		r = index_errno(rc);
		snprintf(rd->why, STORE_WHY, "index.db, table %s: %s", rd->table,
			sqlite3_errmsg(rd->x->db));
	}
	sqlite3_reset(rd->st);
	sqlite3_clear_bindings(rd->st);
	return r;
}

static uint64_t column_u64(const struct reading *rd, int i)
{
	return (uint64_t)sqlite3_column_int64(rd->st, i);
}

struct found {
	index_client_fn *client;
	index_block_fn *block;
	index_leaf_fn *leaf;
	void *arg;
};

static int client_row(struct reading *rd, void *arg)
{
	struct found *f = arg;
	struct store_client c = {
		.id = column_u64(rd, 0),
		.parent = column_u64(rd, 1),
		.pid = sqlite3_column_int64(rd->st, 2),
		.exe = column_text(rd->st, 3),
		.policy = column_text(rd->st, 4),
		.clock = column_u64(rd, 5),
		.state = sqlite3_column_blob(rd->st, 6),
		.state_length = (uint32_t)sqlite3_column_bytes(rd->st, 6),
	};

	if (c.id == 0 || c.pid < 0 || c.pid > INT32_MAX || c.state_length > STORE_STATE_MAX)
		return bad_row(rd, "a number is out of range");
	if (!c.state)
		c.state = "";
	return f->client ? f->client(f->arg, &c) : 0;
}

static int leaf_row(struct reading *rd, void *arg)
{
	struct found *f = arg;
	struct index_leaf *l = &rd->x->leaf;
	uint64_t pages = 0;

	l->id = column_u64(rd, 0);
	l->clock = column_u64(rd, 1);
	l->stored_bytes = column_u64(rd, 3);
	if (index_unpack(sqlite3_column_blob(rd->st, 4),
		    (size_t)sqlite3_column_bytes(rd->st, 4), l->entries) < 0)
		return bad_row(rd, "its entries are no entries");
	for (unsigned i = 0; i < STORE_LEAF_PAGES; i++)
		pages += l->entries[i].blob != BLOB_NONE;
	if (l->id == 0 || column_u64(rd, 2) != pages || l->stored_bytes > pages * STORE_PAGE)
		return bad_row(rd, "a number is out of range");
	l->pages = (uint32_t)pages;
	return f->leaf(f->arg, l);
}

static int block_row(struct reading *rd, void *arg)
{
	struct found *f = arg;
	uint64_t block = column_u64(rd, 1), leaf = column_u64(rd, 2);

	if (block > STORE_BLOCK_MAX)
		return bad_row(rd, "no such address");
	if (sqlite3_column_int(rd->st, 3) != 1)
		return bad_row(rd, "there is no such client");
	if (sqlite3_column_int(rd->st, 4) != 1)
		return bad_row(rd, "there is no such leaf");
	return f->block ? f->block(f->arg, block, leaf) : 0;
}

struct meta {
	uint64_t value;
	bool any;
};

static int meta_row(struct reading *rd, void *arg)
{
	*(struct meta *)arg = (struct meta){.value = column_u64(rd, 1), .any = true};
	return 0;
}

static struct reading reading(struct index *x, enum statement i, char *why)
{
	struct reading rd = {.x = x, .st = x->statement[i], .why = why};

	if (i == SQL_READ_CLIENTS) {
		rd.table = "client", rd.keys = 1, rd.types = "iiittibi";
	} else if (i == SQL_READ_LEAVES || i == SQL_READ_LEAF) {
		rd.table = "leaf", rd.keys = 1, rd.types = "iiiibi";
	} else if (i == SQL_READ_META) {
		rd.table = "meta", rd.keys = 1, rd.types = "tii";
	} else {
		rd.table = "block", rd.keys = 2, rd.types = "iiiiii";
	}
	return rd;
}

int index_each_client(struct index *x, index_client_fn *found, void *arg, char why[STORE_WHY])
{
	struct reading rd = reading(x, SQL_READ_CLIENTS, why);
	return read_rows(&rd, client_row, &(struct found){.client = found, .arg = arg});
}

int index_each_block(
	struct index *x, uint64_t client, index_block_fn *found, void *arg, char why[STORE_WHY])
{
	struct reading rd = reading(x, SQL_READ_CLIENT_BLOCKS, why);
	bind_u64(rd.st, 1, client);
	return read_rows(&rd, block_row, &(struct found){.block = found, .arg = arg});
}

int index_each_leaf(struct index *x, index_leaf_fn *found, void *arg, char why[STORE_WHY])
{
	struct reading rd = reading(x, SQL_READ_LEAVES, why);
	return read_rows(&rd, leaf_row, &(struct found){.leaf = found, .arg = arg});
}

int index_find_leaf(
	struct index *x, uint64_t leaf, index_leaf_fn *found, void *arg, char why[STORE_WHY])
{
	struct reading rd = reading(x, SQL_READ_LEAF, why);

	x->leaf.id = 0;
	bind_u64(rd.st, 1, leaf);
	int r = read_rows(&rd, leaf_row, &(struct found){.leaf = found, .arg = arg});
	return r == 0 && x->leaf.id == 0 ? -ENOENT : r;
}

int index_read_meta(struct index *x, const char *key, uint64_t *ret, char why[STORE_WHY])
{
	struct reading rd = reading(x, SQL_READ_META, why);
	struct meta m = {0};

	sqlite3_bind_text(rd.st, 1, key, -1, SQLITE_STATIC);
	int r = read_rows(&rd, meta_row, &m);
	if (r == 0 && !m.any) {
		snprintf(why, STORE_WHY, "index.db, table meta: there is no %s", key);
		return -EBADMSG;
	}
	if (r == 0)
		*ret = m.value;
	return r;
}

int index_read_all(struct index *x, index_leaf_fn *leaf, void *arg, char why[STORE_WHY])
{
	struct reading blocks = reading(x, SQL_READ_BLOCKS, why);

	int r = index_each_leaf(x, leaf, arg, why);
	if (r == 0)
		r = index_each_client(x, NULL, NULL, why);
	return r == 0 ? read_rows(&blocks, block_row, &(struct found){0}) : r;
}
