#!/bin/bash
# The worker is killed again and again, while the guest changes its memory and its mappings and the
# service evicts without pause: each next one takes over, no byte is wrong and nobody waits for ever.
#
#   worker_killed.sh [OPTION...]   options of the guest; --swarm: all that it can do, forks too
#
# KILL_SECONDS (20), KILL_THREADS (1), KILL_MB (64), KILL_SEED (from the clock, and printed),
# KILL_EVERY (the longest pause between two kills in ms, 300), KILL_OPTIONS (the same in one word),
# KILL_OUT (0: so many MiB are out before a kill, unless that takes longer than 5 s),
# KILL_LOG (where a copy of the service's log goes).
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=tests/guest/service.sh
. "$source_dir/tests/guest/service.sh"
need python3

seed=${KILL_SEED:-$((RANDOM * 32768 + RANDOM))}
seconds=${KILL_SECONDS:-20} every=${KILL_EVERY:-300}
RANDOM=$seed
echo "KILL_SEED=$seed"

worker() { cat "/proc/$service/task/$service/children"; }
kills=0
# Wherever it is, also before it has come to serve; but not for ever, for the guest needs one that lives.
kill_workers() {
	local pid end=$((SECONDS + seconds))
	while guest_runs && [ "$SECONDS" -lt "$end" ]; do
		sleep "0.$(printf %03d $((RANDOM % every)))"
		[ "${KILL_OUT:-0}" -eq 0 ] || WAIT=5 wait_for enough_is_out || true
		pid=$(worker) || pid=''
		if [ -n "$pid" ] && kill -9 "${pid// /}" 2>/dev/null; then kills=$((kills + 1)); fi
	done
}
enough_is_out() { guest_ended || [ "$(client evicted_bytes)" -ge $((KILL_OUT << 20)) ]; }

larderd_start "$everyone"
read -ra options <<<"${KILL_OPTIONS:-$*}"
[ "${#options[@]}" -gt 0 ] || options=(--ops "read,write,poke,mmap,munmap,populate")
guest_begin --threads "${KILL_THREADS:-1}" --mb "${KILL_MB:-64}" --seed "$seed" --seconds "$seconds" \
	--child-steps 200 "${options[@]}"
kill_workers
guest_end "${KILL_LOG:-}"
echo "$kills workers killed, $(grep -c 'took over' "$work/larderd.log") took over"
[ "$kills" -gt 0 ] || fail 'nothing was killed'
wait_for larder status || fail 'the last worker does not answer'
larderd_stop
