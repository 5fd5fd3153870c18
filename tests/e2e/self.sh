#!/bin/bash
# What the service asks of the kernel for itself: locked memory, no huge pages, a low oom_score_adj, many
# open files. Where it may not have it, it says so and runs all the same.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

# Of the process that does the work.
field() { awk -v key="$1:" '$1 == key { print $2 }' "/proc/$(json .service.pid)/status"; }
files() { awk '/^Max open files/ { print $4 }' "/proc/$(json .service.pid)/limits"; }
logged() { grep -q "$1" "$work/larderd.log"; }
warns() { # NAME...: of larder doctor, about the service itself
	local got
	got=$(larder doctor --json | jq -r '[.findings[] | select(.level != "ok") | .name |
		select(test("^(files|locked-memory|own-memory|oom-score|tasks)$"))] | join(" ")')
	[ "$got" = "$*" ] || fail "doctor warns of '$got', not of '$*'"
}

# score_is SCORE: what larderd is told that its oom_score_adj is. Where a test may not lower its own, it is
# a file that says so.
score_is() {
	echo "$1" >"$work/score"
	# shellcheck disable=SC2016 # the inner shell's
	larderd_in=(unshare --mount --propagation private sh -c
		'mount --bind "$0" /proc/$$/oom_score_adj && ulimit -Sn 100 && exec "$@"' "$work/score")
}

lowers=''
! (echo -900 >/proc/self/oom_score_adj) 2>/dev/null || lowers=1

score_is 0
larderd_start "$everyone"
[ "$(field VmLck)" -gt 0 ] || fail 'its memory is not locked'
[ "$(field THP_enabled)" -eq 0 ] || fail 'it takes huge pages'
[ "$(cat "$work/score")" = -900 ] || fail "oom_score_adj is $(cat "$work/score")"
hard=$(ulimit -Hn)
[ "$hard" != unlimited ] && [ "$hard" -lt 1048576 ] || hard=1048576
[ "$(files)" -eq "$hard" ] || fail "it may have $(files) open files, not $hard"
! grep -v 'ready at' "$work/larderd.log" || fail 'it warns of something'
larderd_stop

# A unit's, or an administrator's.
score_is -950
larderd_start "$everyone"
[ "$(cat "$work/score")" = -950 ] || fail "a lower oom_score_adj becomes $(cat "$work/score")"
larderd_stop

larderd_in=()
larderd_start "$everyone"
if [ -n "$lowers" ]; then
	warns
	[ "$(cat "/proc/$service/oom_score_adj")" -eq -900 ] || fail 'oom_score_adj is not lowered'
else
	warns oom-score
fi
larderd_stop

limit=$(ulimit -Hl)
[ "$limit" != unlimited ] || limit=1048576

# Without the capabilities for it, and with limits: more than what it has when it starts, and less than
# what it maps later.
# shellcheck disable=SC2016 # the inner shell's
larderd_in=(sh -c 'ulimit -l "$0" && ulimit -n 200 && exec "$@"' "$limit"
	setpriv '--bounding-set=-sys_resource,-ipc_lock')
larderd_start "$everyone"
[ "$(field VmLck)" -eq 0 ] || fail 'its memory is locked'
[ "$(files)" -eq 200 ] || fail "it may have $(files) open files"
logged "memory can't be locked: there is a limit" || fail 'it does not say that its memory is not locked'
logged "oom_score_adj can't be lowered" || fail 'it does not say that its oom_score_adj is what it was'
logged 'limit on open files: 200 is enough for 25 programs' || fail 'it does not say that it may open few files'
warns files locked-memory oom-score
client_start sleep 600
client_wait
larderd_stop
