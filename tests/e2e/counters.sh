#!/bin/bash
# What has been counted is not taken back while the service lives: when its worker is killed, when another
# larderd takes over in place, and when programs that it was about have ended. Each program's own counters
# are those that it had, and another one begins at 0 where an ended one was.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=tests/e2e/both_lib.sh
. "$source_dir/tests/e2e/both_lib.sh"
# shellcheck source=tests/e2e/sums_lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/sums_lib.sh"
need python3

# Of the metrics, all that only grow: a line each, name (and program) and value.
counters() { metrics | sed -n 's/^\(larder_[a-z0-9_]*_total\({[^}]*}\)\{0,1\}\) \([0-9]*\)$/\1 \3/p' | sort; }
# has_grown WHEN: none of them is less than it was, and none that was there is missing.
has_grown() {
	counters >"$work/now"
	awk 'NR == FNR { was[$1] = $2; next } { now[$1] = $2 }
		END { for (name in was) if (!(name in now) || now[name] + 0 < was[name] + 0) {
			print name ": " was[name] ", and " now[name]; bad = 1 }
			exit bad }' "$work/was" "$work/now" >"$work/fallen.out" || fail "$1: $(cat "$work/fallen.out")"
	mv "$work/now" "$work/was"
}
of_service() { json ".service.$1"; }
other() { [ "$(json .service.pid)" != "$1" ]; }
is_another() { # THAN
	wait_for other "$1" || fail 'no other worker serves'
}
kill_worker() {
	local old
	old=$(json .service.pid)
	kill -9 "$old"
	is_another "$old"
}
upgrade() {
	local old
	old=$(json .service.pid)
	kill -USR2 "$service"
	is_another "$old"
}

larderd_start "$everyone"
sums_start
evict_fully
ask first >/dev/null
sleep 1.1 # for uptime_s
for name in faults pages_evicted pages_restored; do
	[ "$(of_service $name)" -gt 20 ] || fail "$name is $(of_service $name)"
	[ "$(client $name)" -gt 20 ] || fail "$name of the program is $(client $name)"
done
for way in kill_worker upgrade kill_worker; do
	evict_fully
	ask "$way$RANDOM" >/dev/null
	counters >"$work/was"
	[ "$(grep -c . "$work/was")" -gt 20 ] || fail "only these counters: $(cat "$work/was")"
	uptime=$(of_service uptime_s)
	$way
	has_grown "$way"
	[ "$(of_service uptime_s)" -ge "$uptime" ] || fail "$way: uptime_s began anew"
	# What they say is of one piece: one program has counted all.
	for name in faults pages_evicted pages_restored; do
		[ "$(of_service $name)" -eq "$(client $name)" ] ||
			fail "$way: $name $(of_service $name), of the only program $(client $name)"
	done
done

# ---- a program that ends ----
before=$(of_service faults)
exec {to}>&-
stop "$client_pid" || true
no_clients() { [ "$(json '.clients | length')" -eq 0 ]; }
wait_for no_clients || fail 'the program is not gone'
[ "$(of_service faults)" -ge "$before" ] || fail 'faults of a program that ended are forgotten'
kill_worker
[ "$(of_service faults)" -ge "$before" ] || fail 'and when the worker died'
before=$(of_service faults)
rm "$work/home/in"
sums_start
[ "$(client faults)" -eq 0 ] || fail "a program begins with the faults of another one: $(client faults)"
evict_fully
ask second >/dev/null
kill_worker
[ "$(of_service faults)" -eq $((before + $(client faults))) ] ||
	fail "$(of_service faults) faults, $before of earlier ones and $(client faults) of this one"

# ---- both processes ----
evict_fully
counters >"$work/was"
both_die
larderd_start "$everyone"
has_grown 'both died'

larderd_stop
echo 'all have grown'
