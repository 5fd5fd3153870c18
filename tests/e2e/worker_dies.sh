#!/bin/bash
# A worker that dies is followed by another, which has every page of every program, knows what was
# released, and serves who waits. When the keeper dies, the worker gives everything back.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=tests/e2e/sums_lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/sums_lib.sh"
need python3

worker() { json .service.pid; }
kill_worker() {
	old=$(worker)
	kill -9 "$old"
	another() { [ "$(worker)" != "$old" ]; }
	wait_for another || fail 'no other worker answers'
}

larderd_start "$everyone"
sums_start
right=$(ask before)
evict_fully
evicted=$(client evicted_bytes)
[ "$evicted" -gt $((30 << 20)) ] || fail "only $evicted bytes out"

for i in 1 2 3; do
	kill_worker
	now=$(client evicted_bytes)
	difference=$((now - evicted))
	[ "${difference#-}" -lt $((1 << 20)) ] || fail "worker $i: $now bytes out instead of $evicted"
done
[ "$(ask after)" = "$right" ] || fail 'not the same bytes'
[ "$(json .service.corrupt_pages)" -eq 0 ] || fail 'damaged pages'

# It waits in a fault while there is no worker: stopped, this one answers nobody, and then it dies.
evict_fully
old=$(worker)
kill -STOP "$old"
echo waiting >&"$to"
sleep 0.3
! grep -q '^waiting ' "$work/client.out" || fail 'answered by nobody'
kill -9 "$old"
wait_for grep -q "^waiting $right" "$work/client.out" || fail 'not served by the next worker'

# What was released stays so.
larder release "$client_pid" >/dev/null
[ "$(client state)" = released ] || fail 'not released'
kill_worker
[ "$(client state)" = released ] || fail "the next worker says $(client state)"
larder evict "$client_pid" >/dev/null
[ "$(client state)" = managed ] || fail 'not managed again'
kill_worker
[ "$(client state)" = managed ] || fail "the next worker says $(client state)"

# The keeper.
evict_fully
old=$(worker)
kill -9 "$service"
wait_for gone "$old" || fail 'the worker stays without a keeper'
service=''
grep -q 'every page is given back' "$work/larderd.log" || fail 'it did not give everything back'
[ "$(ask alone)" = "$right" ] || fail 'not the same bytes afterwards'
umount "$LARDER_RUNTIME_DIR/store"
