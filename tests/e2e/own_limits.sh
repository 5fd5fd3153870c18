#!/bin/bash
# A program that lowers its own limits on address space or data has all of its memory back, and an
# eviction says why nothing is taken. So has a forked child, even where its parent did the same before.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need python3

# Orders by signal: USR1 lowers and checks, USR2 raises again and forks.
program='
import array, os, resource, signal, sys, zlib
kind = getattr(resource, sys.argv[1])
data = bytearray(array.array("Q", range(1 << 20)))
want = zlib.crc32(data)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGUSR2})
def say(what):
    os.write(1, f"{os.getpid()} {what}\n".encode())
say("ready")
while True:
    if signal.sigwait({signal.SIGUSR1, signal.SIGUSR2}) == signal.SIGUSR1:
        resource.setrlimit(kind, (60 << 20, resource.RLIM_INFINITY))
        say("lowered" if zlib.crc32(data) == want else "BAD")
    else:
        resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if os.fork() == 0:
            for i in range(0, len(data), 4096): # all of it becomes its own
                data[i] = 1
            want = zlib.crc32(data)
            say("child")
        else:
            say("forked")'

says() { grep -q "^$1 $2" "$work/client.out"; }
child_ready() { child=$(awk '$2 == "child" { print $1 }' "$work/client.out") && [ -n "$child" ]; }

# lowers: the present client, which has memory out.
lowers() {
	client_wait
	evict_fully
	[ "$(client evicted_bytes)" -ge $((8 << 20)) ] || fail "not evicted: $(cat "$work/evict.out")"
	kill -USR1 "$client_pid"
	wait_for says "$client_pid" lowered || fail "$client_pid: $(cat "$work/client.out")"
	[ "$(client evicted_bytes)" -eq 0 ] || fail 'not all came back'
	larder evict --json "$client_pid" >"$work/evict.out"
	[ "$(jq .moved_pages "$work/evict.out")" -eq 0 ] || fail 'it is evicted still'
	[[ $(jq -r .why "$work/evict.out") == *'lowered its RLIMIT_AS or RLIMIT_DATA below 64 MiB'* ]] ||
		fail "no reason: $(cat "$work/evict.out")"
	[[ $(larder evict "$client_pid") == *'lowered its RLIMIT_AS or RLIMIT_DATA'* ]] || fail 'not in words'
}

larderd_start "$everyone"
for kind in RLIMIT_AS RLIMIT_DATA; do
	echo "-- $kind"
	client_start /usr/bin/python3 -c "$program" "$kind"
	parent=$client_pid
	wait_for says "$parent" ready || fail 'not ready'
	lowers
	kill -USR2 "$parent"
	wait_for child_ready || fail 'no child'
	started+=("$child")
	client_pid=$child
	lowers
done
larderd_stop
