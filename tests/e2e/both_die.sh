#!/bin/bash
# Keeper and worker die at once, and a new larderd takes the programs over from their agents: every
# page of every program that has one, what was released stays so, who waits is served, stopped programs
# too. Who has ended or executed something else meanwhile is gone, with its agent. A run without
# programs leaves nothing to the next.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need python3
# shellcheck source=tests/e2e/both_lib.sh
. "$source_dir/tests/e2e/both_lib.sh"

# 32 MiB of numbers, and their sum each time that a line comes; with "fork" that of a child, whose agent
# comes as it lives; with "exec" it becomes
# another program, with "lock" it locks some of its memory.
program='
import ctypes, hashlib, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
page = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
page.write(b"p" * len(page))
keep = [b"".join(b"%08d" % i for i in range(1 << 17)) for _ in range(32)]
print("ready", flush=True)
def answer(word):
    print(word, hashlib.md5(b"".join(keep)).hexdigest(), flush=True)
for line in open(sys.argv[1]):
    word = line.strip()
    if word.startswith("fork"):
        if os.fork() == 0:
            print("child", os.getpid(), flush=True)
            for line in open(sys.argv[1] + ".child"):
                answer(line.strip())
            os._exit(0)
    elif word == "exec":
        os.execv("/bin/sleep", ["sleep", "1000"])
    else:
        if word == "lock":
            at = ctypes.addressof(ctypes.c_char.from_buffer(page))
            if libc.mlock(ctypes.c_void_p(at), len(page)) != 0 or page[:] != b"p" * len(page):
                keep.append(b"wrong")
        answer(word)'
ask() { # WORD [DESCRIPTOR]
	echo "$1" >&"${2:-$to}"
	wait_for grep -q "^$1 " "$work/client.out" || fail "no answer to $1"
	sed -n "s/^$1 //p" "$work/client.out"
}

larderd_start "$everyone"
mkfifo -m 666 "$work/home/in" "$work/home/in.child"
exec {to}<>"$work/home/in" {to_child}<>"$work/home/in.child"
client_start /usr/bin/python3 -c "$program" in
client_wait
agent=$(client agent_pid)
wait_for grep -q ready "$work/client.out" || fail 'python3 is not ready'
right=$(ask before)

# ---- a second one is refused, while the first lives or its worker does ----
"$build/svc/larderd" --config "$work/larder.conf" --runtime-dir "$LARDER_RUNTIME_DIR" 2>"$work/second.out" &&
	fail 'a second larderd on the same directory'
grep -q 'another larderd runs' "$work/second.out" || fail "the second larderd says: $(cat "$work/second.out")"
[ "$(ask second)" = "$right" ] || fail 'not the same bytes after a second larderd'

# ---- one that dies has the lock for a while ----
both_die
# shellcheck disable=SC2016 # for the shell that has the lock
flock "$LARDER_RUNTIME_DIR/lock" sh -c 'touch "$0"; sleep 0.5' "$work/has-lock" &
started+=("$!")
wait_for test -e "$work/has-lock" || fail 'nobody gets the lock'
larderd_start "$everyone"
[ "$(ask third)" = "$right" ] || fail 'not the same bytes after it'

# ---- again and again ----
for i in 1 2 3; do
	evict_fully
	evicted=$(client evicted_bytes)
	[ "$evicted" -gt $((30 << 20)) ] || fail "only $evicted bytes out"
	both_die
	larderd_start "$everyone"
	now=$(client evicted_bytes)
	difference=$((now - evicted))
	[ "${difference#-}" -lt $((1 << 20)) ] || fail "larderd $i: $now bytes out instead of $evicted"
	[ "$(client agent_pid)" = "$agent" ] || fail "larderd $i: another agent"
	[ "$(ask "after$i")" = "$right" ] || fail 'not the same bytes'
done

# ---- it waits in a fault while nobody is there, and is stopped as the next one starts ----
evict_fully
both_die
echo waiting >&"$to"
sleep 0.3
! grep -q '^waiting ' "$work/client.out" || fail 'answered by nobody'
kill -STOP "$client_pid" "$agent"
larderd_start "$everyone"
client_managed || fail 'a stopped program was not taken over'
kill -CONT "$client_pid" "$agent"
wait_for grep -q "^waiting $right" "$work/client.out" || fail 'not served by the next larderd'

# ---- what was released stays so, and is managed again by order ----
larder release "$client_pid" >/dev/null
both_die
larderd_start "$everyone"
[ "$(client state)" = released ] || fail "the next larderd says $(client state)"
evict_fully
[ "$(client evicted_bytes)" -gt $((30 << 20)) ] || fail 'not evicted again'
[ "$(ask managed)" = "$right" ] || fail 'not the same bytes'

# ---- the shim's calls, which go by the link: mlock has pages put back and waits for that ----
evict_fully
both_die
larderd_start "$everyone"
[ "$(ask lock)" = "$right" ] || fail 'not the same bytes after mlock'
locked=$(awk '$1 == "VmLck:" { print $2 }' "/proc/$client_pid/status")
[ "$locked" -ge 1024 ] || fail "mlock locked $locked kB"

# ---- a child with an agent of its own ----
echo fork >&"$to"
wait_for grep -q '^child ' "$work/client.out" || fail 'no child'
child=$(sed -n 's/^child //p' "$work/client.out")
child_managed() { [ "$(client state "$child")" = managed ]; }
wait_for child_managed || fail 'the child was not taken over'
evict_fully
larder evict "$child" >/dev/null
both_die
larderd_start "$everyone"
child_managed || fail 'the child was not taken over by the next larderd'
[ "$(ask in_child "$to_child")" = "$right" ] || fail 'not the same bytes in the child'
[ "$(ask in_parent)" = "$right" ] || fail 'not the same bytes in its parent'

# ---- who ends or executes something else meanwhile ----
child_agent=$(client agent_pid "$child")
both_die
kill -9 "$child"
wait_for gone "$child_agent" || fail "the child's agent outlives it"
larderd_start "$everyone"
[ "$(json '.clients | length')" -eq 1 ] || fail "clients: $(larder status)"
[ "$(ask orphaned)" = "$right" ] || fail 'not the same bytes after the child'
# (It needs its memory for that, and nobody is there to give it back.)
larder release "$client_pid" >/dev/null
both_die
echo exec >&"$to"
is_sleep() { [ "$(cat "/proc/$client_pid/comm")" = sleep ]; }
wait_for is_sleep || fail 'no exec'
larderd_start "$everyone"
wait_for gone "$agent" || fail 'the agent outlives the memory that it is for'
[ "$(json '.clients | length')" -eq 0 ] || fail "clients: $(larder status)"
[ "$(json .service.corrupt_pages)" -eq 0 ] || fail 'damaged pages'

# ---- nobody to go on with ----
both_die
stop "$client_pid" || true
larderd_start "$everyone"
! grep -q . <(json '.clients[]') || fail 'a client of nobody'
larderd_stop
! grep -q . < <(find "$LARDER_RUNTIME_DIR" -name 'journal.*' -o -name state) || fail 'files are left'
