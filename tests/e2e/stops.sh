#!/bin/bash
# A program, or its agent alone, ends or is stopped at any point of an eviction or of a page's way
# back. It is noticed; others are served and evicted as ever, while it is stopped too; what was
# stopped goes on with every byte as it was, and can be evicted again; of what ended nothing is left
# in the service.
#
#   stops.sh KIND...    runs these at each point; those that it can run by default
#
# STOPS_POINTS (all). The points are those of svc/points.h: the service stays there until the case has
# done what it came for, so nothing here depends on who is faster.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=tests/e2e/freezer.sh
. "$(dirname "${BASH_SOURCE[0]}")/freezer.sh"

# A service that hangs must not hang us.
larder() { timeout 60 "$work/bin/larder" "$@"; }

install -m 755 "$build/tests/e2e/stops" "$work/bin"
case='before all'

# ---- points ----

points=(move moved hold commit zap read apply fetch)
export LARDER_POINTS=''
for point in "${points[@]}"; do
	LARDER_POINTS+=,$point=$work/at-$point
done
LARDER_POINTS=${LARDER_POINTS#,}
[ -z "${STOPS_POINTS:-}" ] || read -ra points <<<"$STOPS_POINTS"

stay_at() { touch "$work/at-$1"; }
is_at() { [ -e "$work/at-$1.at" ]; }
go_on() { rm "$work/at-$1.at"; }

# ---- programs ----

# stops_start NAME: sets client_pid, and memory: address and bytes of what it holds. Taken over on return.
memory=()
stops_start() {
	local in=$work/home/$1.in
	[ -e "$in" ] || mkfifo -m 666 "$in"
	rm -f "$work/$1.out"
	(cd "$work/home" && as_nobody "$work/bin/larder" run -- "$work/bin/stops" 3) \
		>"$work/$1.out" 2>&1 <>"$in" &
	client_pid=$!
	started+=("$client_pid")
	wait_for grep -q ready "$work/$1.out" || fail "$case: $1 never got ready"
	read -ra memory < <(sed -n 's/^ready //p' "$work/$1.out")
	client_wait
}

tell() { printf %s "$2" >"$work/home/$1.in"; }
lines() { grep -c . "$work/$1.out" || true; }
says() { [ "$(lines "$1")" -gt "$2" ]; }
last() { tail -n 1 "$work/$1.out"; }

# checked NAME [ORDER]: it does that with its memory, and finds all as it has to be.
checked() {
	local before
	before=$(lines "$1")
	tell "$1" "${2:-r}"
	wait_for says "$1" "$before" || fail "$case: $1 hangs"
	[ "$(last "$1")" = good ] || fail "$case: $1 says $(last "$1")"
}

# ---- what is done to the first ----

first=0 agent=0 evict=0 tracer=0
trace_start() {
	rm -f "$work/trace.in"
	mkfifo "$work/trace.in"
	"$work/bin/stops" trace "$first" >"$work/trace.out" <"$work/trace.in" &
	tracer=$!
	started+=("$tracer")
	exec 7>"$work/trace.in"
	wait_for grep -q stopped "$work/trace.out" || fail "$case: it can't be traced"
}

# A child of ours, of which the shell has nothing to say.
kill_quietly() {
	kill -9 "$1" 2>/dev/null || true
	wait "$1" 2>/dev/null || true
}

is_stopped() { grep -q '^State:.[Tt]' "/proc/$1/status"; }
stop_process() {
	kill -STOP "$1"
	wait_for is_stopped "$1" || fail "$case: it doesn't stop"
}

act() { # KIND
	case $1 in
	exit) tell first x ;;
	exec) ;;
	kill) kill_quietly "$first" ;;
	stop) stop_process "$first" ;;
	trace) trace_start ;;
	freeze1 | freeze2) freezer_freeze "${1#freeze}" "$first" "$agent" ;;
	leader)
		tell first l
		wait_for grep -q left "$work/first.out" || fail "$case: its first thread doesn't end"
		;;
	agent-kill) kill -9 "$agent" ;;
	agent-stop*) stop_process "$agent" ;;
	agent-freeze*) freezer_freeze "${1#agent-freeze}" "$agent" ;;
	esac
	# What the program does, once its agent can't follow.
	case $1 in
	agent-stop-kill) kill_quietly "$first" ;;
	exit) wait_for gone "$first" || fail "$case: it doesn't end" ;;
	exec | agent-stop-exec)
		tell first e
		wait_for says first 1 || fail "$case: it doesn't exec"
		;;
	esac
}

undo() { # KIND
	case $1 in
	stop) kill -CONT "$first" ;;
	agent-stop) kill -CONT "$agent" ;;
	freeze? | agent-freeze?) freezer_thaw "${1: -1}" ;;
	trace)
		exec 7>&-
		wait "$tracer" || fail "$case: the tracer ended with $?"
		;;
	esac
}

# ---- what has to hold ----

descriptors() { find "/proc/$service/fd" -mindepth 1 -printf . | wc -c; }

# The service has the second's pages and nothing else.
only_second() {
	json "(.clients | length) == 1 and .clients[0].pid == $second and
		.service.evicted_bytes == .clients[0].evicted_bytes and
		.service.stored_bytes == .clients[0].stored_bytes" && [ "$(descriptors)" -le "$base" ]
}

# The service has the second's pages out, and it alone.
freed() {
	evict_second
	wait_for only_second || fail "$case: the service keeps something: $(descriptors) descriptors, before $base;
$(larder status --json)"
}

evict_second() {
	client_pid=$second
	evict_fully
}

# As a whole: out, back with every byte, out.
second_is_well() {
	evict_second
	checked second
	evict_second
}

kill_first() {
	kill_quietly "$first"
	freed
}

# It goes on as if nothing had been.
first_is_well() {
	client_pid=$first
	checked first
	evict_fully
	checked first
	kill_first
}

agent_is_gone() { [ "$(client agent_pid "$first")" -eq 0 ]; }
first_without_agent() {
	wait_for agent_is_gone || fail "$case: the service doesn't notice"
	checked first
	larder evict "$first" >"$work/evict.out" 2>&1 || fail "$case: evict: $(cat "$work/evict.out")"
	grep -q 'agent is gone' "$work/evict.out" || fail "$case: evict says: $(cat "$work/evict.out")"
	checked first
	kill_first
}

clients_are() { [ "$(json '.clients | length')" -eq "$1" ]; }
first_as_another() {
	wait_for clients_are 2 || fail "$case: the old image is still there: $(larder status)"
	client_pid=$first
	client_wait
	first_is_well
}

# ---- a case ----

# The service comes to the point with the first's memory.
come_to() {
	case $1 in
	read | fetch | apply)
		evict_fully
		stay_at "$1"
		if [ "$1" = apply ]; then tell first d; else tell first r; fi
		;;
	*)
		stay_at "$1"
		larder evict "$first" >"$work/first-evict.out" 2>&1 &
		evict=$!
		;;
	esac
	wait_for is_at "$1" || fail "$case: the service never comes there"
}

# What was begun comes to an end, whatever became of the first.
evicted_or_not() {
	local code=0
	case $1 in
	read | fetch | apply) larder evict "$first" >"$work/first-evict.out" 2>&1 || code=$? ;;
	*) wait "$evict" || code=$? ;;
	esac
	[ "$code" -ne 124 ] || fail "$case: evict doesn't end"
	[ "$code" -eq 0 ] || grep -q . "$work/first-evict.out" || fail "$case: evict says nothing"
}

run_case() { # POINT KIND
	case="$2 at $1"
	stops_start first
	first=$client_pid
	agent=$(client agent_pid)
	evict_fully
	checked first
	come_to "$1"
	act "$2"
	checked second # its pages come back meanwhile
	go_on "$1"
	evicted_or_not "$1"
	second_is_well
	undo "$2"
	case $2 in
	exit | kill | agent-stop-kill) freed ;;
	*exec) first_as_another ;;
	agent-kill) first_without_agent ;;
	*) first_is_well ;;
	esac
	echo "$case: $SECONDS s"
}

kinds=(exit exec kill leader stop trace agent-stop agent-kill agent-stop-kill agent-stop-exec)
freezers=$(freezer_versions)
for version in $freezers; do
	kinds+=("freeze$version" "agent-freeze$version")
done
[ $# -eq 0 ] || kinds=("$@")

larderd_start "$everyone"
stops_start second
second=$client_pid
second_is_well
checked second
evict_second
base=$(descriptors)
for kind in "${kinds[@]}"; do
	for point in "${points[@]}"; do
		run_case "$point" "$kind"
	done
done
[ "$(json .service.corrupt_pages)" -eq 0 ] || fail 'damaged pages'
larderd_stop
checked second
