#!/bin/bash
# Forked children are looked after in their own right: each gets an agent, can be evicted by itself,
# has its own bytes, and outlives its parent; grandchildren too. One that no libc forked (a raw
# system call) has no agent, and is served all the same. Whoever becomes another user stays who it is.
#
# CHILDREN_MB (8).
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need python3

# Orders on its input, one a line: fork N, raw, check, end. A process that forks hands its input on:
# whoever reads an order is to follow it, so each has a fifo of its own, named by its number.
# shellcheck disable=SC2016 # not for the shell
program='
import array, ctypes, os, sys, zlib
libc = ctypes.CDLL(None)
words = int(sys.argv[1]) << 17
data = bytearray(array.array("Q", range(words)))
want = zlib.crc32(data)
name = "0"

def write_some(n):
    global want
    for i in range(0, len(data), 4096): # all of it becomes its own
        data[i] = n
    want = zlib.crc32(data)

def serve(new):
    global name
    name = new
    os.mkfifo("in-" + name)
    say("ready")

def say(what):
    os.write(1, f"{name} {os.getpid()} {what}\n".encode())

serve("0")
while True:
    with open("in-" + name) as orders:
        order = orders.read().split()
    if order[0] == "fork" or order[0] == "raw":
        for i in range(int(order[1])):
            pid = libc.syscall(57) if order[0] == "raw" else os.fork()
            if pid == 0:
                write_some(i + 1 + len(name))
                serve(name + str(i))
                break
        else:
            say("forked")
    elif order[0] == "user":
        os.setresgid(*[int(order[1])] * 3)
        os.setresuid(*[int(order[1])] * 3)
        say("became")
    elif order[0] == "check":
        say("good" if zlib.crc32(data) == want else "BAD")
    elif order[0] == "end":
        say("ends")
        os._exit(0)'

mb=${CHILDREN_MB:-8}
larderd_start "$everyone"
client_start /usr/bin/python3 -c "$program" "$mb"

says() { grep -q "^$1 [0-9]* $2" "$work/client.out"; }
pid_of() { awk -v name="$1" '$1 "" == name "" && $3 == "ready" { pid = $2 } END { print pid }' "$work/client.out"; }
answer() { tail -n "+$(($1 + 1))" "$work/client.out" | grep "^$2 [0-9]* $3"; }
tell() { # NAME ORDER ANSWER
	local lines
	lines=$(grep -c . "$work/client.out")
	echo "$2" >"$work/home/in-$1"
	wait_for answer "$lines" "$1" "$3" || fail "$1 doesn't answer to $2: $(tail -n 5 "$work/client.out")"
}
child_of() { # NAME PID: a child of that name which isn't PID is ready
	says "$1" ready && [ "$(pid_of "$1")" != "$2" ]
}
is_good() {
	tell "$1" check good
}
evict() { # NAME: all that it has, and it has that still
	client_pid=$(pid_of "$1")
	client_wait
	evict_fully
	[ "$(client evicted_bytes)" -ge $((mb << 20)) ] || fail "$1: $(cat "$work/evict.out")"
}

wait_for says 0 ready || fail 'not ready'

echo '-- forked while nothing was managed'
tell 0 'fork 1' forked
wait_for says 00 ready || fail 'no child'
evict 00
is_good 00
tell 00 end ends

echo '-- forked while all was out, several at once'
rm "$work/home/in-00"
before=$(pid_of 00)
evict 0
tell 0 'fork 4' forked
for name in 00 01 02 03; do
	wait_for child_of "$name" "$before" || fail "no child $name"
done
for name in 00 01 02 03; do
	evict "$name"
done
for name in 00 01 02 03 0; do
	is_good "$name"
done

echo '-- a grandchild, and the end of those before it'
evict 01
tell 01 'fork 1' forked
wait_for says 010 ready || fail 'no grandchild'
evict 010
tell 01 end ends
is_good 010
evict 02
tell 0 end ends
wait_for gone "$(pid_of 0)" || fail 'the first one stays'
for name in 02 03 010; do
	is_good "$name"
	evict "$name"
	is_good "$name"
done

echo '-- without libc'
if [ "$(uname -m)" = x86_64 ]; then
	evict 03
	tell 03 'raw 1' forked
	wait_for says 030 ready || fail 'no raw child'
	is_good 030
	tell 03 end ends
	is_good 030
	tell 030 end ends
fi
for name in 00 02 010; do
	tell "$name" end ends
done
no_clients() { [ "$(json '.clients | length')" -eq 0 ]; }
wait_for no_clients || fail "clients stay: $(larder status)"

echo '-- of a program that was root when it was taken over'
rm "$work/home"/in-*
(cd "$work/home" && exec "$work/bin/larder" run -- /usr/bin/python3 -c "$program" "$mb") \
	>"$work/client.out" 2>&1 </dev/null &
client_pid=$!
started+=("$client_pid")
wait_for says 0 ready || fail 'not ready'
client_wait
id=$(client id)
evict 0
tell 0 'user 65534' became
tell 0 'fork 1' forked
wait_for says 00 ready || fail 'no child'
evict 00
[ "$(client parent)" -eq "$id" ] || fail "its child is taken for another's"
is_good 00
is_good 0
tell 00 end ends
tell 0 end ends
wait_for no_clients || fail "clients stay: $(larder status)"
