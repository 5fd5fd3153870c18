/* All of the index's SQL. SQLite keeps the comments of the schema, so `.schema` in its shell
 * shows them to the administrator: they are documentation of the product. */
#ifndef LARDER_STORE_INDEX_SQL_H
#define LARDER_STORE_INDEX_SQL_H

/* As INDEX_SQL_CREATE has them; index_check knows an index by these. */
#define INDEX_SQL_APPLICATION 0x4c726472 /* "Lrdr" */
/* Of the schema. (A test defines a later one.) */
#ifndef INDEX_SQL_VERSION
#define INDEX_SQL_VERSION 2
#endif
#define INDEX_SQL_TEXT(x)  #x
#define INDEX_SQL_VALUE(x) INDEX_SQL_TEXT(x)

/* Pages of 8 KiB hold three full leaves; of 4 KiB, one, and a third of the page would be lost.
 * The file's first bytes have application and version at once, whenever a kill comes: before
 * the log, behind which the header may lag, and in one transaction. */
#define INDEX_SQL_CREATE                                                                       \
	"PRAGMA page_size = 8192;"                                                             \
	"PRAGMA synchronous = OFF;"                                                            \
	"BEGIN;"                                                                               \
	"PRAGMA auto_vacuum = INCREMENTAL;"                                                    \
	"PRAGMA application_id = 0x4c726472;"                                                  \
	"PRAGMA user_version = " INDEX_SQL_VALUE(INDEX_SQL_VERSION) ";"                        \
								    "COMMIT;"

/* Of each connection. The log is copied back every 128 pages (1 MiB), so it stays about that
 * long, and the cache is bounded, since all of this is memory. */
#define INDEX_SQL_TUNE                                                                         \
	"PRAGMA synchronous = OFF;"                                                            \
	"PRAGMA journal_mode = WAL;"                                                           \
	"PRAGMA wal_autocheckpoint = 128;"                                                     \
	"PRAGMA journal_size_limit = 1048576;"                                                 \
	"PRAGMA cache_size = -2048;"                                                           \
	"PRAGMA mmap_size = 0;"                                                                \
	"PRAGMA temp_store = MEMORY;"

/* The last column of each table is row_checksum (index.c) of the table's name and the other
 * columns: SQLite has none of its own for what isn't in its log. */
#define INDEX_SQL_TABLES                                                                       \
	"CREATE TABLE client (\n"                                                              \
	"  -- A program whose memory is managed.\n"                                            \
	"  id       INTEGER PRIMARY KEY, -- the service's number for it, never used twice\n"   \
	"  parent   INTEGER NOT NULL,    -- id of the client it was forked from, 0 = none\n"   \
	"  pid      INTEGER NOT NULL,    -- 0 = not known yet\n"                               \
	"  exe      TEXT    NOT NULL,\n"                                                       \
	"  policy   TEXT    NOT NULL,\n"                                                       \
	"  clock    INTEGER NOT NULL,    -- the client's clock when this was written\n"        \
	"  state    BLOB    NOT NULL,    -- what else the service needs to find it again\n"    \
	"  checksum INTEGER NOT NULL     -- of the row\n"                                      \
	");\n"                                                                                 \
	"CREATE TABLE leaf (\n"                                                                \
	"  -- Up to 512 pages, 2 MiB of address space. Forked clients share leaves.\n"         \
	"  id           INTEGER PRIMARY KEY,\n"                                                \
	"  clock        INTEGER NOT NULL,\n"                                                   \
	"  pages        INTEGER NOT NULL, -- how many of them are in the store\n"              \
	"  stored_bytes INTEGER NOT NULL, -- what these take there, without headers\n"         \
	"  entries      BLOB    NOT NULL, -- which blobs they are, packed (entries.h)\n"       \
	"  checksum     INTEGER NOT NULL  -- of the row\n"                                     \
	");\n"                                                                                 \
	"CREATE TABLE block (\n"                                                               \
	"  -- Which leaf describes which 2 MiB of a client.\n"                                 \
	"  client   INTEGER NOT NULL,\n"                                                       \
	"  block    INTEGER NOT NULL, -- address >> 21\n"                                      \
	"  leaf     INTEGER NOT NULL,\n"                                                       \
	"  checksum INTEGER NOT NULL, -- of the row\n"                                         \
	"  PRIMARY KEY (client, block)\n"                                                      \
	") WITHOUT ROWID;\n"                                                                   \
	"CREATE TABLE meta (\n"                                                                \
	"  -- What the index knows of itself. run: as in index.run, which says which "         \
	"segments\n"                                                                           \
	"  -- these are; commits: transactions so far; last_client, last_leaf: the highest\n"  \
	"  -- ids ever used.\n"                                                                \
	"  key      TEXT    PRIMARY KEY,\n"                                                    \
	"  value    INTEGER NOT NULL,\n"                                                       \
	"  checksum INTEGER NOT NULL  -- of the row\n"                                         \
	") WITHOUT ROWID;\n"

#define INDEX_SQL_VIEWS                                                                        \
	"CREATE VIEW clients AS\n"                                                             \
	"  -- A line per client: what of its memory is in the store.\n"                        \
	"  -- bytes: as the client sees them. stored_bytes: compressed, without headers;\n"    \
	"  -- what forked clients share is counted for each of them.\n"                        \
	"  SELECT client.id, client.pid, client.exe, client.policy,\n"                         \
	"         coalesce(sum(leaf.pages), 0) AS pages,\n"                                    \
	"         coalesce(sum(leaf.pages), 0) * 4096 AS bytes,\n"                             \
	"         coalesce(sum(leaf.stored_bytes), 0) AS stored_bytes\n"                       \
	"  FROM client\n"                                                                      \
	"  LEFT JOIN block ON block.client = client.id\n"                                      \
	"  LEFT JOIN leaf ON leaf.id = block.leaf\n"                                           \
	"  GROUP BY client.id;\n"                                                              \
	"CREATE VIEW pages_by_block AS\n"                                                      \
	"  -- A line per 2 MiB of a client's address space that has pages in the store.\n"     \
	"  -- address: where it begins. pages: of 512. stored_bytes: as in clients.\n"         \
	"  SELECT client.pid, client.exe,\n"                                                   \
	"         printf('0x%012llx', block.block << 21) AS address,\n"                        \
	"         leaf.pages, leaf.stored_bytes\n"                                             \
	"  FROM block\n"                                                                       \
	"  JOIN client ON client.id = block.client\n"                                          \
	"  JOIN leaf ON leaf.id = block.leaf\n"                                                \
	"  WHERE leaf.pages > 0\n"                                                             \
	"  ORDER BY block.client, block.block;\n"

/* From version 1, which had neither checksums nor client.state nor meta. */
#define INDEX_SQL_FROM_1                                                                       \
	"DROP VIEW IF EXISTS pages_by_block; DROP VIEW IF EXISTS clients;"                     \
	"ALTER TABLE client RENAME TO client_1;"                                               \
	"ALTER TABLE leaf RENAME TO leaf_1;"                                                   \
	"ALTER TABLE block RENAME TO block_1;" INDEX_SQL_TABLES                                \
	"INSERT INTO client SELECT id, parent, pid, exe, policy, clock, x'',"                  \
	"  row_checksum('client', id, parent, pid, exe, policy, clock, x'') FROM client_1;"    \
	"INSERT INTO leaf SELECT id, clock, pages, stored_bytes, entries,"                     \
	"  row_checksum('leaf', id, clock, pages, stored_bytes, entries) FROM leaf_1;"         \
	"INSERT INTO block SELECT client, block, leaf,"                                        \
	"  row_checksum('block', client, block, leaf) FROM block_1;"                           \
	"DROP TABLE client_1; DROP TABLE leaf_1; DROP TABLE block_1;" INDEX_SQL_VIEWS

/* X(version, text): what makes an index of this version one of the next, in the transaction in
 * which it is opened. A step stays as it is once its version was released: what it makes is
 * what the next one begins with. One that writes rows anew takes their checksums for what they
 * are: rows that don't fit theirs must not fit afterwards. (A test defines another list.) */
#ifndef INDEX_SQL_STEPS
#define INDEX_SQL_STEPS(X) X(1, INDEX_SQL_FROM_1)
#endif

/* The columns that reading a block's row takes. */
#define INDEX_SQL_BLOCK_COLUMNS                                                                \
	"SELECT client, block, leaf,"                                                          \
	" EXISTS (SELECT 1 FROM client WHERE id = block.client),"                              \
	" EXISTS (SELECT 1 FROM leaf WHERE id = block.leaf),"                                  \
	" row_checksum('block', client, block, leaf) = checksum FROM block "
#define INDEX_SQL_LEAF_COLUMNS                                                                 \
	"SELECT id, clock, pages, stored_bytes, entries,"                                      \
	" row_checksum('leaf', id, clock, pages, stored_bytes, entries) = checksum FROM leaf "

/* X(name, text): the statements, prepared once; parameters go by the order of their ?. */
#define INDEX_SQL_STATEMENTS(X)                                                                \
	/* IMMEDIATE: what would fail for another writer fails here, and not at the commit. */ \
	X(BEGIN, "BEGIN IMMEDIATE")                                                            \
	X(COMMIT, "COMMIT")                                                                    \
	X(ROLLBACK, "ROLLBACK")                                                                \
	X(CLIENT, "REPLACE INTO client VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7,"                    \
		  " row_checksum('client', ?1, ?2, ?3, ?4, ?5, ?6, ?7))")                      \
	/* Without its state, which stays as it is. */                                         \
	X(CLIENT_KEEP, "INSERT INTO client VALUES (?1, ?2, ?3, ?4, ?5, ?6, x'',"               \
		       " row_checksum('client', ?1, ?2, ?3, ?4, ?5, ?6, x''))"                 \
		       " ON CONFLICT (id) DO UPDATE SET parent = ?2, pid = ?3, exe = ?4,"      \
		       " policy = ?5, clock = ?6,"                                             \
		       " checksum = row_checksum('client', ?1, ?2, ?3, ?4, ?5, ?6, state)")    \
	X(CLIENT_DROP, "DELETE FROM client WHERE id = ?")                                      \
	X(CLIENT_BLOCKS_DROP, "DELETE FROM block WHERE client = ?")                            \
	X(LEAF, "REPLACE INTO leaf VALUES (?1, ?2, ?3, ?4, ?5,"                                \
		" row_checksum('leaf', ?1, ?2, ?3, ?4, ?5))")                                  \
	X(LEAF_DROP, "DELETE FROM leaf WHERE id = ?")                                          \
	X(BLOCK, "REPLACE INTO block VALUES (?1, ?2, ?3, row_checksum('block', ?1, ?2, ?3))")  \
	X(BLOCK_DROP, "DELETE FROM block WHERE client = ? AND block = ?")                      \
	X(META, "REPLACE INTO meta VALUES (?1, ?2, row_checksum('meta', ?1, ?2))")             \
	X(READ_META, "SELECT key, value, row_checksum('meta', key, value) = checksum"          \
		     " FROM meta WHERE key = ?")                                               \
	X(READ_CLIENTS, "SELECT id, parent, pid, exe, policy, clock, state,"                   \
			" row_checksum('client', id, parent, pid, exe, policy, clock, state)"  \
			" = checksum FROM client ORDER BY id")                                 \
	X(READ_LEAVES, INDEX_SQL_LEAF_COLUMNS "ORDER BY id")                                   \
	X(READ_LEAF, INDEX_SQL_LEAF_COLUMNS "WHERE id = ?")                                    \
	X(READ_BLOCKS, INDEX_SQL_BLOCK_COLUMNS "ORDER BY client, block")                       \
	X(READ_CLIENT_BLOCKS, INDEX_SQL_BLOCK_COLUMNS "WHERE client = ? ORDER BY block")       \
	X(FREE_PAGES, "PRAGMA freelist_count")                                                 \
	X(VACUUM, "PRAGMA incremental_vacuum(256)")                                            \
	X(CHECKPOINT, "PRAGMA wal_checkpoint(PASSIVE)")

#endif
