#!/bin/bash
# Clients that mean harm: whatever they send, pass, leave out or scribble, the service lives, forgets
# them when they end, and other programs are taken over, evicted, served and answered as ever.
#
# hostile.sh [CASE...] runs these cases (all). HOSTILE_SEED (from the clock, and printed).
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need python3

# A service that hangs must not hang us.
larder() { timeout 30 "$work/bin/larder" "$@"; }

seed=${HOSTILE_SEED:-$((RANDOM * 32768 + RANDOM))}
echo "HOSTILE_SEED=$seed"
install -m 755 "$build/tests/e2e/hostile" "$work/bin"

# ---- a well-behaved program ----

# Holds so many MB and, at each SIGUSR1, has the service give a page back (mlock), reads all it has,
# forks a child that does the same, and says whether it was all right.
# shellcheck disable=SC2016 # not for the shell
program='
import array, ctypes, mmap, os, signal, sys, zlib
libc = ctypes.CDLL(None, use_errno=True)
data = bytearray(array.array("Q", range(int(sys.argv[1]) << 17)))
page = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
page.write(b"p" * len(page))
lock = ctypes.addressof(ctypes.c_char.from_buffer(page))
want = zlib.crc32(data), zlib.crc32(page)
def good():
    return (zlib.crc32(data), zlib.crc32(page)) == want
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
print("ready", flush=True)
while True:
    signal.sigwait([signal.SIGUSR1])
    libc.mlock(ctypes.c_void_p(lock), 4096)
    libc.munlock(ctypes.c_void_p(lock), 4096)
    child = os.fork()
    if child == 0:
        os._exit(0 if good() else 1)
    fine = good() and os.waitpid(child, 0)[1] == 0
    print("good" if fine else "bad", flush=True)'

# neighbour_start MB: the new client_pid, taken over and with its data in place. Its output is kept
# apart from that of others.
neighbour_start() {
	(cd "$work/home" && as_nobody "$work/bin/larder" run -- /usr/bin/python3 -c "$program" "$1") \
		</dev/null >"$work/neighbour.out" 2>&1 &
	client_pid=$!
	started+=("$client_pid")
	wait_for grep -q ready "$work/neighbour.out" || fail "$case: python3 is not ready"
	mv "$work/neighbour.out" "$work/neighbour-$client_pid.out"
	wait_for client_managed_or_gone || fail "$case: a neighbour was not taken over"
	! gone "$client_pid" || fail "$case: a neighbour ended"
}

answers() { [ "$(grep -c . "$work/neighbour-$1.out")" -gt "$2" ]; }

# neighbour_check PID: it can be evicted, and then still has all that it had.
neighbour_check() {
	local out=$work/neighbour-$1.out lines
	client_pid=$1
	timeout 120 "$work/bin/larder" evict "$1" >"$work/evict.out" 2>&1 ||
		fail "$case: a neighbour's evict: $(cat "$work/evict.out")"
	[ "$(client pages_evicted)" -gt 0 ] || fail "$case: nothing of a neighbour was evicted"
	lines=$(grep -c . "$out")
	kill -USR1 "$1"
	wait_for answers "$1" "$lines" || fail "$case: a neighbour hangs"
	[ "$(tail -n 1 "$out")" = good ] || fail "$case: a neighbour's memory is damaged"
}

neighbour_stop() {
	kill -9 "$1"
	wait "$1" 2>/dev/null || true
}

# ---- cases ----

descriptors() { find "/proc/$service/fd" -mindepth 1 -printf . | wc -c; }

# All that the case brought is gone again.
as_before() {
	[ "$(json '.clients | length')" -eq 1 ] && [ "$(descriptors)" -le "$base" ]
}

hostile_pid=''
hostile_start() {
	(
		[ "$1" != borrowed_number ] || exec "$work/bin/hostile" "$1" "$seed" # root chooses numbers
		as_nobody "$work/bin/hostile" "$1" "$seed"
	) >"$work/hostile.out" 2>&1 </dev/null &
	hostile_pid=$!
	started+=("$hostile_pid")
}

hostile_ready() { gone "$hostile_pid" || grep -q ready "$work/hostile.out"; }

hostile_stop() {
	kill -9 "$hostile_pid" 2>/dev/null || true
	wait "$hostile_pid" 2>/dev/null || true
}

case_end() {
	! gone "$service" || fail "$case: larderd is dead"
	wait_for as_before || fail "$case: $(descriptors) descriptors, before $base; clients: $(
		larder status)"
	neighbour_check "$first"
	[ "$(json .service.corrupt_pages)" -eq 0 ] || fail "$case: damaged pages"
	echo "$case: $SECONDS s"
}

# The helper finds out itself whether it is turned away, and ends.
turned_away() {
	hostile_start "$case"
	wait "$hostile_pid" || fail "$case: $(cat "$work/hostile.out")"
	case_end
}

# It stays; meanwhile others come, are evicted, served and answered.
endured() {
	hostile_start "$case"
	WAIT=120 wait_for hostile_ready || fail "$case: not ready: $(cat "$work/hostile.out")"
	! gone "$hostile_pid" || fail "$case: it ended: $(cat "$work/hostile.out")"
	[ -z "${1:-}" ] || "$1"
	neighbour_check "$first"
	neighbour_start 4
	neighbour_check "$client_pid"
	neighbour_stop "$client_pid"
	! gone "$hostile_pid" || fail "$case: it ended: $(cat "$work/hostile.out")"
	hostile_stop
	case_end
}

# It is evicted while it misbehaves: that ends, with numbers or words, and in between a neighbour is
# served.
evicted() {
	local evict lines out=$work/neighbour-$first.out
	client_pid=$hostile_pid
	wait_for client_managed || fail "$case: not attached"
	timeout 120 "$work/bin/larder" evict "$hostile_pid" >"$work/hostile-evict.out" 2>&1 &
	evict=$!
	lines=$(grep -c . "$out")
	kill -USR1 "$first"
	wait_for answers "$first" "$lines" || fail "$case: a neighbour hangs meanwhile"
	wait "$evict" || fail "$case: evict ended with $?: $(cat "$work/hostile-evict.out")"
	grep -q . "$work/hostile-evict.out" || fail "$case: evict says nothing"
}

evicted_unanswered() {
	evicted
	grep -q "agent doesn't answer" "$work/hostile-evict.out" ||
		fail "$case: evict says: $(cat "$work/hostile-evict.out")"
}

dies_at_order() {
	hostile_start "$case"
	wait_for hostile_ready || fail "$case: $(cat "$work/hostile.out")"
	client_pid=$hostile_pid
	wait_for client_managed || fail "$case: not attached"
	timeout 120 "$work/bin/larder" evict "$hostile_pid" >"$work/hostile-evict.out" 2>&1 ||
		[ $? -ne 124 ] || fail "$case: evict doesn't end"
	wait_for gone "$hostile_pid" || fail "$case: no order came"
	wait "$hostile_pid" 2>/dev/null || true
	case_end
}

# Its children get a userfaultfd from the service, and have reading it wait. Nobody else does.
forked() {
	hostile_start "$case"
	wait_for grep -q 'evict me' "$work/hostile.out" || fail "$case: $(cat "$work/hostile.out")"
	client_pid=$hostile_pid
	wait_for client_managed || fail "$case: not attached"
	timeout 120 "$work/bin/larder" evict "$hostile_pid" >"$work/hostile-evict.out" 2>&1 ||
		fail "$case: evict: $(cat "$work/hostile-evict.out")"
	WAIT=120 wait_for grep -q ready "$work/hostile.out" || fail "$case: no child got one"
	wait_for grep -q 'made to block' "$work/larderd.log" || fail "$case: it gets away with it"
	neighbour_check "$first"
	hostile_stop
	case_end
}

cases=(garbage wrong_head out_of_order descriptors not_uffd foreign_uffd borrowed_number addresses sealed
	die_connected die_hello die_welcomed die_ready die_ordered
	deaf liar scribbler silent many lingering demanding restless blocking full_doorbell
	forked_blocking)
[ $# -eq 0 ] || cases=("$@")

case='before all'
larderd_start "$everyone"
neighbour_start 30
first=$client_pid
neighbour_check "$first"
only_first() { [ "$(json '.clients | length')" -eq 1 ]; }
wait_for only_first || fail 'a child stays'
base=$(descriptors)
for case in "${cases[@]}"; do
	case $case in
	deaf | full_doorbell) endured evicted_unanswered ;;
	liar | scribbler | restless | blocking) endured evicted ;;
	silent | many | lingering | demanding) endured ;;
	die_ordered) dies_at_order ;;
	forked_blocking) forked ;;
	*) turned_away ;;
	esac
done
case='after all'
neighbour_start 4
neighbour_check "$client_pid"
larderd_stop
lines=$(grep -c . "$work/neighbour-$first.out")
kill -USR1 "$first"
wait_for answers "$first" "$lines" || fail 'a released program hangs'
[ "$(tail -n 1 "$work/neighbour-$first.out")" = good ] || fail 'a released program is damaged'
