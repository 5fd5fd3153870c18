# shellcheck shell=bash
# What the end-to-end tests share: a larderd of each test's own, programs under it, and questions to
# it. Sourced first; everything started through it is ended and removed when the test ends.
#
# LARDER_BUILD is the build tree to test (ctest sets it). MUST_WORK=1 turns a skip into a failure.
set -euo pipefail

source_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${LARDER_BUILD:-$source_dir/build/tests}
work=''        # this test's directory; removed at the end
service=''     # pid of larderd, '' when it isn't running
started=()     # pids of programs to end with the test
at_exit=()     # commands for the end, when those have ended
client_pid=''  # what client_start started last
larderd_in=()  # a command that executes larderd; empty: nothing has to
larderd=$build/svc/larderd # what is started

fail() {
	echo "FAIL: $*" >&2
	exit 1
}

skip() {
	echo "skipped: $*" >&2
	[ "${MUST_WORK:-}" != 1 ] || exit 1
	exit 77
}

need() { # programs, all of them
	local program
	for program; do
		command -v "$program" >/dev/null || skip "$program isn't installed (contrib/setup test)"
	done
}

# ---- waiting ----

# wait_for CMD ARG...: polls until it succeeds. Returns 1 after WAIT seconds (60).
wait_for() {
	local end=$((SECONDS + ${WAIT:-60}))
	until "$@" >/dev/null 2>&1; do
		[ "$SECONDS" -lt "$end" ] || return 1
		sleep 0.05
	done
}

gone() { ! kill -0 "$1" 2>/dev/null; }

# stop PID: TERM and, when that has no effect, KILL with its children; its exit code, 137 for the latter.
stop() {
	local children
	kill "$1" 2>/dev/null || true
	if ! wait_for gone "$1"; then
		children=$(cat "/proc/$1/task/$1/children" 2>/dev/null) || children=''
		# shellcheck disable=SC2086 # a list of pids
		kill -9 "$1" $children 2>/dev/null || true
	fi
	wait "$1" 2>/dev/null
}

# ---- users ----

# as_nobody CMD ARG...: replaces the shell, so use it with & or in ( ).
as_nobody() { exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }

# ---- service ----

# shellcheck disable=SC2034 # for the tests
everyone=$'[service]\nallow-user = *' # a configuration that lets any user's programs in

# memory_is MIB: what the service is told that the machine has available, of 4 GiB. The first time, before
# it starts.
memory_is() {
	printf '%s kB\n' "MemTotal: $((4 << 20))" "MemAvailable: $(($1 << 10))" 'SwapFree: 0' >"$work/meminfo.new"
	# In place: it is the file that is mounted.
	cat "$work/meminfo.new" >"$work/meminfo"
	# shellcheck disable=SC2016 # the inner shell's
	larderd_in=(unshare --mount --propagation private sh -c
		'mount --bind "$0" /proc/meminfo && exec "$@"' "$work/meminfo")
}

# larderd_start CONFIG: starts it with that text as its configuration. It is ready on return.
larderd_start() {
	printf '%s\n' "$1" >"$work/larder.conf"
	"${larderd_in[@]}" "$larderd" --config "$work/larder.conf" --runtime-dir "$LARDER_RUNTIME_DIR" \
		2>>"$work/larderd.log" </dev/null &
	service=$!
	wait_for larderd_answers || fail "larderd doesn't answer"
	! gone "$service" || fail 'larderd ended'
}

larderd_answers() { gone "$service" || larder status; }

# Ends it, and checks that it ended well and left nothing.
larderd_stop() {
	local code=0 pid=$service
	service=''
	stop "$pid" || code=$?
	[ "$code" -eq 0 ] || fail "larderd ended with $code"
	! mountpoint -q "$LARDER_RUNTIME_DIR/store" || fail 'larderd left its store mounted'
}

larder() { "$work/bin/larder" "$@"; }

# json FILTER: what jq makes of the status.
json() { larder status --json | jq -er "$1"; }

# client FIELD [PID]: a number of the status, of the latest client unless a pid is given.
client() { json ".clients[] | select(.pid == ${2:-$client_pid}) | .$1"; }

# in_trouble NAME: the status and the metrics say so. no_trouble: of nothing, in either.
in_trouble() {
	json ".service.trouble[] | select(.name == \"$1\") | .since_s" && metrics | grep -qx "larder_trouble{name=\"$1\"} 1"
}
no_trouble() {
	[ "$(json '.service.trouble | length')" -eq 0 ] && ! metrics | grep 'larder_trouble{.*} 1$'
}
metrics() {
	python3 -c '
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
sys.stdout.write(s.makefile(encoding="utf-8").read())' "$LARDER_RUNTIME_DIR/stats.sock"
}

# ---- programs ----

# client_start CMD ARG...: runs it under the service as nobody, in $work/home, with its output in
# $work/client.out; sets client_pid. Doesn't wait.
client_start() {
	(cd "$work/home" && as_nobody "$work/bin/larder" run -- "$@") >"$work/client.out" 2>&1 </dev/null &
	client_pid=$!
	started+=("$client_pid")
}

client_managed() { [ "$(client state)" = managed ]; }

# Waits until the service looks after the latest client.
client_wait() {
	wait_for client_managed_or_gone || fail 'the program was not taken over'
	! gone "$client_pid" || fail "the program ended: $(tail -n 5 "$work/client.out")"
}

client_managed_or_gone() { gone "$client_pid" || client_managed; }

# Evicts all of the latest client. An order ends early, and says so, when the agent gets no CPU in
# time, as on a machine busy with other tests: then it is given again.
evict_fully() {
	local passes=0 left
	until [ "$passes" -eq 20 ]; do
		passes=$((passes + 1))
		larder evict --json "$client_pid" >"$work/evict.out"
		left=$(jq -r 'select(.why != "" or .busy_pages > 0) |
			"\(.busy_pages) pages busy, \(.why)"' "$work/evict.out")
		[ -n "$left" ] || return 0
		echo "evict, pass $passes: $left"
	done
	fail "evict took not everything in $passes passes"
}

# smaps FIELD [PID]: bytes, from the kernel.
smaps() { awk -v field="$1:" '$1 == field { print $2 * 1024 }' "/proc/${2:-$client_pid}/smaps_rollup"; }

# near WHAT A B TOLERANCE: both are equal but for TOLERANCE.
near() {
	local apart=$(($2 - $3))
	[ "${apart#-}" -le "$4" ] || fail "$1: $2 and $3 differ by more than $4"
	echo "$1: $2 and $3"
}

# ---- redis ----

redis() { redis-cli -s "$work/home/socket" "$@"; }

# As client_start, ready and taken over on return.
redis_start() {
	need redis-server redis-cli
	client_start redis-server --port 0 --unixsocket socket --save '' --enable-debug-command local \
		--busy-reply-threshold 0 --loglevel warning
	wait_for redis PING || fail "redis doesn't answer"
	client_wait
}

# redis_fill COUNT [OPTION...]: JSON records user:0 ...
redis_fill() {
	local reply
	reply=$("$source_dir/contrib/json-values" -v n="$1" -v seed=1 | redis "${@:2}" --pipe | tail -n 1)
	[ "$reply" = "errors: 0, replies: $1" ] || fail "redis said: $reply"
}

redis_digest() {
	local digest
	digest=$(redis DEBUG DIGEST)
	[[ $digest =~ ^[0-9a-f]{40}$ ]] || fail "redis said: $digest"
	echo "$digest"
}

# ---- begin and end ----

clean_up() {
	local code=$? pid command
	trap '' INT TERM HUP
	for pid in "${started[@]}"; do
		stop "$pid" || true
	done
	[ -z "$service" ] || stop "$service" || true
	for command in "${at_exit[@]}"; do
		eval "$command" || true
	done
	if [ "$code" -ne 0 ] && [ "$code" -ne 77 ]; then
		tail -v -n 30 "$work"/*.log "$work"/*.out 2>/dev/null || true
	fi
	! mountpoint -q "$LARDER_RUNTIME_DIR/store" || umount -l "$LARDER_RUNTIME_DIR/store" || true
	rm -rf --one-file-system "$work"
}

[ "$(id -u)" -eq 0 ] || skip 'needs root'
need jq setpriv mountpoint
work=$(mktemp -d "${TMPDIR:-/tmp}/larder-test.XXXXXX")
export LARDER_RUNTIME_DIR=$work/run
trap clean_up EXIT
trap 'exit 1' INT TERM HUP
chmod 755 "$work"
install -d -o 65534 -g 65534 "$work/home"
# Other users can't read a build tree that lies below /root.
install -D -m 755 -t "$work/bin" "$build/svc/larder" "$build/svc/liblarder.so"
