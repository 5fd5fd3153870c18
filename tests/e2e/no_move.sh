#!/bin/bash
# A kernel without UFFDIO_MOVE, or with one that doesn't work: larderd says so and what helps, programs
# run, and nothing is evicted.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

printf '%s\n' "$everyone" >"$work/larder.conf"

# start_without CALL MESSAGE: larderd as on such a kernel.
start_without() {
	: >"$work/larderd.log"
	"$build/tests/e2e/without" "$1" "$build/svc/larderd" --config "$work/larder.conf" \
		--runtime-dir "$LARDER_RUNTIME_DIR" 2>>"$work/larderd.log" </dev/null &
	service=$!
	wait_for larderd_answers || fail "larderd doesn't answer"
	! gone "$service" || fail 'larderd ended'
	grep -qF "nothing will be evicted: $2" "$work/larderd.log" || fail "it said: $(cat "$work/larderd.log")"
}

nothing_is_evicted() { # MESSAGE
	client_start sleep 1000
	client_wait
	larder evict "$client_pid" >"$work/evict.out" || fail "larder evict ended with $?"
	grep -qF "$1" "$work/evict.out" || fail "larder evict said: $(cat "$work/evict.out")"
	[ "$(client evicted_bytes)" -eq 0 ] || fail 'something was evicted'
	stop "$client_pid" || true
}

no_api='this kernel has no UFFDIO_MOVE: 6.12 or later is needed (Debian 12: package linux-image-6.12-amd64)'
no_move="UFFDIO_MOVE is there but doesn't move a page on this kernel"
# No client there: its userfaultfd has no such feature either.
start_without api "$no_api"
[ "$(larder run -- echo runs)" = runs ] || fail 'a program did not run'
larderd_stop
start_without move "$no_move"
nothing_is_evicted "$no_move"
larderd_stop
