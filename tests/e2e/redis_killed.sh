#!/bin/bash
# The worker is killed each second while redis answers a benchmark and its memory is evicted without
# pause: no answer is wrong and none is missing, and in the end redis has the same data to the last byte,
# evicted, given back, and without the service. Prints how long a client ever waited for an answer.
#
#   redis_killed.sh [SECONDS]     20
#
# REDIS_VALUES: records of about 550 bytes (100000); 2000000 are 1 GiB. REDIS_EVERY (1): seconds from one
# kill to the next; 0: none, to know what the rest of it costs.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need redis-benchmark python3

seconds=${1:-20} records=${REDIS_VALUES:-100000} every=${REDIS_EVERY:-1} # records in database 1

# One hash over all records, each of which it chains to the one before.
records_hash() {
	redis -n 1 EVAL "local h = ''
		for i = 0, $records - 1 do h = redis.sha1hex(h .. redis.call('GET', 'user:' .. i)) end
		return h" 0
}
# How many different values the benchmark's keys have: it writes one.
values() {
	redis -n 0 EVAL "local seen, n = {}, 0
		for _, key in ipairs(redis.call('KEYS', '*')) do
			local value = redis.call('GET', key)
			if not seen[value] then seen[value] = true; n = n + 1 end
		end
		return n" 0
}

larderd_start "$everyone"$'\n[store]\nowner-limit = 100%'
redis_start
redis_fill "$records" -n 1
hash=$(records_hash)
[[ $hash =~ ^[0-9a-f]{40}$ ]] || fail "redis said: $hash"

benchmarks=()
benchmark() { # NAME: until it is ended
	redis-benchmark -s "$work/home/socket" -t "$1" -n 2000000000 -r 200000 -d 400 -c 10 -P 8 -q \
		>"$work/$1.out" 2>&1 </dev/null &
	benchmarks+=($!)
	started+=($!)
}
benchmark set
benchmark get
"$source_dir/tests/guest/evictor" "$LARDER_RUNTIME_DIR/stats.sock" "$client_pid" mortal >"$work/evictor.out" &
started+=($!)

# One record each millisecond, at random, all of which are asked for again and again.
probe='
import random, signal, socket, sys, time
path, records, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
s = socket.socket(socket.AF_UNIX)
s.connect(path)
f = s.makefile("rb")
def ask(*words):
    s.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))
    line = f.readline()
    if line[:1] == b"$":
        return f.read(int(line[1:]) + 2)[:-2]
    return line.strip()
assert ask(b"SELECT", b"1") == b"+OK"
waits, end = [], time.monotonic() + seconds
while time.monotonic() < end:
    key = random.randrange(records)
    began = time.monotonic()
    value = ask(b"GET", b"user:%d" % key)
    waits.append(time.monotonic() - began)
    if b"\"id\":%d," % key not in value.replace(b" ", b""):
        sys.exit("%d: %r" % (key, value))
    time.sleep(max(0, began + .001 - time.monotonic()))
waits.sort()
print("%d answers: median %.1f ms, 99.9 %% %.1f ms, longest %.1f ms, %d longer than 200 ms" % (len(waits),
    waits[len(waits) // 2] * 1e3, waits[len(waits) * 999 // 1000] * 1e3, waits[-1] * 1e3,
    sum(w > .2 for w in waits)))'
python3 -c "$probe" "$work/home/socket" "$records" "$seconds" >"$work/probe.out" 2>&1 &
probe=$!
started+=("$probe")

kills=0
until gone "$probe"; do
	if [ "$every" -eq 0 ]; then
		sleep 1
		continue
	fi
	sleep "$every"
	if worker=$(json .service.pid) && kill -9 "$worker" 2>/dev/null; then kills=$((kills + 1)); fi
done
wait "$probe" || fail "a client: $(cat "$work/probe.out")"
for one in "${benchmarks[@]}"; do
	! gone "$one" || fail "redis-benchmark ended: $(tail -c 300 "$work"/[sg]et.out)"
	kill "$one"
	wait "$one" || true
done
wait_for larder status || fail 'the last worker does not answer'
! grep -ai err "$work"/[sg]et.out || fail 'redis answered with errors'
! redis INFO errorstats | grep ^errorstat || fail 'redis counted errors'

took() { sed -n 's/^took over .* with \([0-9]*\) MiB evicted in \([0-9]*\) ms$/\1 \2/p' "$work/larderd.log"; }
echo "$kills workers killed, $(took | wc -l) took over$(took | sort -n -k 2 | sed -n '$s/\(.*\) \(.*\)/, the slowest \1 MiB in \2 ms/p')"
cat "$work/probe.out"
[ "$kills" -gt $((seconds / 4)) ] || [ "$every" -ne 1 ] || fail "only $kills workers were killed"
[ "$(took | awk '$1 > 10' | wc -l)" -gt 0 ] || [ "$every" -eq 0 ] || fail 'nothing was evicted when one took over'

digest=$(redis_digest)
[ "$(records_hash)" = "$hash" ] || fail 'records changed'
[ "$(values)" -eq 1 ] || fail 'the benchmark reads what it has not written'
larder release "$client_pid" >/dev/null || fail 'it can not be released'
[ "$(redis_digest)" = "$digest" ] || fail 'the digest differs after release'
[ "$(json .service.corrupt_pages)" -eq 0 ] || fail 'damaged pages'
evict_fully
[ "$(redis_digest)" = "$digest" ] || fail 'the digest differs when all is out'
larderd_stop
[ "$(redis_digest)" = "$digest" ] || fail 'the digest differs after the service ended'
