#!/bin/bash
# The threads that answer faults need no memory for it: a program and its forked child, whose pages are
# packed by CODEC (lz4), raw or one word over and over, read all of them back while larderd's readers get
# none, and none is asked for.
#
#   no_memory.sh [CODEC]
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need python3

switch() { # 0|1
	printf '%b' "\\x$1" | dd of="$work/switch" bs=1 count=1 conv=notrunc status=none
}
asked() { od -An -tu4 -j4 -N4 "$work/switch" | tr -d ' '; }

head -c 8 /dev/zero >"$work/switch"
larderd_in=(env "LD_PRELOAD=$build/tests/e2e/libno_malloc.so" "SWITCH=$work/switch")
policy() { printf '%s\n[policy all]\nmatch-exe = *\ncodec = %s' "$everyone" "$1"; }
larderd_start "$(policy "${1:-lz4}")"

# Each line on its standard input: it and its child read it all.
mkfifo -m 666 "$work/home/in"
client_start /usr/bin/python3 -c '
import hashlib, os, random, sys
random.seed(1)
keep = b"".join(b"%012d%s" % (i, random.randbytes(4)) for i in range(1 << 20))
keep += random.randbytes(4 << 20) + bytes(4 << 20)
want = hashlib.sha1(keep).digest()
def check(who):
    print(who, "same" if hashlib.sha1(keep).digest() == want else "DIFFERENT", flush=True)
print("ready", flush=True)
with open("in") as orders:
    orders.readline()
    child_in, child_go = os.pipe()
    if os.fork() == 0:
        os.read(child_in, 1)
        check("child")
        os._exit(0)
    print("forked", flush=True)
    orders.readline()
    os.write(child_go, b"x")
    os.wait()
    check("parent")
    orders.readline()'
client_wait
exec 8>"$work/home/in"
says() { grep -q "$1" "$work/client.out"; }
wait_for says ready || fail 'python3 is not ready'
evict_fully
out=$(client evicted_bytes)
[ "$out" -gt $((20 << 20)) ] || fail "only $out bytes are out"

echo >&8
wait_for says forked || fail 'it does not fork'
children() { [ "$(json .service.clients)" -eq 2 ]; }
wait_for children || fail 'its child is not looked after'
[ "$(asked)" -eq 0 ] || fail 'counted too early'
switch 1
echo >&8
wait_for says '^parent' || fail "no answer: readers asked for memory $(asked) times, $(tail -n 2 "$work/client.out")"
switch 0
[ "$(asked)" -eq 0 ] || fail "readers asked for memory $(asked) times"
[ "$(grep -c same "$work/client.out")" -eq 2 ] || fail "it reads: $(cat "$work/client.out")"
[ "$(client pages_restored)" -gt 2000 ] || fail "only $(client pages_restored) pages came back"
echo >&8
