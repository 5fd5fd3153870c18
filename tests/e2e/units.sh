#!/bin/bash
# The units for systemd: it finds nothing wrong with them, and the service does all of its work with
# what they leave it: capabilities, system calls, no network, a file system that it can't write to, and
# a store that is mounted for it. It says when it is ready, and how far it is when it ends.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=tests/e2e/both_lib.sh
. "$source_dir/tests/e2e/both_lib.sh"
need cmake python3 systemd-analyze unshare setpriv cc

DESTDIR=$work/root cmake --install "$build" >"$work/install.out"
prefix=$(sed -n 's/^CMAKE_INSTALL_PREFIX:[A-Z]*=//p' "$build/CMakeCache.txt")
units=$work/units
install -d "$units"
install -m 644 -t "$units" "$work/root$prefix"/lib/systemd/system/*
setting() { sed -n "s/^$1=//p" "$units/$2"; }

# ---- as systemd sees them ----

# shellcheck disable=SC2013 # words
for command in $(sed -n 's/^Exec[A-Za-z]*=\([^ ]*\).*/\1/p' "$units/larderd.service"); do
	[ -x "$work/root$command" ] || fail "larderd.service: there is no $command"
done
# The installed ones lie below DESTDIR.
sed -i "s|^\(Exec[A-Za-z]*=\)|\1$work/root|" "$units/larderd.service"
SYSTEMD_UNIT_PATH=$units: systemd-analyze verify --man=no "$units/larderd.service" "$units/run-larder-store.mount" \
	>"$work/verify.out" 2>&1 || fail "systemd-analyze verify: $(cat "$work/verify.out")"
! grep . "$work/verify.out" || fail 'systemd-analyze verify has something to say'
systemd-analyze security --offline=yes --no-pager --threshold=25 "$units/larderd.service" >"$work/security.out" ||
	fail "exposed: $(tail -n 1 "$work/security.out")"
tail -n 1 "$work/security.out"
[ "$(setting Where run-larder-store.mount)" = /run/larder/store ] || fail 'the store is mounted elsewhere'
[ "$(setting RuntimeDirectory larderd.service)" = larder ] || fail 'another runtime directory'

systemd-sysusers --dry-run "$work/root$prefix/lib/sysusers.d/larder.conf" >"$work/sysusers.out" 2>&1 ||
	fail "systemd-sysusers: $(cat "$work/sysusers.out")"
grep -q "group 'larder'\|^$" "$work/sysusers.out" || getent group larder >/dev/null || fail 'no group larder'
install -d "$work/image"
systemd-tmpfiles --create --root="$work/image" "$work/root$prefix/lib/tmpfiles.d/larder.conf" ||
	fail 'systemd-tmpfiles fails'
[ "$(stat -c %a "$work/image/run/larder")" = 755 ] || fail 'no runtime directory of the right mode'

# ---- the service, with what they leave it ----

# @system-service, and what is in its sets.
expand() {
	local word
	for word; do
		if [[ $word = @* ]]; then
			# shellcheck disable=SC2046 # words
			expand $(systemd-analyze syscall-filter --no-pager "$word" | sed '1d; /^ *#/d')
		else
			echo "$word"
		fi
	done
}
# shellcheck disable=SC2046 # words
expand $(setting SystemCallFilter larderd.service) | sort -u >"$work/syscalls"
grep -qx read "$work/syscalls" || fail 'no system calls found'

capabilities=-all
for word in $(setting CapabilityBoundingSet larderd.service); do
	word=${word#CAP_}
	capabilities+=,+${word,,}
done
[ -z "${WITHOUT:-}" ] || capabilities=${capabilities/,+$WITHOUT/} # to find out what it is for

# Of the file system it may write to its runtime directory ($2) alone.
# shellcheck disable=SC2016 # the inner shell's
confine='
mount --rbind "$1" "$1" && mount --rbind "$2" "$2" &&
mount -o remount,bind,ro "$1" && mount -o remount,bind,ro / && mount -o bind,ro /proc/sys /proc/sys &&
python=$3 confined=$4 syscalls=$5 capabilities=$6 && shift 6 &&
exec setpriv --bounding-set="$capabilities" --no-new-privs "$python" "$confined" "$syscalls" "$@"'
larderd_in=(env "NOTIFY_SOCKET=$work/notify" unshare --mount --net --propagation private
	sh -c "$confine" sh "$work" "$LARDER_RUNTIME_DIR" "$(command -v python3)"
	"$source_dir/tests/e2e/confined.py" "$work/syscalls" "$capabilities")

python3 "$source_dir/tests/e2e/notified.py" "$work/notify" >"$work/notify.out" &
started+=("$!")
notified() { grep -q "^$1" "$work/notify.out"; }
wait_for notified listens || fail 'nobody listens'

install -d -m 755 "$LARDER_RUNTIME_DIR" "$LARDER_RUNTIME_DIR/store"
mount -t tmpfs -o "$(setting Options run-larder-store.mount)" larder "$LARDER_RUNTIME_DIR/store" ||
	fail 'the options of the mount unit are wrong'
larderd_start "$everyone"
wait_for notified READY=1 || fail 'it does not say that it is ready'
bounding=$(sed -n 's/^CapBnd:\t//p' "/proc/$service/status")
[ "$bounding" != "$(sed -n 's/^CapBnd:\t//p' /proc/self/status)" ] || fail 'it is not confined'
[ "$(sed -n 's/^CapEff:\t//p' "/proc/$service/status")" = "$bounding" ] || fail 'it lacks a capability that it may have'

# All that it does for programs: follows forks, gives back, stops one whose page is damaged.
mkfifo -m 666 "$work/home/in"
client_start /usr/bin/python3 -c '
import array, os, sys, zlib
data = bytearray(array.array("Q", range(4 << 20)))
want = zlib.crc32(data)
print("ready", flush=True)
for line in open("in"):
    child = os.fork()
    if child == 0:
        os._exit(0 if zlib.crc32(data) == want else 1)
    good = os.waitpid(child, 0)[1] == 0 and zlib.crc32(data) == want
    print("good" if good else "bad", flush=True)'
client_wait
exec 8>"$work/home/in"
wait_for grep -q ready "$work/client.out" || fail 'python3 is not ready'
answers=0
well() { # WHEN
	answers=$((answers + 1))
	echo >&8
	wait_for answered || fail "$1: no answer"
	! grep -qx bad "$work/client.out" || fail "$1: wrong bytes"
}
answered() { [ "$(grep -cx -e good -e bad "$work/client.out")" -eq "$answers" ]; }
evict_fully
[ "$(client evicted_bytes)" -gt $((30 << 20)) ] || fail "only $(client evicted_bytes) bytes are out"
well 'out'
evict_fully
larder release "$client_pid"
[ "$(client evicted_bytes)" -eq 0 ] || fail 'not all came back'
well 'released'
larder reload
mv "$work/larder.conf" "$work/larder.conf.old"
! larder reload 2>"$work/reload.out" || fail 'it reads no configuration'
mv "$work/larder.conf.old" "$work/larder.conf"
doctor=$(larder doctor --json | jq -r '[.findings[] | select(.level != "ok") | .name |
	select(test("^(capabilities|store|locked-memory|own-memory|service)$"))] | join(" ")')
[ -z "$doctor" ] || fail "larder doctor finds: $doctor"

# Another larderd takes over in its place, with no more than it had.
kill -USR2 "$service"
upgraded() { [ "$(json .service.upgrades)" -eq 1 ]; }
wait_for upgraded || fail "no other larderd takes over: $(tail -n 3 "$work/larderd.log")"
[ "$(sed -n 's/^CapBnd:\t//p' "/proc/$service/status")" = "$bounding" ] || fail 'it may do more than before'
[ "$(sed -n 's/^CapEff:\t//p' "/proc/$service/status")" = "$bounding" ] || fail 'it may do less than before'
wait_for notified RELOADING=1 || fail 'it does not say that it reloads'
well 'upgraded'

# Killed as a whole, it is started again, and has what is needed to go on.
evict_fully
both_die
larderd_start "$everyone"
[ "$(client evicted_bytes)" -gt $((30 << 20)) ] || fail "the next one has only $(client evicted_bytes) bytes"
well 'taken over'
evict_fully
well 'taken over, and out again'

client_start /usr/bin/python3 -c 'import os, signal
keep = os.urandom(1 << 20) * 16
print("ready", flush=True)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
signal.sigwait({signal.SIGUSR1})
print(sum(keep))'
client_wait
wait_for grep -q ready "$work/client.out" || fail 'python3 is not ready'
evict_fully
kill "$service"
wait_for notified STOPPING=1 || fail 'it does not say that it ends'
grep -q '^STATUS=ending: [0-9]* programs and [0-9]* MiB left' "$work/notify.out" || fail 'it does not say how far it is'
wait_for gone "$service" || fail 'it does not end'
code=0
wait "$service" || code=$?
service=''
[ "$code" -eq 0 ] || fail "larderd ended with $code"
mountpoint -q "$LARDER_RUNTIME_DIR/store" || fail 'it has unmounted what it did not mount'
