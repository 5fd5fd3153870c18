#!/bin/bash
# A service manager that keeps descriptors: when keeper and worker are killed at once, children that have no
# agent, as they were made by a raw system call, have every byte of theirs all the same. It keeps none longer
# than it has to: of children that get an agent, or are gone, and of those that nobody knows any more.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need python3

mkdir "$work/kill"
export LARDER_POINTS="kill=$work/kill,joined=$work/joined"
printf '%s\n' "$everyone" >"$work/larder.conf"
python3 "$source_dir/tests/e2e/manager.py" "$work/notify" "$build/svc/larderd" --config "$work/larder.conf" \
	--runtime-dir "$LARDER_RUNTIME_DIR" >"$work/manager.out" 2>>"$work/larderd.log" &
service=$!
wait_for larderd_answers || fail "larderd doesn't answer"

# happened TIMES WHAT
happened() { [ "$(grep -c "^$2" "$work/manager.out")" -ge "$1" ]; }
times() { grep -c "^$1" "$work/manager.out" || true; }
# Both processes die, and the manager starts the service again.
both_die() {
	local keeper workers pid starts
	starts=$(times started)
	keeper=$(sed -n 's/^started \([0-9]*\) .*/\1/p' "$work/manager.out" | tail -n 1)
	kill -STOP "$keeper"
	read -ra workers <"/proc/$keeper/task/$keeper/children" || true
	kill -9 "${workers[@]}" "$keeper"
	for pid in "${workers[@]}"; do
		wait_for gone "$pid" || fail 'the worker lives'
	done
	wait_for happened $((starts + 1)) started || fail 'it is not started again'
	wait_for larder status || fail 'the next one does not answer'
}
said() { grep -q "$1" "$work/larderd.log"; }

# 32 MiB of numbers; a line for the program itself, or for the last of its children, asks for their sum.
mkfifo -m 666 "$work/home/in" "$work/home/in.child"
exec {to}<>"$work/home/in" {to_child}<>"$work/home/in.child"
client_start /usr/bin/python3 -c '
import ctypes, hashlib, os
libc = ctypes.CDLL(None)
keep = [b"".join(b"%08d" % i for i in range(1 << 17)) for _ in range(32)]
def answer(line):
    print(line.strip(), hashlib.md5(b"".join(keep)).hexdigest(), flush=True)
print("ready", flush=True)
for line in open("in"):
    if line.startswith("raw") or line.startswith("fork"):
        pid = os.fork() if line.startswith("fork") else libc.syscall(56, 17, 0, 0, 0, 0)
        if pid == 0:
            print("child", line.strip(), flush=True)
            for line in open("in.child"):
                if line.startswith("end"):
                    os._exit(0)
                answer(line)
    elif line.startswith("wait"):
        os.wait()
        print("waited", line.strip(), flush=True)
    else:
        answer(line)'
client_wait
wait_for grep -q ready "$work/client.out" || fail 'python3 is not ready'
tell() { echo "$1" >&"${2:-$to}"; }
ask() { # WORD [DESCRIPTOR]
	tell "$1" "${2:-$to}"
	wait_for grep -q "^$1 " "$work/client.out" || fail "no answer to $1"
	sed -n "s/^$1 //p" "$work/client.out"
}
begin_child() { # raw|fork NUMBER
	tell "$1$2"
	wait_for grep -qx "child $1$2" "$work/client.out" || fail 'there is no child'
}
end_child() { # NUMBER
	tell end "$to_child"
	tell "wait$1"
	wait_for grep -qx "waited wait$1" "$work/client.out" || fail 'its child does not end'
}
right=$(ask before)
is_right() { # WORD [DESCRIPTOR]
	[ "$(ask "$@")" = "$right" ] || fail "$1: not the same bytes"
}

# ---- a child that never has an agent ----
evict_fully
[ "$(client evicted_bytes)" -gt $((30 << 20)) ] || fail "only $(client evicted_bytes) bytes are out"
begin_child raw 1
wait_for happened 1 'stored larder-uffd-' || fail 'the manager was not told of the child'
both_die
grep -q '^started [0-9]* with 1$' "$work/manager.out" || fail 'the manager gave nothing'
wait_for said 'took over 2 clients' || fail "the child is not taken over: $(tail -n 5 "$work/larderd.log")"
! said 'had no agent: those that live read zeros' || fail 'a child is said to be lost'
# Twice: what was there is there again.
both_die
is_right child1 "$to_child"
is_right parent1
# And when only the worker dies, which then has a child of an earlier service's.
evict_fully
kill -9 "$(json .service.pid)"
wait_for larder status || fail 'no other worker'
is_right child1again "$to_child"
removals=$(times removed)
end_child 1
wait_for happened $((removals + 1)) 'removed larder-uffd-' || fail 'the manager keeps what is gone'

# ---- one that ends while nobody serves, with one that lives on ----
evict_fully
begin_child raw 2
wait_for happened 2 'stored larder-uffd-' || fail 'the manager was not told of the second child'
stored() { [ $(($(times stored) - $(times removed))) -eq "$1" ]; }
both_die
end_child 2
wait_for stored 0 || fail "$(times stored) were stored, $(times removed) removed"
is_right parent2

# ---- one that the manager isn't told of before the worker dies ----
evict_fully
told=$(times stored)
ln -s 1 "$work/kill/fork_copied"
begin_child raw 6
wait_for test -h "$work/kill/fork_copied.at" || fail 'the worker was not killed'
wait_for happened $((told + 1)) 'stored larder-uffd-' || fail 'the manager is never told of the sixth child'
both_die
is_right child6 "$to_child"
end_child 6
wait_for stored 0 || fail "the manager keeps the sixth child's"

# ---- children that get an agent ----
evict_fully
for i in 3 4; do
	begin_child fork $i
	is_right "child$i" "$to_child"
	has_agent() { [ "$(json '[.clients[] | select(.agent_pid != 0)] | length')" -eq 2 ]; }
	wait_for has_agent || fail 'the child has no agent'
	wait_for stored 0 || fail 'the manager keeps what an agent has'
	end_child $i
done

# ---- one whose agent is on record, and hasn't got it when both die ----
evict_fully
touch "$work/joined"
begin_child fork 7
wait_for test -e "$work/joined.at" || fail 'the child has no agent'
wait_for stored 1 || fail 'the manager was not told of the seventh child'
both_die
is_right child7 "$to_child"
end_child 7
wait_for stored 0 || fail "the manager keeps the seventh child's"

# ---- taken over in place, and then both die ----
evict_fully
begin_child raw 5
wait_for stored 1 || fail 'the manager was not told of the fifth child'
keeper=$(sed -n 's/^started \([0-9]*\) .*/\1/p' "$work/manager.out" | tail -n 1)
kill -USR2 "$keeper"
upgraded() { [ "$(json .service.upgrades)" -eq 1 ]; }
wait_for upgraded || fail 'no upgrade'
both_die
is_right child5 "$to_child"
end_child 5
wait_for stored 0 || fail 'the manager keeps what is gone'
[ "$(json .service.corrupt_pages)" -eq 0 ] || fail 'damaged pages'
end=0
pid=$service service=''
stop "$pid" || end=$?
[ "$end" -eq 0 ] || fail "larderd ended with $end"
! mountpoint -q "$LARDER_RUNTIME_DIR/store" || fail 'larderd left its store mounted'
echo "$(times stored) stored, $(times started) services"
