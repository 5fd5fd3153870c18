#!/bin/bash
# `larder doctor` on this machine: with a service and without, and about processes that are managed,
# bare, static, not allowed, limited, somebody else's, and gone.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need /usr/bin/python3 iconv

program='import time; x = list(range(10**6)); print("up", flush=True); time.sleep(600)'

# doctor CODE [ARG...]: asks, in text and in JSON; both end with CODE and say the same.
doctor() {
	local code=0 want=$1
	shift
	larder doctor "$@" >"$work/doctor.out" 2>&1 || code=$?
	[ "$code" -eq "$want" ] || fail "larder doctor $* ended with $code, not $want"
	code=0
	larder doctor --json "$@" >"$work/doctor.json" || code=$?
	[ "$code" -eq "$want" ] || fail "larder doctor --json $* ended with $code, not $want"
	jq -e '(.fail > 0) == ('"$want"' == 1)' "$work/doctor.json" >/dev/null || fail "$want: .fail doesn't fit"
	jq -e '[.findings[] | (.level == "ok") != has("remedy")] | all' "$work/doctor.json" >/dev/null ||
		fail 'a warning or failure without a remedy, or a success with one'
	[ "$(grep -ac '^      ' "$work/doctor.out")" -eq "$(jq '.warn + .fail' "$work/doctor.json")" ] ||
		fail 'not one indented line for each warning and failure'
}

# says LEVEL NAME TEXT: a line of the latest.
says() {
	grep -aE "^$1 +$2  " "$work/doctor.out" | grep -qaF -- "$3" || fail "no $1 $2: $3"
}

# The only failures of the latest are of these names.
fails_only() {
	local got
	got=$(jq -r '[.findings[] | select(.level == "fail") | .name] | unique | join(" ")' "$work/doctor.json")
	[ "$got" = "$*" ] || fail "failures: $got; expected: $*"
}

up() { grep -q up "$work/client.out"; }

# bare CMD...: a program of nobody's without larder run; sets client_pid.
bare() {
	(cd "$work/home" && as_nobody "$@") >"$work/client.out" 2>&1 </dev/null &
	client_pid=$!
	started+=("$client_pid")
}

# The service has noticed that what the latest was before its exec is gone.
unknown() { ! larder status "$client_pid"; }

runs() { [ "$(readlink "/proc/$client_pid/exe")" = "$(readlink -f "$1")" ]; }

# ---- without a service ----

doctor 1
says ok kernel "$(uname -r)"
says ok userfaultfd 'a page was moved out'
says fail service "no larderd at $LARDER_RUNTIME_DIR/stats.sock"
fails_only service
client_start /usr/bin/python3 -c "$program"
wait_for up || fail 'the program did not start'
early=$client_pid

code=0
larder doctor nonsense 2>"$work/doctor.out" || code=$?
[ "$code" -eq 2 ] || fail "larder doctor nonsense ended with $code"
doctor 1 2147483647
says fail process 'there is no process'

# ---- with one ----

larderd_start "$everyone"
doctor 0
worker=$(json .service.pid) # the process that does the work
says ok service "pid $worker"
says ok version 'are both'
says ok config "$work/larder.conf"
says ok store "$LARDER_RUNTIME_DIR/store: a tmpfs that is never swapped"
says ok capabilities 'larderd has all'

doctor 1 "$worker"
says fail process 'never its own client'

doctor 1 "$early"
says fail attached "doesn't know it"
fails_only attached

client_start /usr/bin/python3 -c "$program"
client_wait
wait_for up || fail 'the program did not start'
managed=$client_pid
doctor 0 "$managed"
says ok attached 'managed, policy default'
says ok shim liblarder.so
says ok memory 'may be managed'
says ok memory 'file-backed'
larder evict "$managed" >"$work/evict.out"
doctor 0 "$managed"
says ok memory 'may be managed'
(as_nobody "$work/bin/larder" doctor "$managed") >"$work/doctor.out" || fail "nobody may not ask about its own"
says ok attached 'managed, policy default'
says ok memory 'may be managed'

bare /usr/bin/python3 -c "$program"
wait_for up || fail 'the program did not start'
doctor 1 "$client_pid"
says fail preload 'LD_PRELOAD is not set'
says ok permission 'may have programs managed'
says ok memory 'may be managed'
fails_only attached preload

install -m 755 "$build/tests/e2e/static" "$work/bin/static"
client_start "$work/bin/static"
wait_for runs "$work/bin/static" || fail 'the static program did not start'
doctor 1 "$client_pid"
says fail program 'statically linked'

client_start sh -c 'ulimit -d 32768; exec sleep 600'
wait_for runs "$(command -v sleep)" || fail 'the limited program did not start'
wait_for unknown || fail 'the service still knows the shell'
doctor 1 "$client_pid"
says fail limits 'data size is limited to 32 MiB'

sleep 600 &
started+=("$!")
code=0
(as_nobody "$work/bin/larder" doctor "$!") >"$work/doctor.out" || code=$?
[ "$code" -eq 1 ] || fail "a question about root's program ended with $code"
says fail owner "isn't yours to ask about"

# A name that would colour the terminal, and isn't UTF-8.
bare env LD_PRELOAD=$'bad\xff\e[31m' sleep 600
wait_for runs "$(command -v sleep)" || fail 'the program with the bad name did not start'
doctor 1 "$client_pid"
says fail preload 'LD_PRELOAD is bad'
! LC_ALL=C grep -qa $'\e' "$work/doctor.out" "$work/doctor.json" || fail 'a name reached the terminal'
iconv -f UTF-8 -t UTF-8 "$work/doctor.json" >/dev/null || fail "the JSON isn't UTF-8"

# ---- refused by the configuration ----

printf '%s\n' '[service]' 'allow-user = root' '[policy no]' 'match-exe = sleep' 'manage = no' \
	>"$work/larder.conf"
larder reload >/dev/null
client_start /usr/bin/python3 -c "$program"
wait_for up || fail 'the program did not start'
doctor 1 "$client_pid"
says fail permission 'is in neither allow-user'
fails_only attached permission
client_start sleep 600
wait_for runs "$(command -v sleep)" || fail 'sleep did not start'
doctor 1 "$client_pid"
says fail policy 'says manage = no'
doctor 0 "$managed" # what is attached stays so
says warn permission 'is in neither allow-user'

printf '%s\n' '[service]' 'colour = blue' >"$work/larder.conf"
doctor 0 # the service goes on with what it read
says warn config "$work/larder.conf:2: unknown key colour"
larderd_stop
doctor 1 --config "$work/larder.conf"
says fail config "$work/larder.conf:2: unknown key colour"
