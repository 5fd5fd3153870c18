#!/bin/bash
# Keeper and worker are killed together again and again, while the guest's threads change its memory and
# its mappings and the service evicts without pause: each next larderd takes the guest over, no byte is
# wrong, nobody waits for ever, and there is one agent, as before.
#
# BOTH_KILLS (8), BOTH_SECONDS (20, of the guest), BOTH_THREADS (2), BOTH_MB (64), BOTH_SEED (from the clock, and printed),
# BOTH_EVERY (the longest time that a larderd serves, in ms, 400), BOTH_OPTIONS (of the guest; without
# forks unless they ask for some: children without an agent can't be taken over), BOTH_LOG (where a
# copy of the service's log goes).
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=tests/guest/service.sh
. "$source_dir/tests/guest/service.sh"
# shellcheck source=tests/e2e/both_lib.sh
. "$source_dir/tests/e2e/both_lib.sh"
need python3 pgrep

seed=${BOTH_SEED:-$((RANDOM * 32768 + RANDOM))}
every=${BOTH_EVERY:-400} most=${BOTH_KILLS:-8}
RANDOM=$seed
echo "BOTH_SEED=$seed"

kills=0 halves=0 # of these, before they came to serve
kill_both() {
	while [ "$kills" -lt "$most" ] && guest_runs; do
		sleep "0.$(printf %03d $((RANDOM % every)))"
		both_die
		kills=$((kills + 1))
		if [ $((RANDOM % 3)) -eq 0 ]; then
			half_start $((RANDOM % 200))
			kills=$((kills + 1)) halves=$((halves + 1))
		fi
		larderd_start "$everyone"
	done
}

larderd_start "$everyone"
# shellcheck disable=SC2086 # a list of options
guest_begin --threads "${BOTH_THREADS:-2}" --mb "${BOTH_MB:-64}" --seed "$seed" --seconds "${BOTH_SECONDS:-20}" \
	--child-steps 200 --pause ${BOTH_OPTIONS:---ops read,write,poke,mmap,munmap,populate}
client_wait
kill_both
agents=$(agents_of "$work/bin/larder-guest")
guest_ended || [ "$agents" -eq 1 ] || fail "$agents agents"
guest_end "${BOTH_LOG:-}"
out=$(sed -n 's/^took over [0-9]* clients with \([0-9]*\) MiB.*/\1/p' "$work/larderd.log" |
	awk '{ sum += $1 } END { print sum + 0 }')
echo "$kills killed together, $halves of them at their start, $(grep -c 'an earlier larderd is gone: 1' "$work/larderd.log") takeovers, $out MiB out then"
[ "$kills" -gt 0 ] || fail 'nothing was killed'
[ "$out" -gt 0 ] || fail 'nothing was out when they were killed'
[ "$(json .service.corrupt_pages)" -eq 0 ] || fail 'damaged pages'
no_agents() { [ "$(agents_of "$work/bin/larder-guest")" -eq 0 ]; }
wait_for no_agents || fail 'the agent outlives the guest'
larderd_stop
