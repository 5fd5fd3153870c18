#!/bin/bash
# tidy.sh CASE USER: runs one program of tidy.h three ways, bare, under a service that evicts it at
# each of its points, and with the shim but no service. Output and exit code must be the same.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../lib.sh"

name=$1 user=$2
memory=$((8 << 20)) # TIDY_BYTES

# What can't be the same: by how much a number may differ, and the words of the README's limits that
# say so and what to do.
declare -A may_differ=(
	[descriptors]=1 [processes]=1 [environment]=3 [maps]=20 [VmSize]=5000 [VmData]=2200
	[room]=200 [locked]=200 [resident]=1500 [children-usage]=8192 [children-time]=20
	[setns]=87 # EUSERS
	[orphans]=1
)
declare -A documented=(
	[descriptors]='one more descriptor' [processes]='one more process in `ps`'
	[environment]='`LD_PRELOAD`' [maps]='a few more lines in `/proc/PID/maps`'
	[VmSize]='address space' [VmData]='address space' [room]='address space'
	[locked]='mlockall' [resident]='mlockall'
	[setns]='time namespace' [orphans]='which sees it end'
	[children-usage]='RUSAGE_CHILDREN' [children-time]='RUSAGE_CHILDREN'
)

# ---- the three ways ----

# libraries ORDER: LD_PRELOAD with the case's library and, for `first`, the shim behind it.
library=''
case $name in
jemalloc_*) library=libjemalloc.so.2 ;;
eatmydata_*) library=libeatmydata.so ;;
faketime_*) library=$(echo /usr/lib/*/faketime/libfaketime.so.1) ;;
esac
export FAKETIME='2001-02-03 04:05:06'
[ -z "$library" ] || (as_nobody env LD_PRELOAD="$library" true) 2>&1 | { ! grep -q 'cannot be preloaded'; } ||
	skip "$library isn't installed (contrib/setup test)"

program=("$work/bin/tidy" "$name")
case $name in
static) program[0]+=-static ;;
setuid_binary) program[0]+=-setuid ;;
esac
bare=("${program[@]}")
run=("$work/bin/larder" run -- "${program[@]}")
case $name in
*_first) # the library's constructor runs after ours
	bare=(env LD_PRELOAD="$library" "${program[@]}")
	run=("$work/bin/larder" run -- env LD_PRELOAD="$library:$work/bin/liblarder.so" "${program[@]}") ;;
*_last)
	bare=(env LD_PRELOAD="$library" "${program[@]}")
	run=(env LD_PRELOAD="$library" "$work/bin/larder" run -- "${program[@]}") ;;
rlimit_as_start)
	bare=(prlimit --as=$((24 << 20)) "${bare[@]}")
	run=(prlimit --as=$((24 << 20)) "${run[@]}") ;;
rlimit_nofile_start)
	bare=(prlimit --nofile=5 "${bare[@]}")
	run=(prlimit --nofile=5 "${run[@]}") ;;
user_namespace)
	bare=(unshare --user --map-root-user "${bare[@]}")
	run=(unshare --user --map-root-user "${run[@]}") ;;
preload_missing) run=(env LARDER_SHIM=/nonexistent "${run[@]}") ;;
no_inherit) run=("$work/bin/larder" run --no-inherit -- "${program[@]}") ;;
pid_namespace)
	bare=(unshare --pid --fork --kill-child "${bare[@]}")
	run=(unshare --pid --fork --kill-child "${run[@]}") ;;
esac

as_user() {
	[ "$user" = root ] || as_nobody "$@"
	exec "$@"
}

# ---- points ----

managed=yes # is the program taken over at all?
case $name in
rlimit_as_start | rlimit_nofile_start | static | setuid_binary | preload_missing) managed=no ;;
esac

evict_all() {
	local pid
	for pid in $(json '[.clients[] | select(.agent_pid > 0) | .pid] | unique | .[]'); do
		larder evict --json "$pid" || true
	done >"$work/evict.out" 2>&1
}

# Is nearly all of the memory out? Evicts what isn't. An image may be so new that its shim has just
# begun to speak.
taken() {
	evict_all
	[ "$(json '[.clients[].evicted_bytes] | add // 0')" -ge $((memory * 15 / 16)) ]
}

# Its own: a child that it forked has one for as long as it lives.
no_agent() { [ "$(json "[.clients[] | select(.agent_pid > 0 and .pid == $pid)] | length")" -eq 0 ]; }

# The service's timer: what is left of it, 0 when it isn't set.
timer() { sed -n 's/^it_value: (\(.*\), \(.*\))/\1 \2/p' /proc/"$service"/fdinfo/* | awk '{ print $1 * 1e9 + $2 }'; }

# Is it off, or was it set again since the last look? So it isn't about what was before.
timer_last=0
timer_settled() {
	local now
	now=$(timer)
	[ "$now" -ne 0 ] && [ "$now" -le "$timer_last" ] || return 0
	timer_last=$now
	return 1
}

at_point() { # WHAT
	case $managed$1 in
	yestake) wait_for taken || fail "point $points: not taken out: $(cat "$work/evict.out")" ;;
	yesgone) wait_for no_agent || fail "point $points: the old image's agent still lives: $(json .)" ;;
	yesquiet)
		timer_last=$((2 ** 62))
		wait_for timer_settled || fail "the service's timer: $(timer)" ;;
	no*) [ "$(json '.clients | length')" -eq 0 ] || fail "point $points: it was to be left alone: $(json .)" ;;
	*) evict_all ;;
	esac
}

finished() { grep -q '^end' "$out" || { gone "$pid" && [ "$name" != double_fork ]; }; }
arrived() { finished || [ "$(grep -c '^point' "$out")" -gt "$points" ]; }

# way HOW CMD...: runs it to its end. Its output is in $work/HOW.out, with the exit code last.
way() {
	local how=$1 code=0
	shift
	out=$work/$how.out points=0
	# No descriptor of ours beyond the standard ones: a program may count them.
	(exec {in}>&- && cd "$work/home" && as_user "$@") >"$out" 2>"$work/$how.err" <"$work/in" &
	pid=$!
	started+=("$pid")
	while wait_for arrived && ! finished; do
		points=$((points + 1))
		[ -z "$service" ] || at_point "$(sed -n 's/^point //p' "$out" | tail -n 1)"
		printf x >&"$in"
	done
	finished || fail "$how: hangs after point $points: $(cat "$out" "$work/$how.err")"
	wait "$pid" || code=$?
	if grep '^skip ' "$out"; then
		skip "$(sed -n 's/^skip //p' "$out")"
	fi
	echo "code $code" >>"$out"
}

# ---- comparing ----

# What is no more than one line's worth of news to whoever reads stderr.
case $name in
preload_missing) said='no shim at' ;;
preload_lost) said='cannot be preloaded' ;;
*) said='^$' ;;
esac

# numbers HOW: NAME NUMBER of its known lines.
numbers() { sed -n 's/^known //p' "$work/$1.out"; }

same_as_bare() { # HOW
	local key bare_number number
	diff <(grep -v '^known' "$work/bare.out") <(grep -v '^known' "$work/$1.out") ||
		fail "$1: another output than bare (<)"
	diff "$work/bare.err" <(grep -v "$said" "$work/$1.err") || fail "$1: another stderr than bare (<)"
	while read -r key bare_number number; do
		[ -n "${may_differ[$key]:-}" ] || fail "$key isn't a known difference"
		grep -qF "${documented[$key]}" <(sed -n '/^## Limits/,/^## Building/p' "$source_dir/README.md") ||
			fail "README's limits don't say '${documented[$key]}'"
		near "$1: $key, bare and so" "$bare_number" "$number" "${may_differ[$key]}"
	done < <(join <(numbers bare | sort) <(numbers "$1" | sort))
	[ "$(numbers bare | wc -l)" -eq "$(numbers "$1" | wc -l)" ] || fail "$1: other known lines than bare"
}

install -m 755 "$build/tests/e2e/tidy/tidy" "$build/tests/e2e/tidy/tidy-static" "$work/bin"
install -m 755 "$build/tests/e2e/tidy/tidy" "$work/bin/tidy-other"
install -m 4755 "$build/tests/e2e/tidy/tidy" "$work/bin/tidy-setuid"
mkfifo -m 666 "$work/in"
exec {in}<>"$work/in"

way bare "${bare[@]}"
cat "$work/bare.out"
real=$LARDER_RUNTIME_DIR
LARDER_RUNTIME_DIR=$work/nothing
way alone "${run[@]}"
same_as_bare alone
LARDER_RUNTIME_DIR=$real
larderd_start "$everyone"
way managed "${run[@]}"
same_as_bare managed
[ "$(json .service.corrupt_pages)" -eq 0 ] || fail 'damaged pages'
[ "$managed" = no ] || [ "$(json .service.pages_evicted)" -gt 0 ] || fail 'nothing was evicted'
larderd_stop
