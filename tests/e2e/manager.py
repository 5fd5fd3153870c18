"""manager.py SOCKET COMMAND...: starts a service as systemd does, keeps the descriptors that it stores, and
starts it again with these when it is killed.

Prints what happens, a line each. On SIGTERM ends the service, and then itself with its exit code."""
import array
import os
import select
import signal
import socket
import sys

FIRST_FD = 3
at = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
at.bind(sys.argv[1])
kept = []  # name, descriptor: as systemd, several may have a name, and none is there twice


def say(*words):
    print(*words, flush=True)


def start():
    pid = os.fork()
    if pid:
        say("started", pid, "with", len(kept))
        return pid
    # Out of the way of those that they are to be.
    high = [os.dup2(fd, 500 + i) for i, fd in enumerate(fd for _, fd in kept)]
    for i, fd in enumerate(high):
        os.dup2(fd, FIRST_FD + i, inheritable=True)
        os.close(fd)
    os.closerange(FIRST_FD + len(high), 500)
    os.environ["NOTIFY_SOCKET"] = sys.argv[1]
    if high:
        os.environ.update(
            LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(high)), LISTEN_FDNAMES=":".join(name for name, _ in kept)
        )
    os.execv(sys.argv[2], sys.argv[2:])


def hear():
    text, ancillary, _, _ = at.recvmsg(4096, 4096)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data)
    said = dict(line.split("=", 1) for line in text.decode().splitlines() if "=" in line)
    name = said.get("FDNAME")
    if said.get("FDSTORE") == "1" and len(fds) == 1 and said.get("FDPOLL") == "0":
        inode = os.fstat(fds[0]).st_ino
        if any(os.fstat(fd).st_ino == inode for _, fd in kept):
            say("again", name)
        else:
            kept.append((name, fds.pop()))
            say("stored", name)
    if said.get("FDSTOREREMOVE") == "1":
        for item in [item for item in kept if item[0] == name]:
            os.close(item[1])
            kept.remove(item)
            say("removed", name)
    if "READY" in said:
        say("ready")
    for fd in fds:
        os.close(fd)


ending = False


def end(*_):
    global ending
    ending = True
    os.kill(service, signal.SIGTERM)


service = start()
signal.signal(signal.SIGTERM, end)
while True:
    # All that was sent is heard before anything is done about an end.
    while select.select([at], [], [], 0.05)[0]:
        hear()
    pid, status = os.waitpid(service, os.WNOHANG)
    if pid == 0:
        continue
    while select.select([at], [], [], 0)[0]:
        hear()
    say("ended", os.waitstatus_to_exitcode(status))
    if ending or not os.WIFSIGNALED(status):
        sys.exit(os.waitstatus_to_exitcode(status))
    service = start()
