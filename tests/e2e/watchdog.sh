#!/bin/bash
# A worker that hangs, so that programs wait for it, is ended by the keeper, and the next one serves
# whoever waits: a reader at a fault, the evictor with a program's gate, the main loop. Not one that
# was stopped, nor for a program that is stopped, nor when that was turned off.
#
# The service stays at a point (svc/points.h) for much longer than the test waits.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=tests/e2e/sums_lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/sums_lib.sh"
need python3

points=(fetch moved loop)
LARDER_POINTS=''
for point in "${points[@]}"; do LARDER_POINTS+=${LARDER_POINTS:+,}$point=$work/at-$point; done
export LARDER_POINTS
stay_at() { touch "$work/at-$1"; }
is_at() { [ -e "$work/at-$1.at" ]; }

# ---- the service manager, which is told that the keeper is well ----

python3 "$source_dir/tests/e2e/notified.py" "$work/notify" >"$work/notify.out" &
started+=("$!")
wait_for grep -qx listens "$work/notify.out" || fail 'nobody listens'
larderd_in=(env "NOTIFY_SOCKET=$work/notify" WATCHDOG_USEC=400000)
alive() { grep -cx WATCHDOG=1 "$work/notify.out" || true; }
told() { [ "$(alive)" -ge "$1" ]; }
# Each is a look of the keeper's, a fifth of a second apart: this is twice the longest limit here.
looks_again() { wait_for told $(($(alive) + 20)) || fail "the keeper does not say that it is well"; }

worker() { cat "/proc/$service/task/$service/children"; }
hangs() { grep -c 'the worker hangs' "$work/larderd.log" || true; }
noticed=0
is_noticed() { [ "$(hangs)" -gt "$noticed" ] && larder status; }
is_replaced() { # WHAT
	wait_for is_noticed || fail "$1: nobody notices"
	[ "$(worker)" != "$before" ] || fail "$1: the worker is the same"
	grep 'the worker hangs' "$work/larderd.log" | tail -n 1 | grep -qE 'thread [0-9]+ \(larder' ||
		fail "$1: which thread? $(grep 'the worker hangs' "$work/larderd.log")"
	noticed=$(hangs)
	rm -f "$work"/at-*
}
is_kept() { # WHAT
	looks_again
	[ "$(hangs)" -eq "$noticed" ] || fail "$1: $(grep 'the worker hangs' "$work/larderd.log")"
	[ "$(worker)" = "$before" ] || fail "$1: the worker is another"
}

# ---- a program ----

says() { wait_for grep -q "^$1 $right\$" "$work/client.out" || fail "$1: $(tail -n 1 "$work/client.out")"; }

larderd_start "$everyone"$'\nwatchdog = 1s'
sums_start
program_pid=$client_pid
right=$(ask first)
evict_fully

before=$(worker)
stay_at fetch
tell fault
wait_for is_at fetch || fail 'no reader comes there'
is_replaced 'a reader'
says fault

evict_fully
tell again
says again
before=$(worker)
stay_at moved
timeout 60 "$work/bin/larder" evict "$program_pid" >"$work/evict.out" 2>&1 || true
[ -e "$work/at-moved.at" ] || fail 'the evictor never came there'
is_replaced 'the evictor'
tell moved
says moved
evict_fully

before=$(worker)
stay_at loop
client_start sleep 600
wait_for is_at loop || fail 'the main loop never comes there'
is_replaced 'the main loop'
client_start sleep 600
client_wait
client_pid=$program_pid
tell loop
says loop
evict_fully

# ---- no hang ----

before=$(worker)
kill -STOP "$program_pid"
larder evict "$program_pid" >"$work/evict.out"
tell stopped
is_kept 'a program is stopped'
kill -CONT "$program_pid"
says stopped

evict_fully
sed -i 's/^watchdog = .*/watchdog = 0/' "$work/larder.conf"
larder reload
stay_at fetch
tell off
wait_for is_at fetch || fail 'no reader comes there'
is_kept 'it was turned off'

# Turned on again, and stopped before it is ended: on a slow machine it may be too late for that.
sed -i 's/^watchdog = .*/watchdog = 2s/' "$work/larder.conf"
larder reload
kill -STOP "$before"
if [ "$(hangs)" -eq "$noticed" ]; then
	is_kept 'the worker is stopped'
	kill -CONT "$before"
else
	echo 'it was not stopped in time'
fi
is_replaced 'the worker goes on, at the same place'
says off
larderd_stop
