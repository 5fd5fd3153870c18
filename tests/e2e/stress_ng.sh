#!/bin/bash
# stress-ng under the service, which evicts it and its children without pause: it finds no wrong byte,
# doesn't hang, and ends as it does without the service.
#
# STRESS_SECONDS (4): of each stressor. stress_ng.sh [STRESSOR...] runs these only.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need stress-ng

# Its name, and its options beside --NAME 2.
declare -A options=(
	[vm]='--vm-bytes 48M --vm-method all --verify' [fork]='' [vfork]=''
	[mmap]='--mmap-bytes 48M --verify' [mremap]='--verify' [malloc]='--malloc-bytes 48M --verify'
	[madvise]='--verify' [brk]='--verify' [stack]='' [userfaultfd]='--verify' [clone]='' [daemon]=''
	[exec]=''
)
[ $# -gt 0 ] || set -- "${!options[@]}"

larderd_start "$everyone"
moved=0
# All that has an agent now; each may end at any moment.
evict_everybody() {
	local pid
	for pid in $(json '.clients[] | select(.agent_pid > 0) | .pid'); do
		larder evict --json "$pid" >"$work/evict.out" 2>/dev/null || continue
		moved=$((moved + $(jq .moved_pages "$work/evict.out")))
	done
}

for name; do
	arguments=(--temp-path "$work/home" --no-rand-seed -t "${STRESS_SECONDS:-4}" "--$name" 2)
	# shellcheck disable=SC2206 # words
	arguments+=(${options[$name]})
	bare=0 code=0 before=$moved
	(cd "$work/home" && as_nobody stress-ng "${arguments[@]}") >"$work/bare.out" 2>&1 </dev/null || bare=$?
	client_start stress-ng "${arguments[@]}"
	until gone "$client_pid"; do
		evict_everybody
	done
	wait "$client_pid" || code=$?
	! grep -iE 'corrupt|mismatch|verif.*fail|fail.*verif' "$work/client.out" || fail "$name: wrong bytes"
	[ "$code" -eq "$bare" ] || fail "$name: ended with $code, and with $bare without the service"
	echo "$name: ended with $code, $((moved - before)) pages out"
done
[ "$(json .service.corrupt_pages)" -eq 0 ] || fail 'damaged pages'
[ $# -lt 2 ] || [ "$moved" -gt 0 ] || fail 'nothing was evicted'
larderd_stop
