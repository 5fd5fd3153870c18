#!/bin/bash
# Who else looks at evicted memory. process_vm_readv is served as the program itself is. /proc/PID/mem
# and ptrace, by which debuggers look, are refused, and see all after `larder release`; so does a core
# file.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=tests/e2e/stops_lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/stops_lib.sh"

ulimit -c unlimited 2>/dev/null || ulimit -c "$(ulimit -Hc)" # of the programs; before they start

evict_first() {
	evict_fully
	evicted=$(client evicted_bytes)
	[ "$evicted" -ge "${memory[1]}" ] || fail "$case: evicted only $evicted bytes"
}

# What it says, run by the same user.
look() { (as_nobody "$work/bin/stops" "$@") 2>&1; }
looks() { # EXPECTED HOW
	local said
	said=$(look "$2" "$client_pid" "${memory[@]}") || fail "$case: $2: $said"
	[ "$said" = "$1" ] || fail "$case: $2 sees: $said, and not: $1"
}

release() {
	larder release "$client_pid" >"$work/release.out" || fail "$case: release: $(cat "$work/release.out")"
	[ "$(client evicted_bytes)" -eq 0 ] || fail "$case: $(client evicted_bytes) bytes are still out"
}

larderd_start "$everyone"
stops_start first
pages=$((memory[1] / 4096))

case='process_vm_readv'
evict_first
looks good read
[ "$(client evicted_bytes)" -lt "$evicted" ] || fail "$case: nothing came back"
checked first

case='a debugger, before'
evict_first
looks "good 0 refused $pages" peek
[ "$(client evicted_bytes)" -eq "$evicted" ] || fail "$case: what it saw came back"

case='a debugger, after a release'
release
looks "good $pages refused 0" peek
checked first

case='a debugger, after another eviction'
evict_first
looks "good 0 refused $pages" peek
checked first

# ---- a core file ----

case='a core file after a release'
pattern=$(cat /proc/sys/kernel/core_pattern)
case $pattern in
\|* | */* | '') skip "core files don't come to the program's directory here ($pattern)" ;;
esac
[ "$(ulimit -c)" = unlimited ] || skip 'core files are limited here'
evict_first
release
kill -ABRT "$client_pid"
code=0
wait "$client_pid" 2>/dev/null || code=$?
[ "$code" -eq 134 ] || fail "$case: it ended with $code"
core=$(find "$work/home" -maxdepth 1 -type f -size +3000k)
[ -n "$core" ] || fail "$case: there is none: $(ls -l "$work/home")"
said=$(look core "$core" "${memory[@]}")
[ "$said" = good ] || fail "$case: $said"
no_clients() { [ "$(json '.clients | length')" -eq 0 ]; }
wait_for no_clients || fail "$case: the service keeps it: $(larder status)"
[ "$(json .service.corrupt_pages)" -eq 0 ] || fail 'damaged pages'
larderd_stop
