#!/bin/bash
# What ends or is stopped at one certain moment: an agent between the steps of an order, a process
# that shares the program's memory, and the service while its programs stand still.
#
#   stops_once.sh [CASE...]    call, shared, release, service (all)
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=tests/e2e/freezer.sh
. "$(dirname "${BASH_SOURCE[0]}")/freezer.sh"
# shellcheck source=tests/e2e/stops_lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/stops_lib.sh"

# The first has been out and is back: what it is evicted to is not empty.
first_start() {
	stops_start first
	first=$client_pid
	agent=$(client agent_pid)
	evict_fully
	checked first
}

evict_first() {
	larder evict "$first" >"$work/first-evict.out" 2>&1 &
	evict=$!
}

evict_ends() {
	local code=0
	wait "$evict" || code=$?
	[ "$code" -ne 124 ] || fail "$case: evict doesn't end"
	grep -q "${1:-.}" "$work/first-evict.out" || fail "$case: evict says: $(cat "$work/first-evict.out")"
}

# ---- an agent in the middle of an order ----

# Before the MOVE the order is revoked, and a late one must fail. After it the pages are in staging, in
# no table, and not in the link. Before the zap all is stored, and the slots can't be used again yet.
is_at_call() { grep -q stopped "$work/trace.out"; }
traces() { grep -q traced "$work/trace.out"; }

run_call() { # CALL entry|exit THEN
	local revoked
	case="agent stopped at the $2 of $1, then $3"
	first_start
	revoked=$(client orders_revoked)
	trace_start "$agent" "$1" "$2"
	wait_for traces || fail "$case: it can't be traced"
	evict_first
	wait_for is_at_call || fail "$case: it doesn't come there: $(cat "$work/trace.out")"
	evict_ends "agent doesn't answer"
	second_is_well
	if [ "$3" = release ]; then
		larder release "$first" >"$work/release.out" 2>&1 || fail "$case: $(cat "$work/release.out")"
		[ "$(client evicted_bytes "$first")" -eq 0 ] || fail "$case: bytes are still out"
	fi
	case $3 in
	use) # Its pages come back, and change, while the agent stands there.
		checked first
		checked first d
		;;
	kill) kill_quietly "$first" ;;
	exec) act_then exec ;;
	agent-kill) kill -9 "$agent" ;;
	esac
	client_pid=$first
	case $3 in
	go | use | release)
		[ "$1" != move ] || [ "$(client orders_revoked)" -gt "$revoked" ] || fail "$case: nothing was revoked"
		undo trace
		first_is_well
		;;
	kill) end_first ;;
	exec) first_as_another ;;
	agent-kill) first_without_agent ;;
	esac
	[[ $3 = go || $3 = use || $3 = release ]] || undo trace
	echo "$case: $SECONDS s"
}

call_cases() {
	local call side what
	for call in move zap; do
		for side in entry exit; do
			for what in go use release kill exec agent-kill; do
				run_call "$call" "$side" "$what"
			done
		done
	done
}

# ---- a process that shares the memory ----

# It is killed while its event is unread, as the gate is held. The kernel carries its call out and
# forgets the event.
child_waits() { grep -q userfaultfd_event_wait "/proc/$1/wchan"; }
reaped() { grep -q lost "$work/first.out"; }

run_shared() { # ORDER POINT OUT: what the child does it to is out, or isn't
	local child
	case="a child killed in '$1' at $2, pages ${3:-in}"
	stops_start first
	first=$client_pid
	evict_fully
	if [ "${3:-}" = out ]; then checked first m; else checked first r; fi
	stay_at "$2"
	evict_first
	wait_for is_at "$2" || fail "$case: the service never comes there"
	tell first "$1"
	wait_for grep -q child "$work/first.out" || fail "$case: there is no child"
	child=$(sed -n 's/^child //p' "$work/first.out")
	wait_for child_waits "$child" || fail "$case: its child doesn't wait"
	kill -9 "$child"
	wait_for reaped || fail "$case: its child can't be killed"
	go_on "$2"
	evict_ends
	second_is_well
	# What is on record of memory that went unnoticed is found out by the next look.
	evict_first
	evict_ends
	checked first "${1^^}"
	first_is_well
	echo "$case: $SECONDS s"
}

shared_cases() {
	local order point
	for order in n u; do
		for point in move moved; do
			run_shared "$order" "$point"
			run_shared "$order" "$point" out
		done
	done
}

# ---- a release ----

# That needs neither the program nor its agent. The first's next eviction takes it over again.
run_released() { # STOP
	case="released, the first in $1"
	first_start
	evict_fully
	act_stop "$1"
	wait_stopped "$1"
	larder release "$first" >"$work/release.out" 2>&1 || fail "$case: $(cat "$work/release.out")"
	[ "$(client evicted_bytes)" -eq 0 ] || fail "$case: $(client evicted_bytes) bytes are still out"
	[ "$(client managed_bytes)" -eq 0 ] || fail "$case: $(client managed_bytes) bytes are still managed"
	second_is_well
	undo "$1"
	first_is_well
	echo "$case: $SECONDS s"
}

release_cases() {
	local how
	for how in leader stop trace freeze1 freeze2 agent-stop agent-freeze1 agent-freeze2; do
		[[ $how != *freeze? ]] || freezer_works "${how: -1}" || continue
		run_released "$how"
	done
}

# ---- the service ends ----

# Its programs stand still, or it is at work for one. All pages are given back, and later, when there is
# nobody to ask any more, each finds them; its agent ends.
after_service() {
	checked first
	checked first d
	wait_for gone "$agent" || fail "$case: its agent stays"
	kill_quietly "$first"
	kill_quietly "$second"
	larderd_start "$everyone"
	second_start
}

run_service_stopped() { # STOP
	case="the service ends, the first in $1"
	first_start
	evict_fully
	act_stop "$1"
	wait_stopped "$1"
	larderd_stop
	[[ $1 != agent-* ]] || checked first
	undo "$1"
	after_service
	echo "$case: $SECONDS s"
}

run_service_owed() { # CALL entry|exit
	case="the service ends, an agent at the $2 of $1"
	first_start
	trace_start "$agent" "$1" "$2"
	wait_for traces || fail "$case: it can't be traced"
	evict_first
	wait_for is_at_call || fail "$case: it doesn't come there"
	evict_ends "agent doesn't answer"
	larderd_stop
	checked first
	undo trace
	after_service
	echo "$case: $SECONDS s"
}

run_service_busy() { # POINT
	case="the service is told to end at $1"
	first_start
	stay_at "$1"
	evict_first
	wait_for is_at "$1" || fail "$case: the service never comes there"
	kill -TERM "$service"
	go_on "$1"
	larderd_stop
	evict_ends
	after_service
	echo "$case: $SECONDS s"
}

service_cases() {
	local how point call
	for how in stop trace freeze1 freeze2 agent-stop agent-freeze1 agent-freeze2; do
		[[ $how != *freeze? ]] || freezer_works "${how: -1}" || continue
		run_service_stopped "$how"
	done
	for call in move zap; do
		run_service_owed "$call" entry
		run_service_owed "$call" exit
	done
	for point in move moved hold commit zap; do
		run_service_busy "$point"
	done
}

cases=(call shared release service)
[ $# -eq 0 ] || cases=("$@")
freezer_find
larderd_start "$everyone"
second_start
for name in "${cases[@]}"; do
	"${name}_cases"
done
service_is_well
