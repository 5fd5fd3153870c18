#!/bin/bash
# Damaged pages are found before anybody needs them, and told once, with program, address and blob. Their
# program isn't stopped before it touches one, and others aren't found fault with.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need python3

larderd_start "$everyone"$'\n[store]\nscrub-every = 1s'

# 8 MiB of which no page is like another; reads all of it when told to.
program='
import mmap, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
memory = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory[:] = b"".join(b"%08x" % (i * 2654435761 % 2**32) for i in range(1 << 20))
print("ready", flush=True)
signal.sigwait({signal.SIGUSR1})
print("read", memory[:].count(0), flush=True)
signal.pause()'
holder() { # NAME
	client_start /usr/bin/python3 -c "$program"
	client_wait
	wait_for grep -q ready "$work/client.out" || fail 'python3 is not ready'
	evict_fully
	mv "$work/client.out" "$work/$1.out"
}
holder victim
victim=$client_pid
holder other
other=$client_pid

# More than two rounds: one that was under way as the last page came, and a whole one.
round() { [ "$(json .service.scrub_rounds)" -gt $((rounds + 1)) ]; }
wait_round() {
	rounds=$(json .service.scrub_rounds)
	wait_for round || fail 'pages are not looked at'
}
wait_round
[ "$(json .service.scrub_pages)" -gt 4000 ] || fail "only $(json .service.scrub_pages) pages were looked at"
[ "$(json .service.scrub_damaged)" -eq 0 ] || fail 'damage where there is none'
! grep scrub: "$work/larderd.log" || fail 'the log tells of damage where there is none'

# What was stored first is the victim's: of 40 of its blobs a byte is changed, wherever they lie. A blob has
# a header of 16 bytes (store/segments.h), and begins at a multiple of these.
damage='
import mmap, struct, sys
with open(sys.argv[1], "r+b") as f:
    data = mmap.mmap(f.fileno(), 1 << 20)
    at, seen, done = 0, 0, 0
    while done < 40 and at + 16 < 1 << 20:
        handle, length, codec, version = struct.unpack_from("IHBB", data, at)
        if handle == 0:
            break
        seen += 1
        if codec and seen > 100:
            data[at + 16 + length // 2] ^= 0x5A
            done += 1
        at += (16 + length + 15) // 16 * 16
sys.exit(done != 40)'
python3 -c "$damage" "$LARDER_RUNTIME_DIR/store/warm.seg" || fail 'there are not so many blobs'
found() { [ "$(json .service.scrub_damaged)" -ge 30 ]; }
wait_for found || fail "only $(json .service.scrub_damaged) damaged pages are found"
wait_round
damaged=$(json .service.scrub_damaged)
[ "$damaged" -le 40 ] || fail "$damaged damaged pages are found, of 40"
wait_round
[ "$(json .service.scrub_damaged)" -eq "$damaged" ] || fail 'they are found again'
line="scrub: client $victim \(.*python3.*\): page 0x[0-9a-f]+000: its blob [0-9]+ is damaged"
[ "$(grep -Ec "$line" "$work/larderd.log")" -eq "$damaged" ] || fail 'the log does not name each once'
[ "$(grep -c scrub: "$work/larderd.log")" -eq "$damaged" ] || fail 'the log names others'
larder status | grep -q "^DAMAGED   $damaged pages" || fail 'larder status does not tell'
[ "$(json .service.corrupt_pages)" -eq 0 ] || fail 'a page is said not to have been restored'
for pid in "$victim" "$other"; do
	! grep -q '^State:[[:space:]]*T' "/proc/$pid/status" || fail "$pid is stopped, though it touches nothing"
done
kill -USR1 "$other"
wait_for grep -q '^read 0' "$work/other.out" || fail 'the other program reads something else'
kill -USR1 "$victim"
stopped() { grep -q '^State:[[:space:]]*T' "/proc/$victim/status"; }
wait_for stopped || fail 'it is not stopped though it touches a damaged page'
! grep -q '^read ' "$work/victim.out" || fail 'it has read on'
