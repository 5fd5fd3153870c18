#!/bin/bash
# The index can be read with sqlite3 while the service runs, and its views say what the status says.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need sqlite3 python3

index() { sqlite3 -readonly "$LARDER_RUNTIME_DIR/store/index.db" "$1"; }

# Pages of the client in each of the two views, as bytes, and as the status has it.
agrees() {
	evicted=$(client evicted_bytes)
	in_clients=$(index "SELECT pages * 4096 FROM clients WHERE pid = $client_pid")
	in_blocks=$(index "SELECT sum(pages) * 4096 FROM pages_by_block WHERE pid = $client_pid")
	[ "$in_clients" = "$evicted" ] && [ "$in_blocks" = "$evicted" ]
}

empty() { [ "$(index "SELECT sum(pages) FROM clients WHERE pid = $client_pid")" = 0 ]; }

# 64 MiB of numbers, and then nothing that would fault them back.
larderd_start "$everyone"
client_start /usr/bin/python3 -c '
import signal
keep = b"".join(b"%08d" % i for i in range(8 << 20))
print("ready", flush=True)
signal.pause()'
client_wait
wait_for grep -q ready "$work/client.out" || fail 'python3 is not ready'
evict_fully
wait_for agrees || fail "status $evicted, view clients $in_clients, view pages_by_block $in_blocks"
[ "$evicted" -ge $((60 << 20)) ] || fail "only $evicted bytes out"
echo "$evicted bytes in both views"

exe=$(index "SELECT exe FROM clients WHERE pid = $client_pid")
[ "$exe" = "$(readlink "/proc/$client_pid/exe")" ] || fail "the index says $exe"
stored=$(index "SELECT stored_bytes FROM clients WHERE pid = $client_pid")
[ "$stored" -gt 0 ] || fail 'the index says that nothing is stored'
[ "$stored" -lt "$evicted" ] || fail "the index says that $stored bytes hold it"
index 'SELECT address, pages FROM pages_by_block LIMIT 1' | grep -Eq '^0x[0-9a-f]{12}\|[0-9]+$' ||
	fail 'no address in pages_by_block'
[ "$(index 'PRAGMA integrity_check')" = ok ] || fail 'the index is damaged'

# Somebody writes to it while a program ends, whose rows should go: said once, and not in a loop.
first=$client_pid
client_start /usr/bin/python3 -c '
import signal
keep = b"".join(b"%08d" % i for i in range(1 << 20))
print("another", flush=True)
signal.pause()'
client_wait
wait_for grep -q another "$work/client.out" || fail 'the other python3 is not ready'
evict_fully
has_rows() { ! empty; }
wait_for has_rows || fail 'no row of the other python3'
said() { grep -F "$LARDER_RUNTIME_DIR/store/index.db: $1" "$work/larderd.log"; }
mkfifo "$work/go"
python3 -c '
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("writing", flush=True)
open(sys.argv[2]).read()' "$LARDER_RUNTIME_DIR/store/index.db" "$work/go" >"$work/writer.out" &
writer=$!
started+=("$writer")
wait_for grep -q writing "$work/writer.out" || fail 'no writer'
stop "$client_pid" || true
client_pid=$first
wait_for said 'Device or resource busy: somebody writes to it; tried again every second' ||
	fail 'the log does not say that somebody writes to the index'
wait_for in_trouble index || fail "no trouble: $(larder status)"
: >"$work/go"
wait "$writer" || fail "the writer ended with $?"
wait_for said 'written again' || fail 'the index is not written again'
wait_for no_trouble || fail "trouble though it is written again: $(larder status)"
[ "$(wc -l <"$work/larderd.log")" -lt 30 ] || fail 'the log is full of it'
agrees || fail "status $evicted, view clients $in_clients, view pages_by_block $in_blocks"

larder release "$client_pid"
wait_for empty || fail 'pages in the index after release'
larderd_stop
