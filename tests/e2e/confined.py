"""confined.py SYSCALLS CMD ARG...: executes CMD as a unit of systemd's would run it, with a seccomp
filter that ends it at any system call that isn't named in the file SYSCALLS, at a socket of another
family than AF_UNIX (RestrictAddressFamilies), at memory that is writable and executable
(MemoryDenyWriteExecute), and at another name space (RestrictNamespaces)."""
import ctypes
import os
import struct
import subprocess
import sys

ALLOW, KILL = 0x7FFF0000, 0x80000000
LOAD, JEQ, JSET, RET = 0x20, 0x15, 0x45, 0x06
AF_UNIX, PROT_WX, NAMESPACES = 1, 6, 0x7E020000


def numbers():
    text = subprocess.run(["cc", "-E", "-dM", "-"], input="#include <asm/unistd.h>\n",
                          capture_output=True, text=True, check=True).stdout
    words = (line.split() for line in text.splitlines())
    return {w[1][5:]: int(w[2]) for w in words if w[1].startswith("__NR_") and w[2].isdigit()}


def instruction(code, k, jt=0, jf=0):
    return struct.pack("HBBI", code, jt, jf, k)


def argument(n):
    return instruction(LOAD, 16 + 8 * n)


def on(number, *body):
    """The body when it is this call, and the number is loaded again behind it."""
    body = [*body, instruction(LOAD, 0)]
    return [instruction(JEQ, number, 0, len(body)), *body]


def kill_if(test):
    return [test, instruction(RET, KILL)]


def make_filter(allowed):
    nr = numbers()
    code = [instruction(LOAD, 0)]
    code += on(nr["socket"], argument(0), instruction(JEQ, AF_UNIX, 1, 0), instruction(RET, KILL))
    code += on(nr["mmap"], argument(2), instruction(0x54, PROT_WX), instruction(JEQ, PROT_WX, 0, 1),
               instruction(RET, KILL))
    code += on(nr["mprotect"], argument(2), instruction(JSET, 4, 0, 1), instruction(RET, KILL))
    code += on(nr["clone"], argument(0), instruction(JSET, NAMESPACES, 0, 1), instruction(RET, KILL))
    # The C library begins threads by clone3, whose flags can't be seen, and by clone where there is none.
    code += [instruction(JEQ, nr["clone3"], 0, 1), instruction(RET, 0x50000 | 38)]
    for name in allowed:
        if name in nr and name not in ("unshare", "setns", "clone3"):
            code += [instruction(JEQ, nr[name], 0, 1), instruction(RET, ALLOW)]
    return [*code, instruction(RET, KILL)]


def main():
    with open(sys.argv[1]) as file:
        allowed = file.read().split()
    code = make_filter(allowed)
    text = ctypes.create_string_buffer(b"".join(code), 8 * len(code))
    program = struct.pack("HxxxxxxP", len(code), ctypes.addressof(text))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) < 0 or libc.prctl(22, 2, program) < 0:
        sys.exit("confined.py: seccomp: " + os.strerror(ctypes.get_errno()))
    os.execv(sys.argv[2], sys.argv[2:])


main()
