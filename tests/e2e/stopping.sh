#!/bin/bash
# SIGTERM on a machine without room for what is out: the service says so, serves faults and answers
# questions, takes nobody over and nothing out, and outlives a second SIGTERM. With room it ends, and
# its programs have every byte. So does `larder release --all`, but that gives up after a while.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need python3 unshare

# 82 MiB of 4 GiB are kept free.
memory_is 1000
larderd_start "$everyone"

# Each USR1: are they all the same? Each USR2: a page of each MiB is read.
program='
import hashlib, random, signal
signals = {signal.SIGUSR1, signal.SIGUSR2}
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
keep = b"".join(b"%08d%s" % (i, random.randbytes(8)) for i in range(4 << 20))
want = hashlib.sha1(keep).digest()
print("ready", flush=True)
while True:
    if signal.sigwait(signals) == signal.SIGUSR2:
        print("read", sum(keep[:: 1 << 20]), flush=True)
    else:
        print("same" if hashlib.sha1(keep).digest() == want else "DIFFERENT", flush=True)'
start() { # OUT
	client_start /usr/bin/python3 -c "$program"
	client_wait
	wait_for grep -q ready "$work/client.out" || fail 'python3 is not ready'
	mv "$work/client.out" "$work/$1"
}
says() { grep -q "^$2" "$work/$1"; }
tell() { # OUT PID SIGNAL ANSWER
	kill "-$3" "$2"
	wait_for says "$1" "$4" || fail "$1 doesn't answer $3: $(tail -n 3 "$work/$1")"
}
out() { json "[.clients[] | select(.pid == $1) | .evicted_bytes][0] // 0"; }
logged() { grep -q "$1" "$work/larderd.log"; }

start one.out
one=$client_pid
evict_fully
start two.out
two=$client_pid
evict_fully
for pid in "$one" "$two"; do
	[ "$(out "$pid")" -gt $((60 << 20)) ] || fail "only $(out "$pid") bytes of $pid are out"
done

# ---- release --all ----

! (as_nobody "$work/bin/larder" release --all) >"$work/refused.out" 2>&1 || fail 'anybody may release all'
grep -q 'only root' "$work/refused.out" || fail "nobody is told: $(cat "$work/refused.out")"

memory_is 80
! larder release --all --json >"$work/release.out" || fail "released without room: $(cat "$work/release.out")"
jq -e '.left_clients == 2 and .left_pages * 4096 > (100 * 1048576) and (.why | test("no more room"))' \
	"$work/release.out" || fail "release says: $(cat "$work/release.out")"
! larder release "$one" 2>"$work/refused.out" || fail 'released without room'
grep -q 'no more room' "$work/refused.out" || fail "release says: $(cat "$work/refused.out")"

memory_is 1000
larder release --all >"$work/release.out" || fail "release says: $(cat "$work/release.out")"
grep -q '; 2 programs have all of their memory' "$work/release.out" || fail "release says: $(cat "$work/release.out")"
! grep -q left "$work/release.out" || fail "release says: $(cat "$work/release.out")"
for pid in "$one" "$two"; do
	[ "$(out "$pid")" -eq 0 ] || fail "$(out "$pid") bytes of $pid are still out"
done
[ "$(json '[.clients[].state] | unique | join(" ")')" = released ] || fail 'not all are released'

# ---- SIGTERM ----

for client_pid in "$one" "$two"; do
	evict_fully
done
memory_is 80
kill "$service"
wait_for logged "don't fit" || fail 'it does not say that there is no room'
[ "$(json .service.stopping)" -eq 1 ] || fail 'the status does not say that it is ending'
larder status | grep -q '^ENDING' || fail "larder status doesn't say that it is ending"

# Nobody is taken over, and who asks isn't held up.
[ "$(as_nobody "$work/bin/larder" run -- sh -c 'echo runs; grep -c larder-link /proc/self/maps || true' |
	paste -sd ' ')" = 'runs 0' ] || fail 'a program is taken over, or does not run'
larder evict "$one" >"$work/evict.out"
grep -q 'service is ending' "$work/evict.out" || fail "evict says: $(cat "$work/evict.out")"

# Faults are answered; nothing else goes back.
tell one.out "$one" USR2 read
[ "$(out "$one")" -gt $((50 << 20)) ] || fail "$(out "$one") bytes of one are out: more went back than it read"
[ "$(out "$two")" -gt $((60 << 20)) ] || fail "$(out "$two") bytes of two are out: they went back without room"

kill "$service"
wait_for logged 'ending already' || fail 'a second SIGTERM is not answered'
wait_for logged 'left; waiting for room' || fail 'the log does not say how far it is'
! gone "$service" || fail 'it ended without having given all back'

# Who takes over from a worker that dies knows what it was at.
worker=$(json .service.pid)
kill -9 "$worker"
taken_over() { [ "$(json .service.pid)" -ne "$worker" ] && [ "$(json .service.stopping)" -eq 1 ]; }
wait_for taken_over || fail 'after a crash it is not ending any more'
! gone "$service" || fail 'it ended with its worker'

# Some of it fits.
memory_is 90
less() { [ "$(json .service.pages_restored)" -gt "$before" ]; }
before=$(json .service.pages_restored)
wait_for less || fail 'with room for some nothing goes back'

# One program ends meanwhile; the other gets all.
kill -9 "$two"
memory_is 1000
ended() { gone "$service"; }
wait_for ended || fail 'it does not end'
code=0
wait "$service" || code=$?
service=''
[ "$code" -eq 0 ] || fail "larderd ended with $code"
logged 'every page is given back' || fail 'the log does not say that it is done'
tell one.out "$one" USR1 same
! says one.out DIFFERENT || fail 'it reads other bytes'
