#!/bin/bash
# A reload, by SIGHUP or `larder reload`, takes over all of a new configuration or nothing of a wrong
# one. The log has a line for each setting that changed, and says which wait for a restart.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

log=$work/larderd.log

logged() { grep -qF -- "$1" "$log"; }

# reload_says TEXT: gives the order, which succeeds and answers that.
reload_says() {
	local said
	said=$(larder reload) || fail "larder reload failed: $said"
	[ "$said" = "$1" ] || fail "larder reload said: $said"
}

# refused CONFIG REASON: neither way takes it over, and both name the place.
refused() {
	printf '%s\n' "$1" >"$work/larder.conf"
	! larder reload >"$work/reload.out" 2>&1 || fail "reload took: $1"
	grep -qF -- "$2" "$work/reload.out" || fail "larder reload said: $(cat "$work/reload.out")"
	: >"$log"
	kill -HUP "$service"
	wait_for logged '; the old settings stay' || fail 'the log says no reason'
	logged "reload: $2" || fail "not logged: $2"
}

# as_policy NAME: the policy that a new program of nobody's gets.
as_policy() {
	client_start sleep 1000
	client_wait
	[ "$(client policy)" = "$1" ] || fail "policy $(client policy) instead of $1"
	stop "$client_pid" || true
}

larderd_start "$everyone"
reload_says 'nothing changed'
as_policy default

printf '%s\n' '[service]' 'allow-user = * nobody' 'readers = 7' '[policy sleepers]' \
	'match-exe = sleep coreutils' 'min-age = 0' 'stall-budget = 5%' >"$work/larder.conf"
kill -HUP "$service"
wait_for logged 'reload: 5 settings changed; these wait for a restart of larderd: readers' ||
	fail 'SIGHUP: no summary in the log'
logged 'reload: [service] allow-user: * -> * nobody' || fail 'allow-user is not logged'
logged 'reload: [service] readers: 0 -> 7: waits for a restart of larderd' || fail 'readers is not logged'
logged 'reload: [policy] policies: default -> sleepers default' || fail 'the new policy is not logged'
logged 'reload: [policy sleepers] match-exe: (none) -> sleep coreutils' || fail 'match-exe is not logged'
logged 'reload: [policy sleepers] stall-budget: 0.1% -> 5%' || fail 'stall-budget is not logged'
! logged 'min-age' || fail 'what did not change is logged'
as_policy sleepers

# It says so until the restart.
reload_says '1 setting changed; these wait for a restart of larderd: readers'

refused $'[service]\nallow-user = *\n[policy sleepers]\nmin-age = 7' "$work/larder.conf:4: min-age: \"7\" lacks a unit"
refused $'[service]\nallow-user =\nallow-user = *' "$work/larder.conf:3: a second allow-user"
as_policy sleepers
rm "$work/larder.conf"
! larder reload >"$work/reload.out" 2>&1 || fail 'reload took an absent file'
grep -qF "$work/larder.conf: No such file" "$work/reload.out" || fail "it said: $(cat "$work/reload.out")"
as_policy sleepers
larderd_stop
