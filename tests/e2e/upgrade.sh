#!/bin/bash
# SIGUSR2: another larderd takes over in place. The process stays the same, and so does every byte of a
# program whose memory is out. A binary that can't take over changes nothing, and one that turns out not to
# be able to goes back. An older index is migrated, a newer one is refused; programs keep their shims. It
# is refused while another one is under way, and while the service ends, and a service that is to end does.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=tests/e2e/sums_lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/sums_lib.sh"
need python3 sqlite3 prlimit

next=$build/tests/e2e/next
larderd=$work/bin/larderd
install_larderd() { # FILE, as a package does it: another file of the same name
	install -m 755 "$1" "$larderd.new"
	mv "$larderd.new" "$larderd"
}
begin() { # ASSIGNMENT...
	install_larderd "$build/svc/larderd"
	larderd_in=(env "NOTIFY_SOCKET=$work/notify" "$@")
	: >"$work/larderd.log"
	larderd_start "$everyone"
	expect_upgrades 0
}
said() { grep -q -- "$1" "$work/larderd.log"; }
upgrades() { json .service.upgrades; }
has_upgraded() { [ "$(upgrades)" -eq "$1" ] && json .service.pid; }
expect_upgrades() { wait_for has_upgraded "$1" || fail "$(upgrades) upgrades, not $1"; }
version() { json .service.version; }
descriptors() { find "/proc/$service/fd" -type l | wc -l; }

asked=0 right=''
# Its bytes, of which most are out before and afterwards.
right() { # WHEN
	asked=$((asked + 1))
	[ "$(ask "q$asked")" = "$right" ] || fail "$1: not the same bytes"
	evict_fully
	[ "$(client evicted_bytes)" -gt $((30 << 20)) ] || fail "$1: only $(client evicted_bytes) bytes are out"
}
begin_program() {
	sums_start
	right=$(ask "begin$asked")
	evict_fully
}
end_program() {
	exec {to}>&-
	stop "$client_pid" || true
	rm "$work/home/in"
}
upgrade() { # TIMES so far, with this one
	kill -USR2 "$service"
	expect_upgrades "$1"
}

python3 "$source_dir/tests/e2e/notified.py" "$work/notify" >"$work/notify.out" &
started+=("$!")
notified() { [ "$(grep -c "^$1" "$work/notify.out")" -ge "$2" ]; }
wait_for notified listens 1 || fail 'nobody listens'

# ---- the same binary ----

begin
begin_program
faults=$(json .service.faults)
first_descriptors=$(descriptors)
was=$(json .service.pid)
for i in 1 2 3; do
	upgrade $i
	[ "$(json .service.pid)" != "$was" ] || fail 'the worker is the same'
	was=$(json .service.pid)
	right "upgrade $i"
	[ "$(cat "/proc/$service/comm")" = larderd ] || fail 'its name is lost'
	wait_for notified RELOADING=1 $i || fail 'the service manager is not told that it reloads'
	wait_for notified READY=1 $((i + 1)) || fail 'the service manager is not told that it is ready'
done
[ "$(descriptors)" -le $((first_descriptors + 2)) ] || fail "$(descriptors) descriptors, and were $first_descriptors"
[ "$(grep -c '^nobody was served for [0-9]* ms' "$work/larderd.log")" -eq 3 ] || fail 'the pauses are not told'
! said 'the worker was ended' || fail 'a worker did not leave by itself'
[ "$(tr '\0' ' ' <"/proc/$service/environ" | grep -c LARDER_HANDOVER)" -le 1 ] || fail 'the environment grows'
[ "$(json .service.faults)" -ge "$faults" ] || fail 'faults are forgotten'

# ---- binaries that can't ----

# refused WHY: it says so, and everything is as it was.
refused() {
	local before
	before=$(json .service.pid)
	: >"$work/larderd.log"
	kill -USR2 "$service"
	wait_for said 'this larderd goes on' || fail "nobody says that it goes on: $1"
	said "$1" || fail "it does not say: $1"
	[ "$(json .service.pid)" = "$before" ] || fail "another worker: $1"
	expect_upgrades "${upgraded:-3}"
	right "$1"
}
rm "$larderd"
refused 'No such file or directory; this'
echo 'no program' >"$larderd"
refused 'Permission denied'
chmod 755 "$larderd"
refused 'Exec format error'
install_larderd /bin/false
refused 'can.t take over (exit code 1)'
install_larderd /bin/true
refused 'can.t take over (exit code 0)'
install_larderd "$work/bin/larder" # a program of ours, and another one
refused 'can.t take over (exit code'
install_larderd "$(command -v python3)" # which doesn't know the options
refused 'can.t take over (exit code'
wait_for notified RELOADING=1 6 || fail 'the service manager is not told of attempts'
wait_for notified READY=1 6 || fail 'the service manager believes that it still reloads'
# A configuration that the new one doesn't read.
install_larderd "$build/svc/larderd"
mv "$work/larder.conf" "$work/larder.conf.old"
echo 'colour = blue' >"$work/larder.conf"
refused 'can.t take over (exit code 1)'
mv "$work/larder.conf.old" "$work/larder.conf"
# A state that it doesn't read: as the file says, which nobody looks at but who takes over.
byte() { # FILE OFFSET BYTE
	printf "%b" "\\x$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
byte "$LARDER_RUNTIME_DIR/store/state" 8 09
refused 'state: it is of another version of Larder'
byte "$LARDER_RUNTIME_DIR/store/state" 8 02
journal=$(find "$LARDER_RUNTIME_DIR/store" -name 'journal.*')
byte "$journal" 7 39
refused "$(basename "$journal"): it is of another version of Larder"
byte "$journal" 7 32
upgrade 4
right 'after all that'
echo 'refused: all'

# ---- a later version, and not back ----

install_larderd "$next/larderd_next"
upgrade 5
[ "$(version)" = next ] || fail "it is version $(version)"
[ "$(sqlite3 -readonly "$LARDER_RUNTIME_DIR/store/index.db" 'SELECT migrated > 0 FROM next; PRAGMA user_version')" = $'1\n3' ] ||
	fail 'the index was not migrated'
right 'under the next version'
older=$client_pid
mv "$work/client.out" "$work/older.out"
# Programs that start now, with the shim that they had, and with a later one.
shims_done=0
shims=("$build/svc/liblarder.so" "$next/liblarder_next.so")
for shim in "${shims[@]}"; do
	install -m 755 "$shim" "$work/bin/liblarder.so"
	client_start /usr/bin/python3 -c 'import os, time; keep = os.urandom(1 << 22) * 4; time.sleep(600)'
	client_wait
	evict_fully
	[ "$(client evicted_bytes)" -gt $((10 << 20)) ] || fail "$shim: only $(client evicted_bytes) bytes are out"
	upgrade $((5 + ++shims_done))
	evict_fully # its orders are understood by whom it was given to
	stop "$client_pid" || true
done
client_pid=$older
mv "$work/older.out" "$work/client.out"
right 'with others'
install_larderd "$build/svc/larderd"
upgraded=7
refused 'index.db in it is of a newer Larder'
[ "$(version)" = next ] || fail "it is version $(version)"
end_program
larderd_stop

# A shim that is later than the service: its program runs as without one.
begin
client_start /usr/bin/python3 -c 'import time; print("runs", flush=True); time.sleep(600)'
wait_for grep -q runs "$work/client.out" || fail 'a program with a later shim does not run'
wait_for said 'not attached: its liblarder.so speaks another version' || fail 'a later shim is not noticed'
[ "$(json '.clients | length')" -eq 0 ] || fail 'a later shim is taken over'
stop "$client_pid" || true
install -m 755 "$build/svc/liblarder.so" "$work/bin/liblarder.so"
larderd_stop

# ---- one that says that it can, and can't ----

is_back() { said 'upgrade:.*the one before' && [ "$(upgrades)" -ge 1 ]; }
for where in worker state; do
	begin "LARDER_NEXT_FAILS=$where"
	begin_program
	install_larderd "$next/larderd_next"
	kill -USR2 "$service"
	wait_for is_back || fail "$where: the one before does not serve"
	[ "$(version)" != next ] || fail "$where: the next version did not fail"
	[ "$(cat "/proc/$service/comm")" = larderd ] || fail 'its name is lost'
	right "back after $where"
	# And once more from there.
	install_larderd "$build/svc/larderd"
	upgrade $(($(upgrades) + 1))
	right "after $where"
	end_program
	larderd_stop
done

# ---- started without standard streams ----

begin bash -c 'exec "$@" <&- >&-' bash
begin_program
upgrade 1
right 'without standard streams'
end_program
larderd_stop

# ---- started by a descriptor ----

begin python3 -c 'import os, sys
os.execve(os.open(sys.argv[1], os.O_PATH), sys.argv[1:], os.environ)'
begin_program
upgrade 1
right 'started by a descriptor'
end_program
larderd_stop

# ---- at the wrong moment ----

stay() { touch "$work/$1"; }
wait_at() { wait_for test -e "$work/$1.at" || fail "nobody comes to $1"; }
go_on() { rm "$work/$1.at"; }
is_ended() { # WHEN
	local code=0
	wait_for gone "$service" || fail "$1: it does not end"
	wait "$service" || code=$?
	service=''
	[ "$code" -eq 0 ] || fail "$1: it ended with $code"
	[ "$(ask "end$1")" = "$right" ] || fail "$1: not the same bytes"
	! mountpoint -q "$LARDER_RUNTIME_DIR/store" || fail "$1: the store is left"
}

# No descriptor is left for looking which ones there are: all would end with an exec.
free() { # how many of the lowest free numbers
	comm -13 <(find "/proc/$service/fd" -type l -printf '%f\n' | sort) <(seq 0 2000 | sort) | sort -n | head -n "$1" | tail -n 1
}
begin "LARDER_POINTS=upgrade_alone=$work/upgrade_alone"
begin_program
stay upgrade_alone
kill -USR2 "$service"
wait_at upgrade_alone
limit=$(prlimit --pid "$service" --nofile --output SOFT --noheadings)
prlimit --pid "$service" --nofile="$(free 3):" # one for each binary, and that is all
go_on upgrade_alone
wait_for said 'upgrade: /proc/self/fd: Too many open files' || fail 'it looks at its descriptors'
prlimit --pid "$service" --nofile="$((limit)):"
wait_for said 'this larderd goes on' || fail 'it does not go on'
expect_upgrades 0
right 'without a descriptor'
upgrade 1
right 'with descriptors'
end_program
larderd_stop

# Twice at once.
begin "LARDER_POINTS=leave=$work/leave"
begin_program
stay leave
kill -USR2 "$service"
wait_at leave
kill -USR2 "$service"
wait_for said 'one is under way already' || fail 'a second one is not refused'
go_on leave
expect_upgrades 1
right 'one of two'
# To the worker, by somebody who means the service.
: >"$work/larderd.log"
kill -USR2 "$(json .service.pid)"
kill -USR2 "$service"
expect_upgrades 2
[ "$(grep -c 'is asked whether' "$work/larderd.log")" -eq 1 ] || fail 'the worker asked, too'
# The worker has not heard of it, and the end comes.
stay leave
kill -USR2 "$service"
wait_at leave
kill "$service"
wait_for said 'nothing comes of it' || fail 'it is not called off'
go_on leave
is_ended leave
end_program

# It has, and is about to end.
begin "LARDER_POINTS=leave_now=$work/leave_now"
begin_program
stay leave_now
kill -USR2 "$service"
wait_at leave_now
kill "$service"
wait_for said 'nothing comes of it' || fail 'it is not called off'
go_on leave_now
is_ended leave_now
end_program

# The service is ending.
begin "LARDER_POINTS=end_told=$work/end_told"
begin_program
stay end_told
kill "$service"
wait_at end_told
kill -USR2 "$service"
wait_for said 'the service is ending, and goes on with that' || fail 'an upgrade begins at the end'
go_on end_told
is_ended end_told
end_program
