# shellcheck shell=bash
# The program `stops` under the service, and points at which that stays. Sourced after lib.sh.

need sqlite3

# A service that hangs must not hang us.
larder() { timeout 60 "$work/bin/larder" "$@"; }

install -m 755 "$build/tests/e2e/stops" "$work/bin"
# shellcheck disable=SC2034 # for messages
case='before all'

# ---- points ----

LARDER_POINTS=''
for point in move moved hold commit zap read apply fetch; do
	LARDER_POINTS+=${LARDER_POINTS:+,}$point=$work/at-$point
done
export LARDER_POINTS

stay_at() { touch "$work/at-$1"; } # who comes there next
is_at() { [ -e "$work/at-$1.at" ]; }
go_on() { rm "$work/at-$1.at"; }

# ---- programs ----

declare -A asked # by name: orders that are answered by good or bad

# stops_start NAME: sets client_pid, and memory: address and bytes of what it holds. Taken over on
# return.
memory=()
stops_start() {
	local tries
	# On a busy machine the service may not answer in time, and then the program just runs.
	for tries in 1 2 3; do
		stops_try "$1"
		! WAIT=20 wait_for client_managed || return 0
		echo "$case: $1 was not taken over, try $tries"
		kill_quietly "$client_pid"
	done
	fail "$case: $1 is never taken over"
}

stops_try() {
	local in=$work/home/$1.in
	[ -e "$in" ] || mkfifo -m 666 "$in"
	rm -f "$work/$1.out"
	(cd "$work/home" && as_nobody "$work/bin/larder" run -- "$work/bin/stops" 3) \
		>"$work/$1.out" 2>&1 <>"$in" &
	client_pid=$!
	started+=("$client_pid")
	asked[$1]=0
	wait_for grep -q ready "$work/$1.out" || fail "$case: $1 never got ready"
	read -ra memory < <(sed -n 's/^ready //p' "$work/$1.out")
}

tell() { printf %s "$2" >"$work/home/$1.in"; }
ask() {
	asked[$1]=$((asked[$1] + 1))
	tell "$1" "$2"
}
answers() { grep -cx -e good -e bad "$work/$1.out" || true; }
has_answered() { [ "$(answers "$1")" -eq "${asked[$1]}" ]; }

# checked NAME [ORDER]: it does that with its memory, and all that it ever found was as it has to be.
checked() {
	ask "$1" "${2:-r}"
	wait_for has_answered "$1" || fail "$case: $1 hangs: $(tail -n 3 "$work/$1.out")"
	! grep -qx bad "$work/$1.out" || fail "$case: $1 has wrong bytes: $(grep "^wrong" "$work/$1.out")"
}

# A child of ours, of which the shell has nothing to say.
kill_quietly() {
	kill -9 "$1" 2>/dev/null || true
	wait "$1" 2>/dev/null || true
}

# A thread of it waits for an event to be read.
discards() { grep -q userfaultfd_event_wait "/proc/$1"/task/*/wchan; }

# ---- the second, to whom nothing happens ----

second=0 base=0 base_links=0 base_leaves=0 base_rows=''

# As a whole: out, back with every byte, out.
second_is_well() {
	client_pid=$second
	evict_fully
	checked second
	evict_fully
}

second_start() {
	stops_start second
	second=$client_pid
	second_is_well
	wait_for only_second || fail "one program alone: $(larder status --json)"
	base=$(descriptors)
	base_links=$(json .service.link_bytes)
	base_leaves=$(json .service.leaf_bytes)
	base_rows=$(rows)
}

descriptors() { find "/proc/$service/fd" -mindepth 1 -printf . | wc -c; }

rows() {
	sqlite3 -readonly "$LARDER_RUNTIME_DIR/store/index.db" "SELECT count(*) FROM client UNION ALL
		SELECT count(*) FROM block UNION ALL SELECT count(*) FROM leaf"
}

only_second() {
	json "(.clients | length) == 1 and .clients[0].pid == $second and
		.service.evicted_bytes == .clients[0].evicted_bytes and
		.service.stored_bytes == .clients[0].stored_bytes"
}

# The service has the second's pages and nothing else.
is_freed() {
	only_second && [ "$(descriptors)" -le "$base" ] &&
		[ "$(json .service.link_bytes)" -le "$base_links" ] &&
		[ "$(json .service.leaf_bytes)" -le "$base_leaves" ] && [ "$(rows)" = "$base_rows" ]
}
freed() {
	client_pid=$second
	evict_fully
	wait_for is_freed || fail "$case: the service keeps something: $(descriptors) descriptors, before $base;
links before $base_links, leaves $base_leaves, rows $base_rows: $(rows) $(larder status --json)"
}

# ---- the first, to whom it happens ----

first=0 agent=0 evict=0 tracer=0

# What failed may leave one that is stopped, and isn't our child.
end_agent() { ! grep -qs larder-agent "/proc/$agent/comm" || kill -9 "$agent"; }
at_exit+=(end_agent)

# trace_start PID [CALL entry|exit]: see stops.c.
trace_start() {
	rm -f "$work/trace.in"
	mkfifo "$work/trace.in"
	"$work/bin/stops" trace "$@" >"$work/trace.out" <"$work/trace.in" &
	tracer=$!
	started+=("$tracer")
	exec 7>"$work/trace.in"
}

act_stop() { # STOP
	case $1 in
	stop) kill -STOP "$first" ;;
	trace) trace_start "$first" ;;
	freeze?) freezer_freeze "${1#freeze}" "$first" "$agent" ;;
	agent-stop) kill -STOP "$agent" ;;
	agent-trace) trace_start "$agent" ;;
	agent-freeze?) freezer_freeze "${1#agent-freeze}" "$agent" ;;
	agent-kill) kill -9 "$agent" ;;
	leader)
		tell first l
		wait_for grep -q left "$work/first.out" || fail "$case: its first thread doesn't end"
		;;
	esac
}

# Every thread of it, also those that wait in the kernel.
is_stopped() { ! grep -L '^State:.[Tt]' "/proc/$1"/task/*/status | grep -q .; }
is_traced() { grep -q stopped "$work/trace.out"; }

wait_stopped() { # STOP
	case $1 in
	stop) wait_for is_stopped "$first" ;;
	agent-stop) wait_for is_stopped "$agent" ;;
	trace | agent-trace) wait_for is_traced ;;
	freeze? | agent-freeze?) freezer_wait "${1: -1}" frozen ;;
	esac || fail "$case: it doesn't stop"
}

undo() { # STOP
	case $1 in
	stop) kill -CONT "$first" 2>/dev/null || true ;;
	agent-stop) kill -CONT "$agent" 2>/dev/null || true ;;
	freeze? | agent-freeze?) freezer_thaw "${1: -1}" ;;
	trace | agent-trace)
		exec 7>&-
		wait "$tracer" || fail "$case: the tracer ended with $?"
		;;
	esac
}

act_then() { # THEN
	case $1 in
	exit)
		tell first x
		wait_for gone "$first" || fail "$case: it doesn't end"
		;;
	exec)
		tell first e
		wait_for grep -q again "$work/first.out" || fail "$case: it doesn't exec"
		asked[first]=$(answers first)
		;;
	kill) kill -9 "$first" ;;
	esac
}

end_first() {
	kill_quietly "$first"
	freed
}

# It goes on as if nothing had been.
first_is_well() {
	client_pid=$first
	checked first
	evict_fully
	[ "$(client evicted_bytes)" -ge "${memory[1]}" ] || fail "$case: evicted only $(client evicted_bytes)"
	[ "$(client resident_bytes)" -gt 0 ] || fail "$case: it lives on no memory: $(larder status "$first")"
	checked first
	end_first
}

# What isn't there any more can't be waited for.
agent_is_gone() { [ "$(client agent_pid "$first")" -eq 0 ]; }
first_without_agent() {
	wait_for agent_is_gone || fail "$case: the service doesn't notice"
	checked first
	larder evict "$first" >"$work/evict.out" 2>&1 || fail "$case: evict: $(cat "$work/evict.out")"
	grep -q 'agent is gone' "$work/evict.out" || fail "$case: evict says: $(cat "$work/evict.out")"
	links_are_empty || fail "$case: $(json .service.link_bytes) bytes of links stay"
	checked first
	end_first
}
links_are_empty() { [ "$(json .service.link_bytes)" -le $((2 * base_links)) ]; }

clients_are() { [ "$(json '.clients | length')" -eq "$1" ]; }
first_as_another() {
	wait_for clients_are 2 || fail "$case: the old image is still there: $(larder status)"
	client_pid=$first
	client_wait
	first_is_well
}

service_is_well() {
	case='after all'
	[ "$(json .service.corrupt_pages)" -eq 0 ] || fail 'damaged pages'
	larderd_stop
	checked second
}
