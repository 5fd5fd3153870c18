# shellcheck shell=bash
# Sourced after tests/lib.sh: both processes of the service die.

# both_die: kills keeper and worker, in either order, or the worker after the keeper was stopped; returns
# when both are gone.
both_die() {
	local worker way=$((RANDOM % 3))
	worker=$(cat "/proc/$service/task/$service/children")
	worker=${worker// /}
	[ "$way" -lt 2 ] || kill -STOP "$service"
	if [ "$way" -eq 0 ]; then
		kill -9 "$service" "$worker"
	else
		kill -9 "$worker" "$service"
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
