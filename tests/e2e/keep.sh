#!/bin/bash
# The service ends without giving back, by SIGTERM to a larderd --keep and by larder stop --keep: programs
# wait, and the next larderd has every page of theirs. Children without an agent, of a program that forks
# all the time, get theirs back before: none of them ever reads a byte that it shouldn't. A service that
# nobody waits for leaves nothing.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=tests/e2e/sums_lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/sums_lib.sh"
need python3

# keeper_start: a larderd --keep.
keeper_start() {
	printf '%s\n' "$everyone" >"$work/larder.conf"
	"$build/svc/larderd" --keep --config "$work/larder.conf" --runtime-dir "$LARDER_RUNTIME_DIR" \
		2>>"$work/larderd.log" </dev/null &
	service=$!
	wait_for larderd_answers || fail "larderd doesn't answer"
}
ended() { # CODE of what ends it is well
	local code=0
	wait_for gone "$service" || fail 'larderd does not end'
	wait "$service" || code=$?
	[ "$code" -eq 0 ] || fail "larderd ended with $code"
	service=''
}

# ---- nobody waits: as ever ----
keeper_start
kill "$service"
ended
! mountpoint -q "$LARDER_RUNTIME_DIR/store" || fail 'a store is left, and nobody waits for it'

# ---- a program ----
keeper_start
sums_start
python=$client_pid
right=$(ask before)
stop_by_signal() { kill "$service"; }
stop_by_order() { larder stop --keep; }
for way in signal order; do
	evict_fully
	evicted=$(client evicted_bytes)
	[ "$evicted" -gt $((30 << 20)) ] || fail "only $evicted bytes out"
	"stop_by_$way"
	ended
	[ "$(smaps Rss)" -lt $((30 << 20)) ] || fail "by $way: it was given back"
	echo "$way" >&"$to"
	sleep 0.2
	! grep -q "^$way " "$work/client.out" || fail "by $way: answered by nobody"
	keeper_start
	wait_for grep -q "^$way $right$" "$work/client.out" || fail "by $way: not the same bytes"
done
grep -q 'larderd: 1 programs keep 46 MiB out' "$work/larderd.log" || fail 'the log does not say what is kept'

# ---- one that forks all the time: its children compare, and are gone before an agent comes ----
mv "$work/client.out" "$work/python.out"
client_start /usr/bin/python3 -c '
import os, time
data = [bytes([i % 251]) * 4096 for i in range(4096)]
def right():
    return all(d[0] == i % 251 and d == bytes([i % 251]) * 4096 for i, d in enumerate(data))
print("ready", flush=True)
end = time.monotonic() + 3600
while time.monotonic() < end:
    child = os.fork()
    if child == 0:
        os._exit(0 if right() else 1)
    status = os.waitpid(child, 0)[1]
    print("wrong %d" % status if status else "good", flush=True)'
client_wait
wait_for grep -q ready "$work/client.out" || fail 'python3 is not ready'
goods() { [ "$(grep -c good "$work/client.out")" -gt "$1" ]; }
for _ in 1 2 3 4 5 6; do
	larder evict "$client_pid" >/dev/null || true
	larder stop --keep
	ended
	before=$(grep -c good "$work/client.out")
	keeper_start
	wait_for goods $((before + 2)) || fail 'it hangs'
	! grep wrong "$work/client.out" || fail 'a child read what it should not'
done

# ---- by order, all is given back all the same ----
stop "$client_pid" || true
client_pid=$python
mv "$work/python.out" "$work/client.out"
evict_fully
larder stop
ended
! mountpoint -q "$LARDER_RUNTIME_DIR/store" || fail 'the store is left'
[ "$(ask alone)" = "$right" ] || fail 'not the same bytes afterwards'
