#!/bin/bash
# What left as a huge page becomes one again when all of it is back, where the policy has keep-huge; every
# byte is as it was, and nothing is collapsed that left in pieces or isn't all there.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need python3
grep -q '\[never\]' /sys/kernel/mm/transparent_hugepage/enabled && skip 'no huge pages here'

# Orders: r reads all and says whether it is right; d discards a page of each other block, and reads the rest.
mkfifo -m 666 "$work/home/in"
# shellcheck disable=SC2016 # not for the shell
program='
import ctypes, mmap, os, zlib
block, blocks = 2 << 20, 16
memory = mmap.mmap(-1, (blocks + 1) * block, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
at = -ctypes.addressof(ctypes.c_char.from_buffer(memory)) % block
for i in range(blocks * block // 8):
    memory[at + i * 8:at + i * 8 + 8] = (i * 0x9E3779B97F4A7C15 & (1 << 64) - 1).to_bytes(8, "little")
memory.madvise(25, at, blocks * block) # MADV_COLLAPSE: where khugepaged looks at what asks for it only, not here
view = memoryview(memory)[at:at + blocks * block]
page = [view[i:i + 4096] for i in range(0, blocks * block, 4096)]
want = [zlib.crc32(one) for one in page]
right = lambda some: all(zlib.crc32(page[i]) == want[i] for i in some)
print("ready", flush=True)
while True:
    order = os.read(0, 1)
    holes = range(0, len(page), 1024) if order == b"d" else []
    for i in holes:
        memory.madvise(mmap.MADV_DONTNEED, at + i * 4096, 4096)
        want[i] = zlib.crc32(bytes(4096))
    print("good" if right(i for i in range(len(page)) if i not in holes) else "BAD", flush=True)'

larderd_start "$everyone"$'
[policy keep]
keep-huge = yes'
answers() { [ "$(grep -c . "$work/client.out")" -gt "$lines" ]; }
order() {
	printf %s "$1" >"$work/home/in"
	wait_for answers || fail "no answer to $1"
	lines=$((lines + 1))
	tail -n 1 "$work/client.out" | grep -qx good || fail "order $1: $(tail -n 3 "$work/client.out")"
}
huge_kb() { awk '/^AnonHugePages/ { sum += $2 } END { print sum + 0 }' "/proc/$client_pid/smaps"; }
has_huge() { [ "$(huge_kb)" -ge "$1" ]; }
blocks_kb=$((16 * 2048))

(cd "$work/home" && as_nobody "$work/bin/larder" run --policy keep -- /usr/bin/python3 -c "$program") \
	>"$work/client.out" 2>&1 <>"$work/home/in" &
client_pid=$!
started+=("$client_pid")
WAIT=120 wait_for grep -q ready "$work/client.out" || fail "not ready: $(cat "$work/client.out")"
client_wait
lines=1
has_huge "$blocks_kb" || skip "the kernel has given $(huge_kb) KiB of huge pages"
evict_fully
[ "$(huge_kb)" -eq 0 ] || fail "$(huge_kb) KiB of huge pages are left"
order r
wait_for has_huge "$blocks_kb" || fail "of $blocks_kb KiB $(huge_kb) came back as huge pages"
order r
# They leave whole again, and half of the blocks come back with a hole.
evict_fully
order d
wait_for has_huge $((blocks_kb / 2)) || fail "of $((blocks_kb / 2)) KiB $(huge_kb) came back as huge pages"
sleep 2
[ "$(huge_kb)" -eq $((blocks_kb / 2)) ] || fail "what isn't all there was collapsed: $(huge_kb) KiB"
order r
kill "$client_pid"
wait "$client_pid" || true
larderd_stop
