#!/bin/bash
# `larder check-config` and larderd read configuration alike: good files pass, and a bad one is
# refused with file, line and reason.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

file=$work/test.conf

good() { # TEXT
	printf '%s\n' "$1" >"$file"
	larder check-config "$file" >"$work/check.out" 2>&1 || fail "refused: $1"
}

bad() { # LINE TEXT
	local log=$work/larderd.out
	printf '%s\n' "$2" >"$file"
	! larder check-config "$file" >"$work/check.out" 2>&1 || fail "accepted: $2"
	grep -q "$file:$1: ." "$work/check.out" || fail "no $file:$1: with a reason"
	# 124 would be timeout's: larderd running on.
	local code=0
	timeout 30 "$build/svc/larderd" --config "$file" --runtime-dir "$LARDER_RUNTIME_DIR" \
		>"$log" 2>&1 || code=$?
	case $code in 0 | 124) fail "larderd ran with: $2" ;; esac
	grep -q "$file:$1: ." "$log" || fail "larderd says no $file:$1: with a reason"
	! mountpoint -q "$LARDER_RUNTIME_DIR/store" || fail 'larderd left its store mounted'
}

good ''
good '# only a comment'
good '[service]
allow-user = *'
good '[service]
allow-user = root, nobody
allow-group = 0
readers = 2

[store]
memory-limit = 1G

[policy caches]
match-exe = redis-server, /usr/bin/memcached
cold-after = 10m
stall-budget = 0.5%
memory-limit = 512M
codec = zstd
level = 6

[policy later]
match-exe = java
recompress-after = 1h
level = 19

[policy leave-alone]
match-user = root
manage = no'

# What is dumped is right, says the same when it is read again, and has the values.
dump() { "$build/svc/larderd" --config "$1" --dump-config; }
dump "$file" >"$work/dump.conf" || fail 'larderd --dump-config failed'
larder check-config "$work/dump.conf" >"$work/check.out" 2>&1 || fail "the dump is wrong: $(cat "$work/check.out")"
dump "$work/dump.conf" | diff "$work/dump.conf" - || fail 'the dump of the dump differs'
larder --dump-config "$file" | diff "$work/dump.conf" - || fail 'larder and larderd dump differently'
for line in '[policy caches]' 'stall-budget = 0.5%' 'readers = 2' 'min-age = 0' '[policy default]'; do
	grep -qxF "$line" "$work/dump.conf" || fail "no $line in the dump"
done
grep -q '^# Threads that answer page faults' "$work/dump.conf" || fail 'no help in the dump'
grep -A 9 -F '[policy leave-alone]' "$work/dump.conf" | grep -qx 'manage = no' || fail 'manage is not no'

bad 2 '[service]
alow-user = *'
bad 3 '
[store]
memory-limit = much'
bad 1 '[stroe]'
bad 1 'readers = 2'
bad 2 '[service]
readers = -1'
bad 4 '[policy one]
match-exe = *

stall-budget = 200%'

bad 3 '[policy one]
match-exe = *
level = 3
codec = lz4'
bad 4 '
[policy one]
codec = zstd
recompress-after = 1h'

! larder check-config "$work/absent.conf" >"$work/check.out" 2>&1 || fail 'accepted a missing file'
larderd_start "$(printf '[service]\nallow-user = *\n\n[policy all]\nmatch-exe = *\n')"
larderd_stop
