#!/bin/bash
# Children of a program: taken over by default, and not with `inherit = no`, --no-inherit, `manage = no`,
# or where programs of their executable keep ending early. What is left alone has nothing of ours in it.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need python3 perl

# Says how many descriptors it has, and how many mappings and children of ours; then waits.
# shellcheck disable=SC2016 # python's
cat >"$work/home/program.py" <<'END'
import os, time
x = bytearray(b"x") * (1 << 22)
link = sum("larder-link" in line for line in open("/proc/self/maps"))
agents = open("/proc/self/task/%d/children" % os.getpid()).read().split()
print("up", os.getpid(), len(os.listdir("/proc/self/fd")), link, len(agents), flush=True)
time.sleep(1000)
END
child="/usr/bin/python3 program.py"

larderd_start $'[service]
allow-user = *
[policy alone]
inherit = no
[policy never]
manage = no
[policy old]
min-age = 1h
[policy young]
min-age = 1ms
[policy every]
brief-age = 0'

# family OPTION...: a shell under `larder run OPTION...` with one child; sets parent, kid and line.
family() {
	rm -f "$work/client.out" # the last one's word is not this one's
	(cd "$work/home" && as_nobody "$work/bin/larder" run "$@" -- sh -c "$child & wait") \
		>"$work/client.out" 2>&1 </dev/null &
	parent=$!
	WAIT=30 wait_for grep -q ^up "$work/client.out" || fail "$*: no child: $(cat "$work/client.out")"
	line=$(grep ^up "$work/client.out")
	kid=$(cut -d' ' -f2 <<<"$line")
	started+=("$kid" "$parent")
}

is_client() { larder status "$1" >/dev/null 2>&1; }
taken_over() { wait_for is_client "$1" || fail "$2 was not taken over"; }
left_alone() { # of the child: it has what a bare one has, and no agent
	! is_client "$kid" || fail "$1: the child was taken over"
	[ "$(cut -d' ' -f3- <<<"$line")" = "$bare" ] || fail "$1: the child has $line, a bare one $bare"
}

(cd "$work/home" && as_nobody sh -c "$child & wait") >"$work/client.out" 2>&1 </dev/null &
parent=$!
wait_for grep -q ^up "$work/client.out" || fail 'no bare child'
bare=$(grep ^up "$work/client.out" | cut -d' ' -f3-)
started+=("$(grep ^up "$work/client.out" | cut -d' ' -f2)" "$parent")

family
taken_over "$parent" 'a parent'
taken_over "$kid" 'a child'
[ "$(cut -d' ' -f3- <<<"$line")" != "$bare" ] || fail 'a program that is taken over looks like a bare one'

family --policy alone
taken_over "$parent" 'the parent with inherit = no'
left_alone 'inherit = no'

family --no-inherit
taken_over "$parent" 'the parent with --no-inherit'
left_alone --no-inherit

family --policy never
! is_client "$parent" || fail 'manage = no: the parent was taken over'
left_alone 'manage = no'

# The innermost `larder run` counts.
child="'$work/bin/larder' run -- $child" family --no-inherit
taken_over "$kid" 'a child with a larder run of its own'

# ---- min-age ----

family --policy old
taken_over "$kid" 'a child with min-age'
client_pid=$kid
larder evict "$kid" >"$work/evict.out"
grep -q min-age "$work/evict.out" || fail "min-age = 1h: $(cat "$work/evict.out")"
[ "$(client pages_evicted)" -eq 0 ] || fail 'a program younger than min-age was evicted'

family --policy young
taken_over "$kid" 'a child with min-age = 1ms'
client_pid=$kid
larder evict "$kid" >"$work/evict.out"
[ "$(client pages_evicted)" -gt 0 ] || fail "min-age = 1ms: $(cat "$work/evict.out")"

# ---- executables that keep ending early ----

# Each child says whether it has a link (1 or 0). It ends when it is known, so that its end counts
# before the next one begins.
cat >"$work/home/brief.sh" <<'END'
n=0
while [ $n -lt "$1" ]; do
	n=$((n + 1))
	read -r go
	/usr/bin/perl -e 'open F, "/proc/self/maps"; print "links ", 0 + !!grep(/larder-link/, <F>), " $$\n"; $| = 1; <STDIN>'
done
END
# brief POLICY: 40 of them, one after the other; brief.out has a line for each.
brief() {
	rm -f "$work/home/in"
	mkfifo "$work/home/in"
	chmod 666 "$work/home/in"
	exec 7<>"$work/home/in"
	(cd "$work/home" && as_nobody "$work/bin/larder" run --policy "$1" -- sh brief.sh 40) <&7 >"$work/brief.out" 2>&1 &
	started+=("$!")
	for ((i = 1; i <= 40; i++)); do
		echo go >&7
		wait_for printed "$i" || fail "brief program $i: $(cat "$work/brief.out")"
		read -r _ links pid < <(tail -n 1 "$work/brief.out")
		[ "$links" = 0 ] || taken_over "$pid" 'a brief program with a link'
		echo end >&7
		wait_for gone "$pid" || fail "brief program $i stays"
		wait_for ended || fail "brief program $i is known after its end"
	done
	exec 7>&-
}
printed() { [ "$(grep -c . "$work/brief.out")" -eq "$1" ]; }
ended() { ! is_client "$pid"; }

brief default
[ "$(head -n 8 "$work/brief.out" | grep -c 'links 1')" -eq 8 ] || fail "the first 8: $(cat "$work/brief.out")"
# Of the 32 after them, about two show whether they are as brief as ever: at random, 16 are never reached.
[ "$(tail -n 32 "$work/brief.out" | grep -c 'links 0')" -gt 16 ] || fail "the rest: $(cat "$work/brief.out")"

brief every
[ "$(grep -c 'links 1' "$work/brief.out")" -eq 40 ] || fail "brief-age = 0: $(cat "$work/brief.out")"
larderd_stop
