# shellcheck shell=bash
# Control groups that freeze processes, of version 1 and 2, as far as there are any. Sourced after
# lib.sh.

# freezer_root VERSION: where its hierarchy is mounted; '' when it isn't.
freezer_root() {
	awk -v want="$1" '
		{ split($0, half, " - "); split(half[2], fs, " "); options = "," fs[3] "," }
		want == 2 && fs[1] == "cgroup2" { print $5; exit }
		want == 1 && fs[1] == "cgroup" && options ~ /,freezer,/ { print $5; exit }' \
		/proc/self/mountinfo
}

freezer_dir() { echo "$(freezer_root "$1")/larder-test-$$"; }

# The versions that work here, one a line. They are made now and removed at the end.
freezer_versions() {
	local version dir
	for version in 1 2; do
		[ -n "$(freezer_root "$version")" ] || continue
		dir=$(freezer_dir "$version")
		mkdir -p "$dir" 2>/dev/null || continue
		if [ -w "$dir/freezer.state" ] || [ -w "$dir/cgroup.freeze" ]; then
			echo "$version"
		else
			rmdir "$dir"
		fi
	done
}

freezer_is() { # VERSION frozen|thawed
	local dir state
	dir=$(freezer_dir "$1")
	if [ "$1" = 1 ]; then
		state=$(tr '[:upper:]' '[:lower:]' <"$dir/freezer.state")
	else
		state=$(awk '$1 == "frozen" { print $2 ? "frozen" : "thawed" }' "$dir/cgroup.events")
	fi
	[ "$state" = "$2" ]
}

freezer_set() { # VERSION frozen|thawed
	local dir
	dir=$(freezer_dir "$1")
	if [ "$1" = 1 ]; then
		tr '[:lower:]' '[:upper:]' <<<"$2" >"$dir/freezer.state"
	elif [ "$2" = frozen ]; then
		echo 1 >"$dir/cgroup.freeze"
	else
		echo 0 >"$dir/cgroup.freeze"
	fi
	wait_for freezer_is "$1" "$2" || fail "control groups, version $1: it doesn't get $2"
}

freezer_freeze() { # VERSION PID...
	local pid
	for pid in "${@:2}"; do
		echo "$pid" >"$(freezer_dir "$1")/cgroup.procs"
	done
	freezer_set "$1" frozen
}

freezer_thaw() { freezer_set "$1" thawed; }

freezer_remove() {
	local version dir
	for version in 1 2; do
		[ -n "$(freezer_root "$version")" ] || continue
		dir=$(freezer_dir "$version")
		[ -d "$dir" ] || continue
		freezer_thaw "$version" || true
		wait_for rmdir "$dir"
	done
}
at_exit+=(freezer_remove)
