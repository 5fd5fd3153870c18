#!/bin/bash
# A page whose bytes in the store were damaged is never shown: the program is stopped as it touches it,
# the log names the page, and the end of the service ends the program. Others go on. So is a child that
# was forked without libc, and of which the service has no more than its userfaultfd: it waits.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need python3

install -m 755 "$build/tests/e2e/damaged" "$work/bin"

holder() { # NAME: its output is $work/NAME.out
	(cd "$work/home" && as_nobody "$work/bin/larder" run -- "$work/bin/damaged") \
		>"$work/$1.out" 2>&1 </dev/null &
	client_pid=$!
	started+=("$client_pid")
	wait_for grep -q ready "$work/$1.out" || fail "it isn't ready: $(cat "$work/$1.out")"
	client_wait
	evict_fully
}

larderd_start "$everyone"
holder victim
victim=$client_pid victim_out=$work/victim.out
[ "$(client evicted_bytes)" -ge $((8 << 20)) ] || fail "not out: $(cat "$work/evict.out")"

# 16 bytes of each 100 that the store has; its file is longer.
stored=$(client stored_bytes)
python3 -c '
import sys
with open(sys.argv[1], "r+b") as f:
    for at in range(0, int(sys.argv[2]), 100):
        f.seek(at)
        f.write(b"\xa5" * 16)' "$LARDER_RUNTIME_DIR/store/warm.seg" "$stored"
holder other
other=$client_pid other_out=$work/other.out

kill -USR2 "$victim"
wait_for grep -q '^child [0-9]' "$victim_out" || fail "no child: $(cat "$victim_out")"
child=$(sed -n 's/^child \([0-9]*\)$/\1/p' "$victim_out")
named() { grep -q "isn't answered is process $child\$" "$work/larderd.log"; }
wait_for named || fail "the log doesn't name the child: $(tail -n 3 "$work/larderd.log")"

client_pid=$victim
stopped() { grep -q '^State:[[:space:]]*T' "/proc/$victim/status"; }
kill -USR1 "$victim"
wait_for stopped || fail "it isn't stopped: $(cat "$victim_out")"
grep -Eq "client $victim .*: page 0x[0-9a-f]+ can't be restored exactly" "$work/larderd.log" ||
	fail "the log doesn't name the page: $(tail -n 3 "$work/larderd.log")"
[ "$(json .service.corrupt_pages)" -gt 0 ] || fail 'no damaged page is counted'

# Whoever lets it go on doesn't have it see anything else.
kill -CONT "$victim"
kill -USR1 "$other"
wait_for grep -q '^read: 0 ' "$other_out" || fail "another program: $(cat "$other_out")"
! grep -q 'read:' "$victim_out" || fail "it read on: $(cat "$victim_out")"

larderd_stop
wait_for gone "$victim" || fail 'the service ended, and the program with the damaged page lives'
code=0
wait "$victim" || code=$?
[ "$code" -eq 137 ] || fail "it was not killed, but ended with $code"
wait_for gone "$child" || fail 'the service ended, and the child lives'
! grep -q 'read:' "$victim_out" || fail "at the end they read: $(cat "$victim_out")"
! gone "$other" || fail 'the other program ended too'
