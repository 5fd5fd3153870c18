# shellcheck shell=bash
# Control groups that freeze processes, of version 1 and 2, as far as there are any. Sourced after
# lib.sh.

freezers=() # by version: the directory of ours, '' where there is none

# freezer_root VERSION: where its hierarchy is mounted; '' when it isn't.
freezer_root() {
	awk -v want="$1" '
		{ split($0, half, " - "); split(half[2], fs, " "); options = "," fs[3] "," }
		want == 2 && fs[1] == "cgroup2" { print $5; exit }
		want == 1 && fs[1] == "cgroup" && options ~ /,freezer,/ { print $5; exit }' \
		/proc/self/mountinfo
}

# Makes a group in each that works here; removed at the end. A machine has one of the two at least.
freezer_find() {
	local version root dir
	for version in 1 2; do
		root=$(freezer_root "$version")
		dir=$root/larder-test-$$
		freezers[version]=''
		if [ -z "$root" ] || ! mkdir "$dir" 2>/dev/null; then continue; fi
		freezers[version]=$dir
		at_exit+=("freezer_remove $version")
		[ -w "$dir/freezer.state" ] || [ -w "$dir/cgroup.freeze" ] || freezer_remove "$version"
	done
	[ -n "${freezers[1]}${freezers[2]}" ] || skip 'no control group can be made here that freezes'
}

freezer_works() { [ -n "${freezers[$1]}" ]; }

freezer_is() { # VERSION frozen|thawed
	local state
	if [ "$1" = 1 ]; then
		state=$(tr '[:upper:]' '[:lower:]' <"${freezers[1]}/freezer.state")
	else
		state=$(awk '$1 == "frozen" { print $2 ? "frozen" : "thawed" }' "${freezers[2]}/cgroup.events")
	fi
	[ "$state" = "$2" ]
}

freezer_set() { # VERSION frozen|thawed
	if [ "$1" = 1 ]; then
		tr '[:lower:]' '[:upper:]' <<<"$2" >"${freezers[1]}/freezer.state"
	elif [ "$2" = frozen ]; then
		echo 1 >"${freezers[2]}/cgroup.freeze"
	else
		echo 0 >"${freezers[2]}/cgroup.freeze"
	fi
}

freezer_wait() { # VERSION frozen|thawed
	wait_for freezer_is "$1" "$2" || fail "control groups, version $1: it doesn't get $2"
}

# Doesn't wait for it: a thread that waits in the kernel is frozen when that is over.
freezer_freeze() { # VERSION PID...
	local pid
	for pid in "${@:2}"; do
		echo "$pid" >"${freezers[$1]}/cgroup.procs"
	done
	freezer_set "$1" frozen
}

freezer_thaw() {
	freezer_set "$1" thawed
	freezer_wait "$1" thawed
}

freezer_remove() {
	[ -n "${freezers[$1]}" ] || return 0
	freezer_thaw "$1" || true
	wait_for rmdir "${freezers[$1]}" || echo "${freezers[$1]} stays" >&2
	freezers[$1]=''
}
