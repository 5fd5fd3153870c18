#!/bin/bash
# A larderd takes over in place from another one again and again, while the guest changes its memory and its
# mappings and the service evicts without pause: no byte is wrong, nobody waits for ever. Some of them are
# killed in the middle of it, some binaries can't take over.
#
#   upgrade_guest.sh [OPTION...]   options of the guest; --swarm: all that it can do, forks too
#
# UPGRADE_SECONDS (20), UPGRADE_SEED (from the clock, and printed), UPGRADE_EVERY (the longest pause between
# two in ms, 300), UPGRADE_LOG (where a copy of the service's log goes).
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=tests/guest/service.sh
. "$source_dir/tests/guest/service.sh"
need python3

seed=${UPGRADE_SEED:-$((RANDOM * 32768 + RANDOM))}
seconds=${UPGRADE_SECONDS:-20} every=${UPGRADE_EVERY:-300}
RANDOM=$seed
echo "UPGRADE_SEED=$seed"
larderd=$work/bin/larderd

pause() { sleep "0.$(printf %03d $((RANDOM % $1)))"; }
install_larderd() {
	install -m 755 "$1" "$larderd.new"
	mv "$larderd.new" "$larderd"
}
# Those that have got so far as to have the state, whatever becomes of them.
begun() { grep -c 'larderd takes over$' "$work/larderd.log" || true; }
refusals() { grep -c 'this larderd goes on$' "$work/larderd.log" || true; }
is_out() { guest_ended || [ "$(json .service.evicted_bytes)" -gt 0 ]; }
is_over() { guest_ended || [ $(($(begun) + $(refusals))) -gt "$1" ]; }
kills=0
kill_worker() {
	local pid
	pid=$(cat "/proc/$service/task/$service/children") || pid=''
	for pid in $pid; do
		# Not the one that is asked: it is the keeper's child, too.
		if grep -q -- --check-takeover "/proc/$pid/cmdline" 2>/dev/null; then continue; fi
		if kill -9 "$pid" 2>/dev/null; then kills=$((kills + 1)); fi
	done
}
upgrade_again_and_again() {
	local before way end=$((SECONDS + seconds))
	# A new worker takes nothing before it has seen every thread outside of madvise: there may be no
	# time for that on a busy machine, where they always wait for a CPU.
	wait_for is_out || fail 'nothing leaves'
	while guest_runs && [ "$SECONDS" -lt "$end" ]; do
		pause "$every"
		way=$((RANDOM % 6))
		if [ "$way" -eq 0 ]; then install_larderd /bin/false; else install_larderd "$build/svc/larderd"; fi
		before=$(($(begun) + $(refusals)))
		kill -USR2 "$service"
		if [ "$way" -eq 1 ]; then
			pause 100
			kill_worker
		fi
		wait_for is_over "$before" || fail 'an upgrade does not come to an end'
	done
}

install_larderd "$build/svc/larderd"
larderd_start "$everyone"
guest=("$@")
[ "${#guest[@]}" -gt 0 ] || guest=(--ops "read,write,poke,mmap,munmap,populate,move,shrink,dontneed")
guest_begin --threads 2 --mb 64 --seed "$seed" --seconds "$seconds" --child-steps 200 "${guest[@]}"
upgrade_again_and_again
guest_end "${UPGRADE_LOG:-}"
out=$(sed -n 's/^took over [0-9]* clients with \([0-9]*\) MiB.*/\1/p' "$work/larderd.log" |
	awk '{ sum += $1 } END { print sum + 0 }')
pauses=$(sed -n 's/^nobody was served for \([0-9]*\) ms/\1/p' "$work/larderd.log" | sort -n | tr '\n' ' ')
echo "$(begun) upgrades, $(refusals) refused, $kills workers killed meanwhile, $out MiB out then; pauses: $pauses ms"
[ "$(begun)" -gt 2 ] || fail 'there were none'
[ "$out" -gt 0 ] || fail 'nothing was out'
wait_for larder status || fail 'the last one does not answer'
[ "$(json .service.corrupt_pages)" -eq 0 ] || fail 'damaged pages'
[ "$(json .service.upgrades)" -eq "$(begun)" ] || fail "$(json .service.upgrades) upgrades are counted"
larderd_stop
