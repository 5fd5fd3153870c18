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

larder release "$client_pid"
wait_for empty || fail 'pages in the index after release'
larderd_stop
