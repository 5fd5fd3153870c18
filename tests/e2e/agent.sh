#!/bin/bash
# What an agent is (DESIGN, Parts): it has its own few descriptors and none of the program's, no
# capability, no new privileges, a list of calls, and every signal blocked. Also in a child.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need python3

# Root's, with all capabilities; 40 files open, of which one is left open for what it executes.
larderd_start "$everyone"
"$work/bin/larder" run -- /usr/bin/python3 -c '
import os, signal
files = [os.open("/dev/null", os.O_RDONLY) for _ in range(40)]
os.set_inheritable(files[0], True)
if os.fork():
    print("ready", flush=True)
signal.pause()' >"$work/client.out" 2>&1 </dev/null &
client_pid=$!
started+=("$client_pid")
both() { [ "$(json '[.clients[] | select(.agent_pid > 0)] | length')" -eq 2 ]; }
wait_for both || fail "no two agents: $(json .)"

mapfile -t -O "${#started[@]}" started < <(json '.clients[] | select(.parent > 0) | .pid')

for agent in $(json '.clients[].agent_pid'); do
	status() { sed -n "s/^$1:[[:space:]]*//p" "/proc/$agent/status"; }
	[ "$(status Name)" = larder-agent ] || fail "its name is $(status Name)"
	for set in CapEff CapPrm CapInh; do
		[ "$(status $set)" = 0000000000000000 ] || fail "$set: $(status $set)"
	done
	[ "$(status NoNewPrivs)" = 1 ] || fail 'it may get new privileges'
	[ "$(status Seccomp)" = 2 ] || fail 'it has no filter'
	# All but SIGKILL and SIGSTOP, which nobody can block.
	[ "$(status SigBlk)" = fffffffffffbfeff ] || fail "blocked: $(status SigBlk)"
	ls -l "/proc/$agent/fd" >"$work/fd.out"
	! grep -q /dev/null "$work/fd.out" || fail "it has the program's files: $(cat "$work/fd.out")"
	[ "$(grep -c -- '->' "$work/fd.out")" -le 6 ] || fail "its descriptors: $(cat "$work/fd.out")"
done
larderd_stop
