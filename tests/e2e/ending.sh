#!/bin/bash
# SIGTERM of the service: every page goes back first, also those of children that are forked
# meanwhile, and afterwards the program runs as if there had never been a service.
#
# ENDING_MB (200).
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

install -m 755 "$build/tests/e2e/ending" "$work/bin"
mkfifo -m 666 "$work/home/in"

larderd_start "$everyone"
(cd "$work/home" && as_nobody "$work/bin/larder" run -- "$work/bin/ending" "${ENDING_MB:-200}") \
	>"$work/client.out" 2>&1 <>"$work/home/in" &
client_pid=$!
started+=("$client_pid")
wait_for grep -q ready "$work/client.out" || fail 'the program never got ready'
client_wait
larder evict "$client_pid" >"$work/evict.out"
[ "$(client pages_evicted)" -gt 0 ] || fail 'nothing was evicted'

forks() { [ "$(client events_fork)" -gt 2 ]; }
printf f >"$work/home/in"
wait_for forks || fail 'no fork was seen'
larderd_stop
! gone "$client_pid" || fail "the program ended: $(tail -n 5 "$work/client.out")"
printf g >"$work/home/in"
wait_for gone "$client_pid" || fail 'the program hangs without its service'
code=0
wait "$client_pid" || code=$?
[ "$code" -eq 0 ] || fail "the program ended with $code: $(tail -n 5 "$work/client.out")"
