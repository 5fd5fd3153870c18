#!/bin/bash
# A program in a pid namespace of its own: it is shown with both numbers; who asks from in there
# speaks of the numbers in there, sees nothing else, and reaches nothing else, as the same user.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need unshare nsenter python3

unshare --pid --fork --mount-proc true 2>/dev/null || skip 'no pid namespaces can be made'
larderd_start "$everyone"

# holder NAME: a program that says its own number, holds some memory, and heeds TERM, which the first
# process of a namespace doesn't by itself.
holder() {
	echo "import os, signal, sys; x = b'$1' * (1 << 21)
signal.signal(signal.SIGTERM, lambda *_: sys.exit()); print(os.getpid(), flush=True); signal.pause()"
}

# ---- the same number inside and outside ----

# Inside, numbers begin at 1. So a process outside that has the number which one has inside: 1 has none
# of ours, and others can't be chosen but by luck. A second namespace gives two with equal numbers.
start_inside() { # NAME: sets init, our number of the namespace's first process
	unshare --pid --fork --mount-proc --kill-child setpriv --reuid=65534 --regid=65534 --clear-groups \
		"$work/bin/larder" run -- /usr/bin/python3 -c "$(holder "$1")" >"$work/$1.out" 2>&1 </dev/null &
	wait_for grep -q '^1$' "$work/$1.out" || fail "$1 doesn't start: $(cat "$work/$1.out")"
	init=$(tr -d ' ' <"/proc/$!/task/$!/children")
	started+=("$init")
	client_pid=$init
	client_wait
}

start_inside a
a=$init
start_inside b
b=$init
client_start /usr/bin/python3 -c "$(holder outside)"
client_wait
outside=$client_pid

for pid in "$a" "$b"; do
	[ "$(client ns_pid "$pid")" = 1 ] || fail "ns_pid of $pid: $(client ns_pid "$pid")"
done
[ "$(client ns_pid "$outside")" = "$outside" ] || fail 'ns_pid of a program in our namespace'
larder status | grep -q "^ *$a/1 " || fail "no $a/1 in: $(larder status)"
larder status "$a" | grep -q "^pid $a (1 in its own pid namespace)" || fail "$(larder status "$a")"

# ---- asked from inside ----

# inside PID CMD...: in the namespaces of that process, as nobody.
inside() {
	nsenter --target "$1" --pid --mount setpriv --reuid=65534 --regid=65534 --clear-groups "${@:2}"
}

seen=$(inside "$a" "$work/bin/larder" status --json | jq -c '[.clients[] | [.pid, .ns_pid]]')
[ "$seen" = '[[1,1]]' ] || fail "seen from inside: $seen"
seen=$(nsenter --target "$a" --pid --mount "$work/bin/larder" status --json | jq -c '[.clients[].pid]')
[ "$seen" = '[1]' ] || fail "root, from inside, sees: $seen"

inside "$b" "$work/bin/larder" evict 1 >"$work/evict.out" || fail "$(cat "$work/evict.out")"
[ "$(client pages_evicted "$b")" -gt 0 ] || fail "evict 1 inside of b evicted nothing of it"
[ "$(client pages_evicted "$a")" -eq 0 ] || fail 'evict 1 inside of b went to a'

# Ours in there are nobody's numbers.
for pid in "$outside" "$b"; do
	for command in evict release status; do
		! inside "$a" "$work/bin/larder" "$command" "$pid" >"$work/evict.out" 2>&1 ||
			fail "$command $pid from inside did something: $(cat "$work/evict.out")"
		grep -q "process $pid: not a client" "$work/evict.out" || fail "$(cat "$work/evict.out")"
	done
done
[ "$(client pages_evicted "$outside")" -eq 0 ] || fail 'a program outside was evicted from inside'

# ---- a namespace below: has a number in each above ----

unshare --pid --fork --mount-proc --kill-child sh -c "
	sleep 1000 & sleep 1000 & # so that the numbers differ
	exec unshare --pid --fork --mount-proc --kill-child setpriv --reuid=65534 --regid=65534 --clear-groups \
		'$work/bin/larder' run -- /usr/bin/python3 -c \"$(holder c)\"" >"$work/c.out" 2>&1 </dev/null &
wait_for grep -q '^1$' "$work/c.out" || fail "c doesn't start: $(cat "$work/c.out")"
outer=$(tr -d ' ' <"/proc/$!/task/$!/children") # its first process, which became the second unshare
c=$(json "[.clients[] | select(.pid != $a and .pid != $b and .pid != $outside)][0].pid")
started+=("$c")
client_pid=$c
client_wait
middle=$(awk '/^NSpid:/ { print $3 }' "/proc/$c/status")
[ "$middle" -gt 1 ] || fail "NSpid of c: $(grep NSpid "/proc/$c/status")"
inside "$outer" "$work/bin/larder" status "$middle" | grep -q "^pid $middle (1 in its own" ||
	fail "from the namespace above: $(inside "$outer" "$work/bin/larder" status)"
inside "$outer" "$work/bin/larder" evict "$middle" >/dev/null
[ "$(client pages_evicted "$c")" -gt 0 ] || fail 'evict from the namespace above evicted nothing'

# ---- from outside, our numbers ----

larder evict "$a" >/dev/null
[ "$(client pages_evicted "$a")" -gt 0 ] || fail 'evict of a from outside evicted nothing'
larder release "$b" >/dev/null
[ "$(client state "$b")" = released ] || fail 'b was not released from outside'
larderd_stop
