#!/bin/bash
# A forked child has no mapping where its parent said MADV_DONTFORK: what grows into that place there is new
# memory, whatever was evicted from it in the parent; and the parent has every byte.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need python3

mkfifo -m 666 "$work/home/in"
# shellcheck disable=SC2016 # not for the shell
program='
import ctypes, mmap, os
libc = ctypes.CDLL(None, use_errno=True)
libc.mremap.restype = ctypes.c_void_p
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
# Where nothing else comes to lie in between.
size, at, fixed = 4 << 20, 1 << 44, 0x100000
if libc.mmap(at, 2 * size, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | fixed, -1, 0) != at:
    raise OSError(ctypes.get_errno())
memory = memoryview((ctypes.c_char * (2 * size)).from_address(at)).cast("B")
old = b"old " * (2 * size // 4)
memory[:] = old
print("ready", flush=True)
os.read(0, 1)
libc.madvise(at + size, size, mmap.MADV_DONTFORK)
pid = os.fork()
if pid == 0:
    grown = libc.mremap(at, size, 2 * size, 0) == at
    os._exit(3 if not grown else 0 if memory[size:] == bytes(size) and memory[:size] == old[:size] else 1)
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print("child", status, "parent", memory == old, flush=True)
os.read(0, 1)'
larderd_start "$everyone"
(cd "$work/home" && as_nobody "$work/bin/larder" run -- /usr/bin/python3 -c "$program") \
	>"$work/client.out" 2>&1 <>"$work/home/in" &
client_pid=$!
started+=("$client_pid")
wait_for grep -q ready "$work/client.out" || fail 'not ready'
client_wait
evict_fully
[ "$(client evicted_bytes)" -ge $((8 << 20)) ] || fail "not all is out: $(cat "$work/evict.out")"
printf x >"$work/home/in"
wait_for grep -q child "$work/client.out" || fail 'it hangs'
grep -qx 'child 0 parent True' "$work/client.out" || fail "$(tail -n 1 "$work/client.out")"
printf x >"$work/home/in"
wait "$client_pid" || fail 'it ends otherwise'
larderd_stop
