#!/bin/bash
# The guest program checks every byte of its own memory while it does all that a program can do to
# its address space. It ends well three ways: bare, with the shim but no service, and under a service
# that evicts without pause. For hours instead of seconds: tests/guest/long.
#
# GUEST_SECONDS (20), GUEST_THREADS (4), GUEST_MB (256), GUEST_CHILD_STEPS (300), GUEST_SEED (from the
# clock, and printed), GUEST_ALSO (operations that aren't done unless asked for).
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=tests/guest/service.sh
. "$source_dir/tests/guest/service.sh"
need python3

seed=${GUEST_SEED:-$((RANDOM * 32768 + RANDOM))}
seconds=${GUEST_SECONDS:-20}
echo "GUEST_SEED=$seed"
guest=(--threads "${GUEST_THREADS:-4}" --mb "${GUEST_MB:-256}" --seed "$seed" --also "${GUEST_ALSO:-}")

(as_nobody "$work/bin/larder-guest" "${guest[@]}" --seconds 2) || fail "bare: the guest ended with $?"
(as_nobody "$work/bin/larder" run -- "$work/bin/larder-guest" "${guest[@]}" --seconds 2) ||
	fail "without a service: the guest ended with $?"

run() { # SECONDS OPTION...
	guest_run $(($1 + 120)) "${guest[@]}" --seconds "$@" || fail "under the service: the guest ended with $?"
	cat "$work/evictor.out"
	grep 'pages verified$' "$work/client.out"
	[ "$guest_evicted" -gt 0 ] || fail 'nothing was evicted'
	[ "$guest_faults" -gt 0 ] || fail 'nothing came back'
}

run "$seconds" --child-steps "${GUEST_CHILD_STEPS:-300}"
# After a fork or a discard few pages can be evicted; without those, most leave at once, again and again.
calm=read,write,poke,mmap,munmap,mapover,grow,shrink,move,moveover,movepart,resize,dontunmap,movemany
calm+=,unmapmany,advice,protect,guard,mlock,populate,malloc,realloc,release,spawn,vfork
run $((seconds / 2)) --ops $calm
