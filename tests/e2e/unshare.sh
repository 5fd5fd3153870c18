#!/bin/bash
# Pages that a fork made shared: the kernel moves none of them, even when the child is gone, until
# they were written to. Then they are made the program's own again and leave; while the child lives
# they stay where they are, for a copy would save nothing.
#
# UNSHARE_MB (30).
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need python3

# Forks at `f`, ends the child at `w`, checks what it has at `c`.
# shellcheck disable=SC2016 # not for the shell
program='
import array, ctypes, os, signal, sys, zlib
libc = ctypes.CDLL(None)
data = bytearray(array.array("Q", range(int(sys.argv[1]) << 17)))
want = zlib.crc32(data)
child = 0
print("ready", flush=True)
while True:
    order = os.read(0, 1)
    if order == b"f":
        child = os.fork()
        if child == 0:
            libc.prctl(1, signal.SIGKILL)
            signal.pause()
    elif order == b"w":
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    elif zlib.crc32(data) != want:
        print("bad", flush=True)
        continue
    print("done", order, flush=True)'

mb=${UNSHARE_MB:-30}
bytes=$((mb << 20))
mkfifo -m 666 "$work/home/in"
larderd_start "$everyone"$'
[policy copy]
unshare = always
[policy stay]
unshare = never'
begin() { # POLICY
	(cd "$work/home" && as_nobody "$work/bin/larder" run --policy "$1" -- \
		/usr/bin/python3 -c "$program" "$mb") >"$work/client.out" 2>&1 <>"$work/home/in" &
	client_pid=$!
	started+=("$client_pid")
	wait_for grep -q ready "$work/client.out" || fail "not ready: $(cat "$work/client.out")"
	client_wait
	lines=1
}
answers() { [ "$(grep -c . "$work/client.out")" -gt "$lines" ]; }
order() {
	printf %s "$1" >"$work/home/in"
	wait_for answers || fail "no answer to $1"
	lines=$((lines + 1))
	tail -n 1 "$work/client.out" | grep -q done || fail "order $1: $(tail -n 3 "$work/client.out")"
}

begin default
order f
evict_fully
shared=$(jq .shared_pages "$work/evict.out")
[ $((shared * 4096)) -ge $((bytes * 9 / 10)) ] || fail "with a child only $shared pages are shared"
order w
evict_fully
evicted=$(client evicted_bytes)
[ "$evicted" -ge "$bytes" ] || fail "without the child only $evicted bytes are out: $(cat "$work/evict.out")"
order c
evict_fully
order f
order c # the child holds what is out, and what came back is shared again
order w
evict_fully
[ "$(client evicted_bytes)" -ge "$bytes" ] || fail "the second time: $(cat "$work/evict.out")"
order c
order f # it goes on with a child
kill -9 "$client_pid"
wait "$client_pid" 2>/dev/null || true

begin copy
order f
evict_fully
[ "$(client evicted_bytes)" -ge "$bytes" ] || fail "unshare = always: $(cat "$work/evict.out")"
order c
order w
kill -9 "$client_pid"
wait "$client_pid" 2>/dev/null || true

begin stay
order f
order w
evict_fully
[ "$(client evicted_bytes)" -lt "$bytes" ] || fail "unshare = never: $(cat "$work/evict.out")"
order c
