#!/bin/bash
# What `cmake --install` puts below DESTDIR runs from there: the service, the tool, and the shim that
# `larder run` finds by itself. Manual pages, example and documents are where others look for them.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need cmake python3

cache() { sed -n "s/^$1:[A-Z]*=//p" "$build/CMakeCache.txt"; }

DESTDIR=$work/root cmake --install "$build" >"$work/install.out"
prefix=$work/root$(cache CMAKE_INSTALL_PREFIX)
libdir=$prefix/$(cache CMAKE_INSTALL_LIBDIR)
! sed 's/^-- [A-Za-z-]*: //' "$work/install.out" | grep '^/' | grep -v "^$work/root/" ||
	fail 'something was installed outside of DESTDIR'

for file in bin/larder sbin/larderd share/man/man1/larder.1 share/man/man5/larder.conf.5 \
	share/man/man8/larderd.8 share/doc/larder/larder.conf share/doc/larder/README.md \
	share/doc/larder/LICENSE lib/systemd/system/larderd.service lib/systemd/system/run-larder-store.mount \
	lib/sysusers.d/larder.conf lib/tmpfiles.d/larder.conf; do
	[ -s "$prefix/$file" ] || fail "$file isn't installed"
done
! grep '@' "$prefix/lib/systemd/system/larderd.service" | grep -v '^SystemCallFilter=@system-service$' ||
	fail 'larderd.service has a place that was not filled in'
[ -s "$libdir/liblarder.so" ] || fail "liblarder.so isn't in $libdir"
! readelf -d "$prefix/bin/larder" "$prefix/sbin/larderd" "$libdir/liblarder.so" | grep -E 'RPATH|RUNPATH' ||
	fail 'a binary looks for libraries in the build tree'
larder() { "$prefix/bin/larder" "$@"; }
larder check-config "$prefix/share/doc/larder/larder.conf"

# The settings of the example with one more line; all of it from the installed tree.
{ printf '[policy all]\nmatch-exe = *\n' && cat "$prefix/share/doc/larder/larder.conf"; } >"$work/larder.conf"
sed -i 's/^#allow-user = .*/allow-user = */' "$work/larder.conf"
"$prefix/sbin/larderd" --config "$work/larder.conf" --runtime-dir "$LARDER_RUNTIME_DIR" \
	2>>"$work/larderd.log" </dev/null &
service=$!
wait_for larderd_answers || fail "larderd doesn't answer"

(as_nobody env -u LARDER_SHIM "$prefix/bin/larder" run -- python3 -c '
import hashlib, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
keep = b"".join(b"%08d" % i for i in range(4 << 20))
print("ready", flush=True)
signal.sigwait({signal.SIGUSR1})
print(hashlib.sha1(keep).hexdigest(), flush=True)') >"$work/client.out" 2>&1 </dev/null &
client_pid=$!
started+=("$client_pid")
client_wait
wait_for grep -q ready "$work/client.out" || fail 'python3 is not ready'
grep -qF "$libdir/liblarder.so" "/proc/$client_pid/maps" || fail 'another shim than the installed one'
evict_fully
[ "$(client evicted_bytes)" -gt $((30 << 20)) ] || fail "only $(client evicted_bytes) bytes out"
kill -USR1 "$client_pid"
wait "$client_pid" || fail "python3 ended with $?"
want=$(python3 -c '
import hashlib
print(hashlib.sha1(b"".join(b"%08d" % i for i in range(4 << 20))).hexdigest())')
[ "$(tail -n 1 "$work/client.out")" = "$want" ] || fail "python3 read $(tail -n 1 "$work/client.out")"
larderd_stop
