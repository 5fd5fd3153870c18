#!/bin/bash
# A page leaves the program's memory only when its row is committed (DESIGN rule 9). The service is made
# slow between these steps, and whoever looks sees them in their order: rows, then less memory.
# When rows can't be committed, nothing leaves.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need python3 sqlite3

bytes=$((8 << 20))
index() { sqlite3 -readonly "$LARDER_RUNTIME_DIR/store/index.db" "$1"; }
in_index() { index "SELECT coalesce(sum(pages), 0) * 4096 FROM pages_by_block WHERE pid = $client_pid"; }

LARDER_POINTS=hold=300000,commit=300000,zap=300000 larderd_start "$everyone"
client_start /usr/bin/python3 -c '
import signal
keep = b"".join(b"%08d" % i for i in range(1 << 20))
print("ready", flush=True)
signal.pause()'
client_wait
wait_for grep -q ready "$work/client.out" || fail 'python3 is not ready'
before=$(smaps Anonymous)

larder evict --json "$client_pid" >"$work/evict.out" &
evict=$!
looks=0
# Memory first: a row that is written in between is no fault. What the program lost otherwise is little.
until gone "$evict"; do
	lost=$((before - $(smaps Anonymous)))
	rows=$(in_index)
	[ "$lost" -le $((rows + (1 << 19))) ] || fail "$lost bytes have left, and $rows are in the index"
	looks=$((looks + 1))
done
wait "$evict" || fail "evict ended with $?"
evicted=$(client evicted_bytes)
[ "$evicted" -ge "$bytes" ] || fail "not out: $(cat "$work/evict.out")"
[ "$((before - $(smaps Anonymous)))" -ge $((bytes - (1 << 19))) ] || fail 'its memory is no less'
[ "$looks" -ge 10 ] || fail "only $looks looks"

# Somebody writes to the index: no commit, so nothing leaves, and what is out stays served.
larder release "$client_pid" >/dev/null
before=$(smaps Anonymous)
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
larder evict --json "$client_pid" >"$work/evict.out" || true
near 'memory with an index that takes no rows, before and after' "$before" "$(smaps Anonymous)" $((1 << 19))
[ "$(client evicted_bytes)" -eq 0 ] || fail "$(client evicted_bytes) bytes are out without a row"
grep -q 'somebody writes to the index' "$work/evict.out" || fail "evict says: $(cat "$work/evict.out")"
: >"$work/go"
wait "$writer" || fail "the writer ended with $?"
larderd_stop
