#!/bin/bash
# A store that is full, by its limit or by what others put into its tmpfs: an eviction takes what fits,
# says why it stopped, and no byte is lost. With room again it goes on.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need python3

larderd_start "$everyone"$'\n[store]\nmemory-limit = 24M\nowner-limit = 100%'

# 48 MiB that don't pack. Each USR1: are they all the same?
client_start /usr/bin/python3 -c '
import hashlib, os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
keep = os.urandom(48 << 20)
want = hashlib.sha1(keep).digest()
print("ready", flush=True)
while signal.sigwait({signal.SIGUSR1}):
    print("same" if hashlib.sha1(keep).digest() == want else "DIFFERENT", flush=True)'
client_wait
wait_for grep -q ready "$work/client.out" || fail 'python3 is not ready'

answers=0
answered() { [ "$(grep -cE 'same|DIFFERENT' "$work/client.out")" -eq "$answers" ]; }
all_the_same() {
	answers=$((answers + 1))
	kill -USR1 "$client_pid"
	wait_for answered || fail 'python3 does not answer'
	! grep -q DIFFERENT "$work/client.out" || fail 'python3 read other bytes'
}

# evict_until_full MEGABYTES: takes at least that, and then says why no more. What was given back before
# makes room once it is compacted.
evict_until_full() {
	wait_for is_full_with "$1" || fail "$(client evicted_bytes) bytes out, and: $(jq .why "$work/evict.out")"
}

is_full_with() {
	larder evict --json "$client_pid" >"$work/evict.out" &&
		jq -e '.why | startswith("the store is full: memory-limit in [store]")' \
			"$work/evict.out" && [ "$(client evicted_bytes)" -ge $(($1 << 20)) ]
}

no_trouble || fail 'trouble before it is full'
evict_until_full 10
wait_for in_trouble store-full || fail "full, and no trouble: $(larder status)"
larder status | grep -q '^TROUBLE   store-full for ' || fail 'larder status does not say that it is full'
[ "$(client evicted_bytes)" -le $((24 << 20)) ] || fail "$(client evicted_bytes) bytes out, above the limit"
all_the_same

# What was given back is free again by itself.
no_overhead() { [ "$(json .service.overhead_bytes)" -lt $((4 << 20)) ]; }
larder release "$client_pid" >/dev/null
wait_for no_overhead || fail "after release: overhead $(json .service.overhead_bytes)"
wait_for no_trouble || fail "with room again: $(larder status)"
evict_until_full 10
all_the_same

larder release "$client_pid" >/dev/null
ballast=$LARDER_RUNTIME_DIR/store/ballast
! head -c 24M /dev/zero >"$ballast" 2>"$work/head.out" || fail 'the tmpfs has room for 24 MiB more'
evict_until_full 0
wait_for in_trouble store-full || fail "its tmpfs is full, and no trouble: $(larder status)"
all_the_same
rm "$ballast"
wait_for no_trouble || fail "without the ballast: $(larder status)"
evict_until_full 10
all_the_same
[ "$(json .service.corrupt_pages)" -eq 0 ] || fail 'corrupt pages'
larderd_stop
