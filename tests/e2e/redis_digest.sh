#!/bin/bash
# redis keeps its data to the last byte while nearly all of it is out: three times evicted and read
# back, with the numbers of `larder status` checked against the kernel's.
#
# REDIS_VALUES: records (1000000, about 550 MB). With fewer than half of that, the 12 MB of an empty
# redis would weigh too much for resident_limit to mean anything.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

values=${REDIS_VALUES:-1000000}
rounds=3
resident_limit=15 # percent of the memory before that may stay

# check_evicted RSS ANONYMOUS EVICTED: what these were before, in bytes.
check_evicted() {
	local rss anon tolerance=$(($1 / 50))
	rss=$(smaps Rss)
	anon=$(smaps Anonymous)
	[ "$rss" -le $(($1 * resident_limit / 100)) ] ||
		fail "$rss of $1 bytes are still resident, more than $resident_limit %"
	near 'resident_bytes and Rss' "$(client resident_bytes)" "$rss" "$tolerance"
	near 'what evicted_bytes gained and Anonymous lost' $(($(client evicted_bytes) - $3)) \
		$(($2 - anon)) "$tolerance"
}

# The tmpfs holds the packed bytes and the store's part of the overhead: no less than the former and
# no more than both, but for 2 %.
check_store() {
	local used stored overhead
	used=$(df -B1 --output=used "$LARDER_RUNTIME_DIR/store" | tail -n 1)
	stored=$(json .service.stored_bytes)
	overhead=$(json .service.overhead_bytes)
	echo "tmpfs $used, stored $stored, overhead $overhead"
	[ "$used" -ge $((stored * 98 / 100)) ] || fail 'more stored than the tmpfs holds'
	[ "$used" -le $(((stored + overhead) * 102 / 100)) ] || fail 'the tmpfs holds more than both'
}

larderd_start "$everyone"
redis_start
redis_fill "$values"
digest=$(redis_digest)
for round in $(seq "$rounds"); do
	faults=$(client faults)
	rss=$(smaps Rss)
	anon=$(smaps Anonymous)
	evicted=$(client evicted_bytes)
	evict_fully
	check_evicted "$rss" "$anon" "$evicted"
	check_store
	again=$(redis_digest)
	[ "$again" = "$digest" ] || fail "round $round: digest $again, before $digest"
	[ "$(client faults)" -gt "$faults" ] || fail "round $round: no page was faulted back"
	echo "round $round: digest unchanged, $(($(client faults) - faults)) faults"
done
[ "$(json .service.corrupt_pages)" -eq 0 ] || fail 'damaged pages'
larder release "$client_pid"
[ "$(client evicted_bytes)" -eq 0 ] || fail 'pages left after release'
[ "$(redis_digest)" = "$digest" ] || fail 'digest differs after release'
larder evict "$client_pid" >/dev/null
larderd_stop
[ "$(redis_digest)" = "$digest" ] || fail 'digest differs after the service ended'
