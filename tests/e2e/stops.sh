#!/bin/bash
# A program, or its agent alone, ends or is stopped at any point of an eviction or of a page's way
# back. It is noticed; others are served and evicted as ever, while it is stopped too; what was
# stopped goes on with every byte as it was, and can be evicted again; of what ended nothing is left
# in the service.
#
#   stops.sh [KIND...]    runs these kinds of ending (all) at each point
#
# STOPS_POINTS (all). The points are those of svc/points.h: the service stays there until the case has
# done what it came for, so nothing here depends on who is faster. +d: the program is about to
# discard pages, which nobody can be told of meanwhile. release: its pages are just given back.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=tests/e2e/freezer.sh
. "$(dirname "${BASH_SOURCE[0]}")/freezer.sh"
# shellcheck source=tests/e2e/stops_lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/stops_lib.sh"

at=(move moved hold commit zap read apply fetch move+d release)
[ -z "${STOPS_POINTS:-}" ] || read -ra at <<<"$STOPS_POINTS"

# What stops it, and what it does (or what becomes of it) then: KIND is STOP[+THEN] or THEN.
kinds=(exit exec kill leader leader+exit leader+exec leader+kill
	stop trace freeze1 freeze2 freeze1+kill freeze2+kill
	agent-stop agent-trace agent-freeze1 agent-freeze2 agent-kill
	agent-stop+kill agent-stop+exec agent-freeze1+kill agent-freeze2+kill)

# ---- a case ----

# The service comes to the point with the first's memory.
come_to() { # POINT
	case $1 in
	read | fetch | apply)
		evict_fully
		stay_at "$1"
		if [ "$1" = apply ]; then ask first d; else ask first r; fi
		wait_for is_at "$1" || fail "$case: the service never comes there"
		;;
	release)
		evict_fully
		stay_at fetch
		larder release "$first" >"$work/first-evict.out" 2>&1 &
		evict=$!
		wait_for is_at fetch || fail "$case: the service never comes there"
		;;
	*)
		stay_at "${1%+d}"
		larder evict "$first" >"$work/first-evict.out" 2>&1 &
		evict=$!
		wait_for is_at "${1%+d}" || fail "$case: the service never comes there"
		if [[ $1 = *+d ]]; then
			ask first d
			wait_for discards "$first" || fail "$case: it doesn't come to discard"
		fi
		;;
	esac
}

# What was begun comes to an end, whatever became of the first.
evicted_or_not() { # POINT STOP THEN
	local code=0
	case $1 in
	read | fetch | apply) larder evict "$first" >"$work/first-evict.out" 2>&1 || code=$? ;;
	*) wait "$evict" || code=$? ;;
	esac
	[ "$code" -ne 124 ] || fail "$case: that doesn't end"
	grep -q . "$work/first-evict.out" || fail "$case: the service says nothing"
	case $1,$2 in
	read,* | fetch,* | apply,*) ;; # nothing is left to be moved
	release,*)
		[ "$code" -eq 0 ] || [[ $3 = exit || $3 = exec || $3 = kill ]] ||
			fail "$case: release says: $(cat "$work/first-evict.out")"
		;;
	*,agent-kill | *,freeze? | *,agent-*)
		grep -q "agent doesn't answer" "$work/first-evict.out" || [ "$code" -ne 0 ] ||
			fail "$case: evict says: $(cat "$work/first-evict.out")"
		;;
	esac
}

run_case() { # POINT KIND
	local how=${2%+*} then=${2#*+} place=${1%+d}
	[ "$1" != release ] || place=fetch
	case="$2 at $1"
	stops_start first
	first=$client_pid
	agent=$(client agent_pid)
	evict_fully
	checked first
	come_to "$1"
	act_stop "$how"
	# Who waits for its event to be read stops when it was.
	[[ $1 = *+d && $how != agent-* ]] || wait_stopped "$how"
	act_then "$then"
	checked second # its pages come back meanwhile
	go_on "$place"
	[ "$then" = kill ] || wait_stopped "$how"
	evicted_or_not "$1" "$how" "$then"
	second_is_well
	case $2 in
	# Such a one can be killed, and so could what is frozen in version 2.
	agent-stop+* | *freeze2+*) ;;
	*) undo "$how" ;;
	esac
	case $then in
	exit) freed ;;
	kill) end_first ;;
	exec) first_as_another ;;
	agent-kill) first_without_agent ;;
	*) first_is_well ;;
	esac
	[ "$how" = "$then" ] || undo "$how"
	echo "$case: $SECONDS s"
}

[ $# -eq 0 ] || kinds=("$@")
freezer_find

larderd_start "$everyone"
second_start
for kind in "${kinds[@]}"; do
	if [[ $kind =~ freeze([12]) ]] && ! freezer_works "${BASH_REMATCH[1]}"; then
		echo "$kind: no control groups of version ${BASH_REMATCH[1]} here"
		continue
	fi
	for point in "${at[@]}"; do
		run_case "$point" "$kind"
	done
done
service_is_well
