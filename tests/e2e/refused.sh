#!/bin/bash
# Where larderd can't work it doesn't start: it names the place and what helps, loses nothing that
# lies there, and leaves nothing mounted.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need sqlite3 unshare

run=$LARDER_RUNTIME_DIR
mkdir -p "$run/store"

# refused MESSAGE CMD ARG...: it ends by itself, with a failure and that message.
refused() {
	local code=0
	timeout 30 "${@:2}" >"$work/said.out" 2>&1 </dev/null || code=$?
	case $code in 0 | 124 | 137) fail "it ran, with $code: ${*:2}" ;; esac
	grep -qF -- "$1" "$work/said.out" || fail "wanted \"$1\", it said: $(cat "$work/said.out")"
	! mountpoint -q "$run/store" || fail 'the store is mounted'
}

larderd=("$build/svc/larderd" --runtime-dir "$run")

# in_store MESSAGE MOUNT PREPARE: with a file system of that kind (mount's words) at its store, in which
# PREPARE makes what is in the way. All of that is there afterwards as it was; the mount is a namespace's.
in_store() {
	# shellcheck disable=SC2016 # the inner shell's
	refused "$1" unshare --mount bash -c '
		set -e
		mount $1 larder-test "$2/store"
		cd "$2/store"
		eval "$3"
		sum() { find . -type f -exec sha1sum {} + | sort && find . | sort; }
		before=$(sum)
		code=0
		"${@:4}" || code=$?
		[ "$(sum)" = "$before" ] || { echo "LOST: $before, now: $(sum)"; exit 1; }
		exit "$code"' in_store "$2" "$run" "$3" "${larderd[@]}"
	! grep -F LOST "$work/said.out" || fail 'something was lost'
}

at="$run/store: "
in_store "${at}on another file system than tmpfs, which would write clients' memory to a disk; unmount it, or mount a tmpfs there" \
	'-t ramfs' 'echo mine >file'
in_store "${at}no room in the tmpfs: it needs 8 MiB at least" '-t tmpfs -o size=4M' ''
in_store "${at}no room in the tmpfs" '-t tmpfs -o size=16M' 'head -c 16M /dev/zero >ballast'
in_store "${at}index.db or warm.seg in it is not Larder's; move it away, or use another --runtime-dir" \
	'-t tmpfs -o size=64M' 'echo text >index.db; echo mine >warm.seg'
in_store "${at}index.db or warm.seg in it is not Larder's" '-t tmpfs -o size=64M' \
	'sqlite3 index.db "CREATE TABLE t (x); INSERT INTO t VALUES (1)"'
in_store "${at}index.db in it is of a newer Larder; run that one, or remove the file" '-t tmpfs -o size=64M' \
	'sqlite3 index.db "PRAGMA application_id = 0x4c726472; PRAGMA user_version = 99; CREATE TABLE t (x)"'
in_store "${at}index.db in it is a directory; remove it, or use another --runtime-dir" '-t tmpfs -o size=64M' \
	'mkdir index.db; echo mine >index.db/file'

# What a larderd that was killed left is taken over: it ends well after it was ready.
# shellcheck disable=SC2016 # the inner shell's
unshare --mount bash -c '
	mount -t tmpfs -o size=64M larder-test "$1/store" && cd "$1/store" && : >warm.seg
	sqlite3 index.db "PRAGMA application_id = 0x4c726472; PRAGMA user_version = 1; CREATE TABLE t (x)"
	exec "${@:2}"' after_kill "$run" "${larderd[@]}" 2>>"$work/larderd.log" </dev/null &
service=$!
wait_for larderd_answers || fail "larderd doesn't answer"
! gone "$service" || fail 'larderd ended'
refused "$run/lock: another larderd runs with this runtime directory" "${larderd[@]}"
json .service.pid >/dev/null || fail 'the first larderd is disturbed'
larderd_stop

# Users, configurations and directories.
install -m 755 "$build/svc/larderd" "$work/bin/larderd"
refused 'larderd needs root' setpriv --reuid=65534 --regid=65534 --clear-groups \
	"$work/bin/larderd" --runtime-dir "$work/home/run"
refused "$work/absent.conf: No such file or directory" "${larderd[@]}" --config "$work/absent.conf"
refused "$work/home: Is a directory" "${larderd[@]}" --config "$work/home"
printf '[service]\0readers = 2\n' >"$work/nul.conf"
refused "$work/nul.conf:1: a NUL byte: this is not a text file" "${larderd[@]}" --config "$work/nul.conf"
printf '[store]\r\nmemory-limit = 1M\r\n' >"$work/crlf.conf"
refused "$work/crlf.conf:2: memory-limit: 1M is out of range: 0, or from 8M to 1024T" \
	"${larderd[@]}" --config "$work/crlf.conf"
: >"$work/file"
refused "$work/file: must be a directory of larderd's user" "$build/svc/larderd" --runtime-dir "$work/file"
long=$work/$(printf 'x%.0s' {1..200})
refused "$long/stats.sock: too long for a socket's name" "$build/svc/larderd" --runtime-dir "$long"
