#!/bin/bash
# Keeper and worker die, and what is there for the next larderd isn't what it was: agents that swapped
# their userfaultfd, their link or their doorbell for another one, or became another program, and a
# process that has the number of somebody's agent. None of them is taken for what it isn't, the log names
# it, and a program that means no harm has every byte.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=tests/e2e/both_lib.sh
. "$source_dir/tests/e2e/both_lib.sh"
need python3
install -m 755 "$build/tests/e2e/hostile" "$work/bin"

declare -A pid # of each, by name
hostile_start() { # NAME [COMMAND...]
	"${@:2}" "$work/bin/hostile" "$1" >"$work/$1.out" 2>&1 </dev/null &
	pid[$1]=$!
	started+=("$!")
	wait_for grep -q ready "$work/$1.out" || fail "$1: $(cat "$work/$1.out")"
}
# python_start NAME: 16 MiB, and their sum when a line comes.
python_start() {
	mkfifo -m 666 "$work/home/$1"
	# For as long as we are.
	# shellcheck disable=SC2034
	exec {open}<>"$work/home/$1"
	client_start /usr/bin/python3 -c '
import hashlib, sys
keep = [b"".join(b"%08d" % i for i in range(1 << 17)) for _ in range(16)]
print("ready", flush=True)
for line in open(sys.argv[1]):
    print(line.strip(), hashlib.md5(b"".join(keep)).hexdigest(), flush=True)' "$1"
	pid[$1]=$client_pid
	client_wait
	wait_for grep -q ready "$work/client.out" || fail "$1: python3 is not ready"
	mv "$work/client.out" "$work/$1.out"
	evict_fully
}
said() { grep -q "$1" "$work/larderd.log" || fail "the log doesn't say: $1"; }

larderd_start "$everyone"
python_start victim
victim_agent=$(client agent_pid)
python_start good
out=$(client evicted_bytes "${pid[good]}")
[ "$out" -gt $((14 << 20)) ] || fail "only $out bytes out"
for name in swapped relinked deafened execed; do
	hostile_start "$name" as_nobody
done
attached() { [ "$(json '.clients | length')" -eq 6 ]; }
wait_for attached || fail 'not all are attached'
execed_agent=$(client agent_pid "${pid[execed]}")
both_die
is_sleep() { [ "$(cat "/proc/$execed_agent/comm")" = sleep ]; }
wait_for is_sleep || fail 'the agent executes nothing'

# ---- somebody gets the number of an agent ----
kill -9 "${pid[victim]}"
wait_for gone "$victim_agent" || fail 'an agent outlives its program'
NUMBER=$victim_agent hostile_start impostor
: >"$work/larderd.log"
larderd_start "$everyone"

# ---- what the next one makes of them ----
has() { json "[.clients[] | select(.pid == ${pid[$1]})] | length"; }
[ "$(has good)" -eq 1 ] || fail 'a program that means no harm is not taken over'
[ "$(client evicted_bytes "${pid[good]}")" -eq "$out" ] || fail "other bytes are out: $(client evicted_bytes "${pid[good]}")"
for name in victim swapped execed; do
	[ "$(has "$name")" -eq 0 ] || fail "$name: taken over"
done
said "client ${pid[swapped]} .*has not the userfaultfd that it had"
for name in relinked deafened; do
	[ "$(has "$name")" -eq 1 ] || fail "$name: not served"
	said "client ${pid[$name]} .*nothing is taken from it"
	larder evict --json "${pid[$name]}" >"$work/evict.out" 2>&1 || true
	[ "$(client pages_evicted "${pid[$name]}")" -eq 0 ] || fail "$name: evicted"
done
! gone "$victim_agent" || fail 'the process that has the number of an agent was ended'
[ "$(tr '\0' ' ' <"/proc/$victim_agent/cmdline" | grep -c impostor)" -eq 1 ] || fail 'it is another process'

echo alive >"$work/home/good"
wait_for grep -q '^alive ' "$work/good.out" || fail 'a program that means no harm hangs'
want=$(python3 -c '
import hashlib
print(hashlib.md5(b"".join(b"%08d" % i for i in range(1 << 17)) * 16).hexdigest())')
grep -q "^alive $want$" "$work/good.out" || fail 'its bytes are wrong'
[ "$(json .service.corrupt_pages)" -eq 0 ] || fail 'damaged pages'
client_pid=${pid[good]}
evict_fully

# ---- and what is there can't be read: nothing is begun, nothing is lost ----
both_die
# The second record, of which it is whose child it is (state.h).
printf x | dd of="$LARDER_RUNTIME_DIR/store/state" bs=1 seek=$((512 + 512 + 64)) conv=notrunc status=none
code=0
timeout 60 "$build/svc/larderd" --config "$work/larder.conf" --runtime-dir "$LARDER_RUNTIME_DIR" \
	2>"$work/refuse.out" || code=$?
[ "$code" -eq 1 ] || fail "with a damaged table it ends with $code"
grep -q "$LARDER_RUNTIME_DIR/store/state: record 1, of client 2, is damaged" "$work/refuse.out" ||
	fail "it says: $(cat "$work/refuse.out")"
[ -e "$LARDER_RUNTIME_DIR/store/warm.seg" ] || fail 'the store is gone'
