#!/bin/bash
# The kernel reports an unmapping that did not take place: when mmap with MAP_FIXED fails late, for want of
# address space. What lay there is still there, evicted or not.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need python3

mkfifo -m 666 "$work/home/in"
# shellcheck disable=SC2016 # not for the shell
program='
import ctypes, errno, mmap, os, threading
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
size, at, kind = 8 << 20, 1 << 44, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10
if libc.mmap(at, size, 3, kind, -1, 0) != at:
    raise OSError(ctypes.get_errno())
memory = memoryview((ctypes.c_char * size).from_address(at)).cast("B")
old = b"old " * (size // 4)
memory[:] = old
print("ready", flush=True)
os.read(0, 1)
def fails(start):
    if libc.mmap(at + start, 16 << 30, 3, kind, -1, 0) != (1 << 64) - 1 or ctypes.get_errno() != errno.ENOMEM:
        print("it did not fail:", ctypes.get_errno(), flush=True)
wrong = []
def look():
    for page in range(size - 4096, 0, -4096):
        if memory[page:page + 4] != b"old ":
            wrong.append(page)
thread = threading.Thread(target=look)
thread.start()
for start in range(0, size, size // 64):
    fails(start)
thread.join()
print("same" if memory == old and not wrong else f"other, first at {wrong[:1]}", flush=True)
os.read(0, 1)
# And when it succeeds, it is new.
libc.mmap(at + size // 2, size // 2, 3, kind, -1, 0)
print("new" if memory[size // 2:] == bytes(size // 2) and memory[:size // 2] == old[:size // 2] else "wrong", flush=True)
os.read(0, 1)'
larderd_start "$everyone"
(cd "$work/home" && ulimit -v $((6 << 20)) && as_nobody "$work/bin/larder" run -- /usr/bin/python3 -c "$program") \
	>"$work/client.out" 2>&1 <>"$work/home/in" &
client_pid=$!
started+=("$client_pid")
wait_for grep -q ready "$work/client.out" || fail 'not ready'
client_wait
evict_all() {
	evict_fully
	[ "$(client evicted_bytes)" -gt $((4 << 20)) ] || fail "little was evicted: $(cat "$work/evict.out")"
}
evict_all
printf x >"$work/home/in"
wait_for grep -qE 'same|other' "$work/client.out" || fail 'it hangs'
grep -q same "$work/client.out" || fail "a mapping that stayed has lost its pages: $(tail -n 1 "$work/client.out")"
! grep 'did not fail' "$work/client.out" || fail 'nothing was tried'
evict_all
printf x >"$work/home/in"
wait_for grep -qE 'new|wrong' "$work/client.out" || fail 'it hangs'
grep -q new "$work/client.out" || fail 'a new mapping has old pages'
printf x >"$work/home/in"
wait "$client_pid" || fail 'it ends otherwise'
larderd_stop
