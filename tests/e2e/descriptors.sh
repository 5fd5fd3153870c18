#!/bin/bash
# A service that runs out of descriptors takes no more programs over, says so, and keeps enough for
# the forks of those that it has: two a child, its userfaultfd and its journal.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need python3 prlimit

# shellcheck disable=SC2016 # not for the shell
program='
import array, os, sys, zlib
data = bytearray(array.array("Q", range(4 << 17)))
want = zlib.crc32(data)
print("ready", flush=True)
for _ in sys.stdin:
    wait, go = os.pipe()
    children = []
    for _ in range(16):
        child = os.fork()
        if child == 0:
            os.close(go)
            os.read(wait, 1)
            os._exit(0 if zlib.crc32(data) == want else 1)
        children.append(child)
    os.close(go)
    good = [os.waitpid(child, 0)[1] == 0 for child in children]
    print("good" if all(good) else "bad", flush=True)'

larderd_start "$everyone"
mkfifo -m 666 "$work/home/in"
(cd "$work/home" && as_nobody "$work/bin/larder" run -- /usr/bin/python3 -c "$program") \
	>"$work/client.out" 2>&1 <>"$work/home/in" &
client_pid=$!
started+=("$client_pid")
wait_for grep -q ready "$work/client.out" || fail "not ready: $(cat "$work/client.out")"
client_wait
evict_fully

# The process that does the work.
worker=$(json .service.pid)
descriptors=$(find "/proc/$worker/fd" -mindepth 1 -printf . | wc -c)
prlimit --pid "$worker" --nofile=$((descriptors + 60)):
first=$client_pid
for _ in $(seq 20); do
	client_start sleep 1000
done
wait_for grep -q 'too few descriptors' "$work/larderd.log" || fail "it doesn't say what is wrong"
running() { [ "$(pgrep -P "$$" -x sleep | wc -l)" -eq 20 ]; }
wait_for running || fail 'a program was held up'
# While none is left for it, nobody is answered.
counted() { clients=$(json '.clients | length'); }
wait_for counted || fail 'it does not answer'
[ "$clients" -gt 1 ] && [ "$clients" -lt 21 ] || fail "$clients clients"
[ "$(find "/proc/$worker/fd" -mindepth 1 -printf . | wc -c)" -lt $((descriptors + 60)) ] ||
	fail 'no descriptor is left'

client_pid=$first
answers() { grep -qx -e good -e bad "$work/client.out"; }
echo go >"$work/home/in"
wait_for answers || fail 'a fork hangs'
grep -qx good "$work/client.out" || fail 'a forked child read wrong bytes'
prlimit --pid "$worker" --nofile=$(($(find "/proc/$worker/fd" -mindepth 1 -printf . | wc -c) + 5)):
wait_for in_trouble descriptors || fail "no trouble: $(larder status)"
prlimit --pid "$worker" --nofile=$((descriptors + 1000)):
wait_for no_trouble || fail "trouble with descriptors again: $(larder status)"
larderd_stop

larderd_start $'[service]
allow-user = *
clients-per-user = 2'
for _ in 1 2 3; do
	client_start sleep 1000
done
wait_for grep -q 'clients-per-user' "$work/larderd.log" || fail 'a third program of one user is taken over'
two() { [ "$(json '.clients | length')" -eq 2 ]; }
wait_for two || fail "clients of one user: $(larder status)"
