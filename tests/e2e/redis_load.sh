#!/bin/bash
# redis answers a benchmark at full speed without one error while all of its memory is evicted
# again and again, and records that the benchmark doesn't touch stay as they were.
#
# REDIS_REQUESTS: of each kind (1000000).
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need redis-benchmark

records=100000 # in database 1; the benchmark writes to database 0
requests=${REDIS_REQUESTS:-1000000}

# One hash over all records, each of which it chains to the one before.
records_hash() {
	redis -n 1 EVAL "local h = ''
		for i = 0, $records - 1 do h = redis.sha1hex(h .. redis.call('GET', 'user:' .. i)) end
		return h" 0
}

larderd_start "$everyone"
redis_start
redis_fill "$records" -n 1
hash=$(records_hash)
[[ $hash =~ ^[0-9a-f]{40}$ ]] || fail "redis said: $hash"

redis-benchmark -s "$work/home/socket" -t set,get -n "$requests" -r 200000 -d 400 -c 20 -P 8 -q \
	>"$work/benchmark.out" 2>&1 </dev/null &
benchmark=$!
started+=("$benchmark")
evictions=0
until gone "$benchmark"; do
	larder evict "$client_pid" >/dev/null || fail "evict failed with $?"
	evictions=$((evictions + 1))
done
wait "$benchmark" || fail "redis-benchmark ended with $?"
! grep -i err "$work/benchmark.out" || fail 'redis answered with errors'
! redis INFO errorstats | grep ^errorstat || fail 'redis counted errors'
tr '\r' '\n' <"$work/benchmark.out" | grep 'requests per second'
echo "$evictions evictions, $(client pages_evicted) pages out, $(client faults) faults"
[ "$(client pages_evicted)" -gt 0 ] || fail 'nothing was evicted'
[ "$(client faults)" -gt 0 ] || fail 'nothing came back'
[ "$(records_hash)" = "$hash" ] || fail 'records changed'
larderd_stop
[ "$(records_hash)" = "$hash" ] || fail 'records changed when the service ended'
