#!/bin/bash
# A program forks in one thread while others move evicted memory: every child has all of it, at the
# place where it was when it was forked. With delays in the service, so that events and forks meet.
#
# MOVER_SECONDS (15), MOVER_POINTS (delays; see svc/points.h).
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

install -m 755 "$build/tests/e2e/mover" "$work/bin"
export LARDER_POINTS=${MOVER_POINTS-read=300:20,fork=500:2,birth=300:3,settle=300:3}
larderd_start "$everyone"
unset LARDER_POINTS
client_start "$work/bin/mover" "${MOVER_SECONDS:-15}" 6 3
client_wait
wait_for grep -q ready "$work/client.out" || fail 'the program is not ready'
evict_fully
evicted=$(client pages_evicted)
touch "$work/home/go"
while larder evict "$client_pid" >"$work/evict.out" 2>&1; do
	now=$(json ".clients[] | select(.pid == $client_pid) | .pages_evicted") || break
	evicted=${now:-$evicted}
done
wait_for gone "$client_pid" || fail "the service forgot a program that still runs: $(cat "$work/evict.out")"
wait "$client_pid" || fail "exit code $?: $(cat "$work/client.out" "$work/client.err" 2>/dev/null)"
cat "$work/client.out"
echo "$evicted pages evicted, $(json .service.faults) faults"
[ "$evicted" -gt 0 ] || fail 'nothing was evicted'
[ "$(json .service.corrupt_pages)" -eq 0 ] || fail 'damaged pages'
! grep "can't be told" "$work/larderd.log" || fail 'a child waits for ever'
larderd_stop
