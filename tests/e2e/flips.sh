#!/bin/bash
# Bits of a program's link flip while its pages are on their way out: in the orders, the answers, the
# slot table, the shim's requests (the bytes of pages there are like the program's own memory). The
# service lives, and another program is served as ever; this one reads what it wrote, or waits for
# what the log says. So when the worker dies just then, and the next one reads it. And a journal of
# which some flipped before the next worker reads it is refused: its program waits, and is named.
#
# FLIPS_ROUNDS (6), FLIPS_SEED (from the clock, and printed).
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=tests/e2e/stops_lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/stops_lib.sh"
need python3

seed=${FLIPS_SEED:-$((RANDOM * 32768 + RANDOM))}
echo "FLIPS_SEED=$seed"

worker() { tr -d ' ' <"/proc/$service/task/$service/children"; }

# flip PID SEED: some bits before the first page's bytes, by the worker's descriptor.
flip() {
	python3 -c '
import os, random, sys
program, worker, seed = sys.argv[1:4]
random.seed(int(seed))
inode = next(int(line.split()[4]) for line in open(f"/proc/{program}/maps") if "memfd:larder-link" in line)
path = next(p for p in (f"/proc/{worker}/fd/{fd}" for fd in os.listdir(f"/proc/{worker}/fd"))
            if os.stat(p).st_ino == inode and "larder-link" in os.readlink(p))
link = os.open(path, os.O_RDWR)
for _ in range(random.choice([1, 2, 8, 64])):
    at = random.randrange(random.choice([160, 16384]))
    byte = os.pread(link, 1, at)[0] ^ 1 << random.randrange(8)
    os.pwrite(link, bytes([byte]), at)' "$1" "$(worker)" "$2" || fail "$case: no link of $1"
}

another_serves() { [ "$(worker)" != "$before" ] && larder status; }
is_named() { grep -Eq "client $first |client [0-9]+ \(.*\): .*(answered|restored)" "$work/larderd.log"; }
answers_or_named() { has_answered first || is_named; }
alone() { json '(.clients | length) == 1'; }

larderd_start "$everyone"
second_start
for ((round = 0; round < ${FLIPS_ROUNDS:-6}; round++)); do
	case="round $round"
	: >"$work/larderd.log"
	stops_start first
	first=$client_pid
	: >"$work/larderd.log"
	point=$([ $((round % 2)) -eq 0 ] && echo hold || echo moved)
	stay_at "$point"
	timeout 60 "$work/bin/larder" evict "$first" >"$work/first-evict.out" 2>&1 &
	evict=$!
	wait_for is_at "$point" || fail "$case: the service never comes there"
	flip "$first" $((seed + round))
	before=$(worker)
	if [ $((round % 3)) -eq 2 ]; then
		kill -9 "$before"
		go_on "$point"
		wait_for another_serves || fail "$case: no other worker serves"
		before=$(worker)
	else
		go_on "$point"
	fi
	code=0
	wait "$evict" || code=$?
	[ "$code" -ne 124 ] || fail "$case: evict doesn't end"
	ask first r
	wait_for answers_or_named || fail "$case: it hangs, and the log has no word of it: $(cat "$work/larderd.log")"
	! grep -qx bad "$work/first.out" || fail "$case: wrong bytes: $(grep '^wrong' "$work/first.out")"
	has_answered first || echo "$case: $(grep -E "client $first " "$work/larderd.log" | tail -n 1)"
	second_is_well
	[ "$(worker)" = "$before" ] || fail "$case: the worker died"
	kill_quietly "$first"
	wait_for alone || fail "$case: it stays: $(larder status)"
done
service_is_well

# ---- the journal ----

case=journal
larderd_start "$everyone"
stops_start first
first=$client_pid
evict_fully
before=$(worker)
kill -STOP "$before" # nothing is trimmed meanwhile
python3 -c '
import os, random, sys
worker, seed = sys.argv[1:3]
random.seed(int(seed))
path, = (p for p in (f"/proc/{worker}/fd/{fd}" for fd in os.listdir(f"/proc/{worker}/fd"))
         if "/journal." in os.readlink(p))
journal = os.open(path, os.O_RDWR)
for entry in random.sample(range(128), 8):
    at = 4096 + entry * 32 + random.randrange(32)
    byte = os.pread(journal, 1, at)[0] ^ 1 << random.randrange(8)
    os.pwrite(journal, bytes([byte]), at)' "$before" "$seed" || fail 'no journal'
kill -9 "$before"
wait_for another_serves || fail 'no other worker serves'
grep -q "client $first .*journal is lost or damaged" "$work/larderd.log" || fail 'the log does not name it'
tell first r
stops_start third
evict_fully
checked third
[ "$(answers first)" -eq 0 ] || fail "it was answered: $(tail -n 2 "$work/first.out")"
