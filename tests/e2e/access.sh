#!/bin/bash
# Who may attach (allow-user, allow-group), who sees and orders what, and what others can open.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need python3 curl

# as UID[:GROUP,...] CMD...
as() {
	local groups=${1#*:}
	[ "$groups" != "$1" ] && groups=(--groups "$groups") || groups=(--clear-groups)
	setpriv --reuid="${1%%:*}" --regid="${1%%:*}" "${groups[@]}" "${@:2}"
}

program='import time; x = bytearray(b"x") * (1 << 22); print("up", flush=True); time.sleep(1000)'

# start_as WHO: sets client_pid. It is past its start, attached or not.
start_as() {
	rm -f "$work/client.out" # the last one's word is not this one's
	(cd "$work/home" && exec setpriv --reuid="${1%%:*}" --regid="${1%%:*}" "${start_groups[@]}" \
		"$work/bin/larder" run -- /usr/bin/python3 -c "$program") >"$work/client.out" 2>&1 </dev/null &
	client_pid=$!
	started+=("$client_pid")
	wait_for grep -q up "$work/client.out" || fail "python3 as $1: $(cat "$work/client.out")"
}

ours() { larder status "$client_pid" >/dev/null 2>&1; }

# allowed WHO / refused WHO [GROUP,...]: what becomes of a program of this user. The program is up
# when its shim is through; its agent's last word may still be under way.
allowed() {
	try "$1" "${2:-}"
	wait_for ours || fail "$config: $1 ${2:-} may not attach"
}
refused() {
	try "$1" "${2:-}"
	! pgrep -P "$client_pid" >/dev/null || fail "$config: $1 ${2:-} got an agent"
	! ours || fail "$config: $1 ${2:-} may attach"
}
try() {
	start_groups=(--clear-groups)
	[ -z "$2" ] || start_groups=(--groups "$2")
	start_as "$1"
}

# ---- allow-user, allow-group ----

reload() {
	config=$1
	printf '%s\n' "$config" >"$work/larder.conf"
	larder reload >/dev/null
}

larderd_start ''
config=default
allowed 0
refused 65534
refused 1234 4321
reload $'[service]\nallow-user = nobody'
allowed 65534
refused 1234
reload $'[service]\nallow-user = 1234, 77'
allowed 77
refused 65534
allowed 0 # always
reload $'[service]\nallow-group = 4321'
allowed 1234 4321      # a further group
allowed 4321           # its own
refused 1234 4320,4322
reload $'[service]\nallow-group = daemon'
allowed 1234 "$(getent group daemon | cut -d: -f3)"
refused 1234
reload $'[service]\nallow-group = no-such-group-is-there'
refused 1234 4321
reload $'[service]\nallow-user = *'
allowed 1234

# ---- who sees and orders what ----

start_groups=(--clear-groups)
start_as 65534
wait_for ours || fail 'nobody is not attached'
mine=$client_pid
start_as 1234
wait_for ours || fail '1234 is not attached'
other=$client_pid

own=$(as 65534 "$work/bin/larder" status --json | jq -c '[.clients[].uid] | unique')
[ "$own" = '[65534]' ] || fail "nobody sees the programs of $own"
clients=$(as 65534 "$work/bin/larder" status --json | jq .service.clients)
[ "$clients" -eq "$(json '.clients | length')" ] || fail "nobody sees totals of $clients programs"
as 65534 "$work/bin/larder" status "$mine" >/dev/null || fail 'nobody may not see its own'
as 65534 "$work/bin/larder" evict "$mine" >/dev/null || fail 'nobody may not evict its own'
as 65534 "$work/bin/larder" release "$mine" >/dev/null || fail 'nobody may not release its own'
for command in "status $other" "evict $other" "release $other" reload; do
	# shellcheck disable=SC2086 # a command and its operand
	! as 65534 "$work/bin/larder" $command >"$work/refused.out" 2>&1 || fail "nobody may $command"
	grep -qE 'belongs to another user|only root may' "$work/refused.out" ||
		fail "$command: $(cat "$work/refused.out")"
done
[ "$(client pages_evicted "$other")" -eq 0 ] || fail 'an order of another user was carried out'
! as 65534 curl -s --unix-socket "$LARDER_RUNTIME_DIR/stats.sock" http://l/metrics |
	grep -q "pid=\"$other\"" || fail 'metrics tell of the programs of others'
as 0 "$work/bin/larder" evict "$other" >/dev/null || fail 'root may not evict'

# ---- modes ----

# mode NAME MODE: of that in the runtime directory, owned by root.
mode() {
	local is
	is=$(stat -c '%a %u %g' "$LARDER_RUNTIME_DIR/$1")
	[ "$is" = "$2 0 0" ] || fail "$1 has mode and owner $is, not $2"
}
mode . 755
mode attach.sock 666 # who may attach is decided by who knocks
mode stats.sock 666
mode lock 600
mode store 700
options=$(findmnt -no FSTYPE,OPTIONS "$LARDER_RUNTIME_DIR/store")
for word in tmpfs nosuid nodev noexec noswap; do
	grep -qw "$word" <<<"$options" || fail "the store is mounted without $word: $options"
done
while read -r is file; do
	[ $((0$is & 077)) -eq 0 ] || fail "$file in the store has mode $is"
done < <(find "$LARDER_RUNTIME_DIR/store" -mindepth 1 -printf '%m %p\n')
for file in store store/index.db lock; do
	! as 65534 cat "$LARDER_RUNTIME_DIR/$file" >/dev/null 2>&1 || fail "nobody may read $file"
done
! as 65534 ls "$LARDER_RUNTIME_DIR/store" >/dev/null 2>&1 || fail 'nobody may list the store'
larderd_stop

# A umask that would let others in changes nothing, nor does one that would lock them out.
for mask in 000 077; do
	rm -rf "$LARDER_RUNTIME_DIR"
	old=$(umask)
	umask "$mask"
	larderd_start "$everyone"
	umask "$old"
	mode . 755
	mode attach.sock 666
	mode stats.sock 666
	mode lock 600
	mode store 700
	while read -r is file; do
		[ $((0$is & 077)) -eq 0 ] || fail "umask $mask: $file in the store has mode $is"
	done < <(find "$LARDER_RUNTIME_DIR/store" -mindepth 1 -printf '%m %p\n')
	larderd_stop
done

# Its memory holds pages of everybody: it leaves no core, whatever the limits say.
larderd_start ''
mkdir "$work/cores"
# The service is our child, so its end is ours to see; a core of it would say so in the status.
python3 - "$build/svc/larderd" "$work/cores" <<'END' || fail 'larderd left a core dump'
import os, resource, signal, subprocess, sys, time
resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
run = sys.argv[2] + "/run"
p = subprocess.Popen([sys.argv[1], "--runtime-dir", run], cwd=sys.argv[2], stderr=subprocess.DEVNULL)
while not os.path.exists(run + "/attach.sock"):
    assert p.poll() is None
    time.sleep(0.01)
p.send_signal(signal.SIGABRT)
_, status = os.waitpid(p.pid, 0)
p.returncode = 0
# The worker gives back what it has, and ends.
end = time.monotonic() + 30
while subprocess.run(["umount", run + "/store"]).returncode and time.monotonic() < end:
    time.sleep(0.05)
assert not os.path.ismount(run + "/store")
sys.exit(os.WCOREDUMP(status))
END
larderd_stop

# A directory that others may write to is no place for sockets that programs trust.
rm -rf "$LARDER_RUNTIME_DIR"
install -d -m 777 "$LARDER_RUNTIME_DIR"
! timeout 20 "$build/svc/larderd" --runtime-dir "$LARDER_RUNTIME_DIR" 2>"$work/refused.out" ||
	fail 'a directory of mode 777 was taken'
grep -q "$LARDER_RUNTIME_DIR: .*nobody else may write to.*chmod" "$work/refused.out" ||
	fail "$(cat "$work/refused.out")"
