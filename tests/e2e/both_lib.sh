# shellcheck shell=bash
# Sourced after tests/lib.sh: both processes of the service die.

# both_die: kills keeper and worker, in either order, so that neither can do anything about the other's
# end: the keeper start another worker, the worker give everything back. Returns when both are gone.
both_die() {
	local pid workers way=$((RANDOM % 2))
	[ "$way" -eq 1 ] || kill -STOP "$service"
	read -ra workers <"/proc/$service/task/$service/children" || true
	if [ "$way" -eq 1 ] && [ "${#workers[@]}" -gt 0 ]; then
		kill -STOP "${workers[@]}" 2>/dev/null || true
		kill -9 "$service" "${workers[@]}" 2>/dev/null || true
	else
		kill -9 "${workers[@]}" "$service" 2>/dev/null || true
	fi
	wait "$service" 2>/dev/null || true
	for pid in "${workers[@]}"; do
		wait_for gone "$pid" || fail 'the worker lives'
	done
	service=''
}

# half_start MS: a larderd that is killed with its worker this long after it was started, while it takes
# programs over, or before, or when it has.
half_start() {
	"$build/svc/larderd" --config "$work/larder.conf" --runtime-dir "$LARDER_RUNTIME_DIR" \
		2>>"$work/larderd.log" </dev/null &
	service=$!
	sleep "0.$(printf %03d "$1")"
	# A worker that isn't there yet can't be stopped before it is killed: else it gave all back.
	kill -STOP "$service"
	both_die
}

# agents_of EXE: how many processes named larder-agent run in this executable's memory.
agents_of() {
	local agent count=0
	for agent in $(pgrep -x larder-agent || true); do
		[ "$(readlink "/proc/$agent/exe")" != "$1" ] || count=$((count + 1))
	done
	echo "$count"
}
