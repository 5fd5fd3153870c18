#!/bin/bash
# The guest program checks every byte of its own memory while it does all that a program can do to
# its address space. It ends well three ways: bare, with the shim but no service, and under a service
# that evicts without pause.
#
# GUEST_SECONDS (20), GUEST_THREADS (4), GUEST_MB (256), GUEST_CHILD_STEPS (300), GUEST_SEED (from the clock, and printed).
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

seed=${GUEST_SEED:-$((RANDOM * 32768 + RANDOM))}
echo "GUEST_SEED=$seed"
install -m 755 "$build/tests/guest/larder-guest" "$work/bin"
guest=("$work/bin/larder-guest" --threads "${GUEST_THREADS:-4}" --mb "${GUEST_MB:-256}" --seed "$seed")

# What the service counted for the guest: sets evicted and faults, fails when the guest has gone.
evicted=0 faults=0
counts() {
	local line
	line=$(json ".clients[] | select(.pid == $client_pid) | \"\(.pages_evicted) \(.faults)\"") &&
		read -r evicted faults <<<"$line"
}

(as_nobody "${guest[@]}" --seconds 2) || fail "bare: the guest ended with $?"
(as_nobody "$work/bin/larder" run -- "${guest[@]}" --seconds 2) ||
	fail "without a service: the guest ended with $?"

larderd_start "$everyone"
client_start "${guest[@]}" --seconds "${GUEST_SECONDS:-20}" --child-steps "${GUEST_CHILD_STEPS:-300}"
client_wait
evictions=0 moved=0
while counts; do
	# An order may fail only because the guest ends.
	larder evict "$client_pid" >"$work/evict.out" 2>&1 || wait_for gone "$client_pid" || fail 'evict failed'
	evictions=$((evictions + 1))
	# Its children have agents of their own, and may end at any moment.
	for child in $(json '.clients[] | select(.parent > 0 and .agent_pid > 0) | .pid'); do
		larder evict --json "$child" >"$work/evict-child.out" 2>&1 || continue
		moved=$((moved + $(jq .moved_pages "$work/evict-child.out")))
	done
done
wait_for gone "$client_pid" || fail 'the service forgot a guest that still runs'
wait "$client_pid" || fail "under the service: the guest ended with $?"
echo "$evictions evictions, $evicted pages out, $moved of children, $faults faults"
[ "$evicted" -gt 0 ] || fail 'nothing was evicted'
[ "$faults" -gt 0 ] || fail 'nothing came back'
[ "$(json .service.corrupt_pages)" -eq 0 ] || fail 'damaged pages'
larderd_stop
