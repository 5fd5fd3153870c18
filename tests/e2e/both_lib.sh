# shellcheck shell=bash
# Sourced after tests/lib.sh: both processes of the service die.

# both_die: kills keeper and worker, in either order, so that neither can do anything about the other's
# end: the keeper start another worker, the worker give everything back. Returns when both are gone.
both_die() {
	local worker
	worker=$(cat "/proc/$service/task/$service/children")
	worker=${worker// /}
	if [ $((RANDOM % 2)) -eq 0 ]; then
		kill -STOP "$service"
		kill -9 "$worker" "$service"
	else
		kill -STOP "$worker"
		kill -9 "$service" "$worker"
	fi
	wait "$service" 2>/dev/null || true
	wait_for gone "$worker" || fail 'the worker lives'
	service=''
}

# agents_of EXE: how many processes named larder-agent run in this executable's memory.
agents_of() {
	local agent count=0
	for agent in $(pgrep -x larder-agent || true); do
		[ "$(readlink "/proc/$agent/exe")" != "$1" ] || count=$((count + 1))
	done
	echo "$count"
}
