#!/bin/bash
# calls.sh [GLOB...]: the cases of calls.h, or those that match, bare and under a service that evicts
# the program where a case wants it. What they say must be the same, line for line.
#
# A case that differs is made again alone by its name: tests/e2e/calls/calls.sh munmap-middle/all/raw/fork
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../lib.sh"

install -m 755 "$build/tests/e2e/calls/calls" "$work/bin"

# Cases that may differ, and the words of the README's limits that say so.
declare -A may_differ=(
	['mremap-several-refused/*/libc/*']='says EFAULT'
	['mremap-several-grow/*/libc/*']='says EFAULT'
	['mremap-twice-grow/all/libc/child']='says EFAULT'
	['brk-grown/all/libc/child']='says EFAULT'
)
as_documented() { # CASE
	local glob
	for glob in "${!may_differ[@]}"; do
		# shellcheck disable=SC2053 # it is a glob
		[[ $1 == $glob ]] || continue
		grep -qF "${may_differ[$glob]}" <(sed -n '/^## Limits/,/^## Building/p' "$source_dir/README.md") ||
			fail "README's limits don't say '${may_differ[$glob]}'"
		return 0
	done
	return 1
}

# The records without those, with nothing in them that is wrong in itself.
record() { # HOW
	local line name
	while IFS= read -r line; do
		name=${line%%: *}
		as_documented "$name" || echo "$line"
	done <"$work/$1.out"
}

# Answers the program's orders until it ends: PID on $work/orders, a byte on $work/answers.
orders=0
serve() {
	local pid answer
	while read -r -t 120 pid <&"$requests"; do
		[ "$pid" != end ] || return 0
		answer=b
		if [ -n "$service" ]; then
			answer=m
			larder evict --json "$pid" >"$work/evict.out" 2>&1 || answer=n
			orders=$((orders + 1))
		fi
		printf %s "$answer" >&"$answers"
	done
	fail "no word from the program: $(tail -n 3 "$out")"
}

# way HOW CMD...: runs it to its end; its output is in $work/HOW.out, its exit code last.
way() {
	local how=$1 code=0
	shift
	out=$work/$how.out
	(
		exec 3>&"$requests" 4<&"$answers" {requests}>&- {answers}>&-
		cd "$work/home" || exit 1
		"$@" >"$out" 2>&1 </dev/null || code=$?
		echo "code $code" >>"$out"
		echo end >&3
	) &
	started+=($!)
	serve
	wait "$!" || true
}

mkfifo "$work/orders" "$work/answers"
exec {requests}<>"$work/orders" {answers}<>"$work/answers"

way bare "$work/bin/calls" "$@"
larderd_start "$everyone"
way managed "$work/bin/larder" run -- "$work/bin/calls" "$@"

cases=$(cut -d : -f 1 "$work/bare.out" | sort -u | grep -c /) || fail "no case is called $*"
record bare >"$work/bare.record"
record managed >"$work/managed.record"
if ! diff "$work/bare.record" "$work/managed.record" >"$work/difference"; then
	cut -c 1-300 "$work/difference" | head -n 100
	echo "of $cases cases these differ from bare (<):"
	sed -n 's/^[<>] \([^:]*\): .*/\1/p' "$work/difference" | sort -u
	rm "$work/bare.out" "$work/managed.out" # said already
	fail 'another record than bare'
fi
! grep WRONG "$work/managed.out" || fail 'wrong in itself'
tail -n 1 "$work/managed.out" | grep -qx 'code 0' || fail "it ended with $(tail -n 1 "$work/managed.out")"
[ "$(json .service.corrupt_pages)" -eq 0 ] || fail 'damaged pages'
[ "$(json .service.pages_evicted)" -gt 0 ] || fail 'nothing was evicted'
grep skipped "$work/bare.out" || true
echo "$cases cases, $orders evictions, $(json .service.pages_evicted) pages out"
larderd_stop
