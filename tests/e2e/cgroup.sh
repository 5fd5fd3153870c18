#!/bin/bash
# A program at the limit of its memory cgroup. Its pages can't come back for want of room there: it
# waits, and nobody else does. When there is room again it goes on, with every byte as it was.
# Pages that could not be stored wait in the same way, and nothing more is taken from it.
#
# The kernel is told not to kill it for its limit, as that would end the test early.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
install -m 755 "$build/tests/e2e/holder" "$work/bin"

# ---- its cgroup, of version 1 or 2 ----

group=larder-test-$$
if [ -d /sys/fs/cgroup/memory ]; then
	dir=/sys/fs/cgroup/memory/$group
	limit=memory.limit_in_bytes usage=memory.usage_in_bytes none=-1
else
	dir=/sys/fs/cgroup/$group
	limit=memory.max usage=memory.current none=max
fi
mkdir "$dir" 2>/dev/null || skip 'no memory cgroup can be made here'
at_exit+=("rmdir '$dir'")
[ -f "$dir/$limit" ] || skip 'cgroups have no memory controller here'
[ ! -f "$dir/memory.oom_control" ] || echo 1 >"$dir/memory.oom_control"

no_room() { # PID: what it has now, and no page more
	cat "$dir/$usage" >"$dir/$limit"
}
room() { echo "$none" >"$dir/$limit"; }

holder_start() { # MB
	local in=$work/home/in-$1
	mkfifo -m 666 "$in"
	(cd "$work/home" && echo "$BASHPID" >"$dir/cgroup.procs" &&
		if [ "$none" = max ]; then echo -1000 >"/proc/$BASHPID/oom_score_adj"; fi &&
		as_nobody "$work/bin/larder" run -- "$work/bin/holder" "$1") \
		>"$work/client.out" 2>&1 <>"$in" &
	client_pid=$!
	started+=("$client_pid")
	wait_for grep -q ready "$work/client.out" || fail 'holder never got ready'
	client_wait
}

holder_stop() {
	room
	kill -9 "$client_pid"
	wait "$client_pid" 2>/dev/null || true
}
answers() { [ "$(grep -cx -e good -e bad "$work/client.out")" -ge "$1" ]; }
starves() { [ "$(client waiting_faults)" -gt 0 ] && [ "$(client state)" = managed ]; }

# ---- another, which has all the room it wants ----

mkfifo -m 666 "$work/home/in"
larderd_start "$everyone"$'\n[store]\nmemory-limit = 24M\nowner-limit = 100%'
(cd "$work/home" && as_nobody "$work/bin/larder" run -- "$work/bin/holder" 4) \
	>"$work/other.out" 2>&1 <>"$work/home/in" &
other=$!
started+=("$other")
other_answers() { [ "$(grep -c . "$work/other.out")" -gt "$1" ]; }
other_is_well() {
	local lines
	lines=$(grep -c . "$work/other.out")
	printf r >"$work/home/in"
	wait_for other_answers "$lines" || fail "$1: another program hangs"
	[ "$(tail -n 1 "$work/other.out")" = good ] || fail "$1: another's memory is damaged"
}
wait_for grep -q ready "$work/other.out" || fail 'the other holder never got ready'

# ---- pages that can't come back ----

holder_start 16
wait_for client pages_evicted "$other" || fail 'the other program was not taken over'
evict_fully
no_room
printf r >"$work/home/in-16"
wait_for starves || fail "it doesn't starve: $(larder status "$client_pid")"
waits_long() { [ "$(client oldest_fault_ms)" -gt 500 ] && [ "$(json .service.oldest_fault_ms)" -gt 500 ]; }
wait_for waits_long || fail "its oldest fault waits for $(client oldest_fault_ms) ms"
larder evict "$other" >"$work/evict.out" 2>&1 || fail "evict of another: $(cat "$work/evict.out")"
other_is_well 'beside one that starves'
room
wait_for answers 1 || fail 'it hangs though there is room'
[ "$(tail -n 1 "$work/client.out")" = good ] || fail 'wrong bytes after it had starved'
no_fault_waits() { [ "$(json .service.oldest_fault_ms)" -eq 0 ]; }
wait_for no_fault_waits || fail "a fault waits still, for $(json .service.oldest_fault_ms) ms"
holder_stop

# ---- pages that find no place in the store either ----

holder_start 48
larder release "$other" >/dev/null
no_room
larder evict "$client_pid" >"$work/evict.out" 2>&1 || fail "evict: $(cat "$work/evict.out")"
grep -q 'wait to be given back\|is full' "$work/evict.out" ||
	fail "evict doesn't say what is wrong: $(cat "$work/evict.out")"
other_is_well 'beside one whose pages wait'
cp "$work/evict.out" "$work/evict-full.out"
room
larder release "$client_pid" >"$work/release.out" 2>&1 || fail "release: $(cat "$work/release.out")"
printf r >"$work/home/in-48"
wait_for answers 1 || fail 'it hangs after its release'
[ "$(tail -n 1 "$work/client.out")" = good ] || fail 'wrong bytes after its pages had waited'
larder evict "$client_pid" >"$work/evict.out" 2>&1 || fail "evict again: $(cat "$work/evict.out")"
[ "$(client evicted_bytes)" -gt 0 ] || fail "nothing is taken any more: $(cat "$work/evict.out")"
! grep -q 'wait to be given back' "$work/evict.out" || fail 'they wait though there is room'
holder_stop
larderd_stop
