#!/bin/bash
# The keeper is killed, and so is its worker, in the middle of giving everything back; or both while the
# service ends by order. The next larderd goes on with what is still out, and doesn't end.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=tests/e2e/sums_lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/sums_lib.sh"
# shellcheck source=tests/e2e/both_lib.sh
. "$source_dir/tests/e2e/both_lib.sh"
need python3 unshare

# The service sees a /proc/meminfo of ours in a mount namespace of its own, which goes with it; not so the
# store.
install -d -m 755 "$LARDER_RUNTIME_DIR"
install -d -m 700 "$LARDER_RUNTIME_DIR/store"
mount -t tmpfs -o mode=0700,huge=never,noswap,size=1g larder "$LARDER_RUNTIME_DIR/store" || fail 'no tmpfs'
memory_is 3000
larderd_start "$everyone"
sums_start
waits_for_room() { in_trouble no-room || grep -q 'waiting for room' "$work/larderd.log"; }
right=$(ask before)

for way in keeper order; do
	evict_fully
	[ "$(client evicted_bytes)" -gt $((30 << 20)) ] || fail "only $(client evicted_bytes) bytes out"
	memory_is 10 # as little as must stay free: nothing fits
	: >"$work/larderd.log"
	read -ra workers <"/proc/$service/task/$service/children" || true
	if [ $way = keeper ]; then
		kill -9 "$service"
	else
		kill "$service"
	fi
	wait_for waits_for_room || fail "by $way: it doesn't wait for room"
	[ $way = keeper ] || kill -9 "$service"
	kill -9 "${workers[@]}"
	wait "$service" 2>/dev/null || true
	for pid in "${workers[@]}"; do
		wait_for gone "$pid" || fail 'the worker lives'
	done
	memory_is 3000
	larderd_start "$everyone"
	[ "$(client evicted_bytes)" -gt $((30 << 20)) ] || fail "by $way: only $(client evicted_bytes) bytes are out still"
	[ "$(json .service.stopping)" -eq 0 ] || fail "by $way: it goes on ending"
	[ "$(ask "$way")" = "$right" ] || fail "by $way: not the same bytes"
done
evict_fully
code=0
stop "$service" || code=$?
service=''
[ "$code" -eq 0 ] || fail "larderd ended with $code"
[ "$(ask alone)" = "$right" ] || fail 'not the same bytes in the end'
mountpoint -q "$LARDER_RUNTIME_DIR/store" || fail 'it unmounted what it had not mounted'
! grep -q . < <(find "$LARDER_RUNTIME_DIR/store" -mindepth 1) || fail 'it left files in the store'
