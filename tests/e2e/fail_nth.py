"""fail_nth.py BIN SOCKET SWITCH KIND SEED: the n-th call of a kind fails in the service, for n = 1, 2, 3
and so on until one round makes fewer, while a program is taken over, evicted, read, forks, locks,
discards and is released. Each time the program answers all, and every byte is right.

Of many calls, the first FIRST are taken and as many others by chance. Prints what became of it."""
import http.client
import json
import os
import random
import select
import socket
import struct
import subprocess
import sys
import time

KINDS = ["nothing", "memory", "sqlite_memory", "sqlite_file", "open", "write", "resize", "map", "thread",
         "copy", "zeropage", "register", "unregister", "writeprotect"]
FIRST = int(os.environ.get("NTH_FIRST", "15"))
PATIENCE = 60
binaries, at, switch_path, kind, seed = sys.argv[1:6]
switch = open(switch_path, "r+b", buffering=0)
n = 0
outcomes = {}


def fail(what):
    arm(0)
    print(f"FAIL: {kind}, call {n}: {what}", flush=True)
    sys.exit(1)


def note(what):
    outcomes[what] = outcomes.get(what, 0) + 1


def arm(nth, number=0):
    # Nothing is counted before all of it is there.
    os.pwrite(switch.fileno(), struct.pack("<I", 0), 0)
    os.pwrite(switch.fileno(), struct.pack("<II", nth, 0), 4)
    os.pwrite(switch.fileno(), struct.pack("<I", number), 0)


def counted():
    return struct.unpack("<III", os.pread(switch.fileno(), 12, 0))[2]


class Unix(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(at)


def ask(method, what):
    """Status and answer; (0, None): the connection ended, as when the worker dies."""
    connection = Unix("larder")
    try:
        connection.request(method, what)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")
    except TimeoutError:
        fail(f"{method} {what} hangs")
    except (OSError, http.client.HTTPException, ValueError):
        return 0, None
    finally:
        connection.close()


def status():
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        code, answer = ask("GET", "/v1/status")
        if code == 200:
            return answer
        time.sleep(0.01)
    fail("the service doesn't answer any more")


class Program:
    def __init__(self):
        self.process = subprocess.Popen([f"{binaries}/larder", "run", "--", f"{binaries}/stops", "3"],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=65534, group=65534,
                                        extra_groups=[], stderr=subprocess.PIPE)
        self.rest = b""
        if not self.line().startswith("ready"):
            fail("the program doesn't start")

    def line(self):
        while b"\n" not in self.rest:
            if not select.select([self.process.stdout], [], [], PATIENCE)[0]:
                fail(f"the program hangs: {json.dumps(self.seen())}")
            data = os.read(self.process.stdout.fileno(), 4096)
            if not data:
                fail(f"the program ended: {self.process.stderr.read()}")
            self.rest += data
        line, _, self.rest = self.rest.partition(b"\n")
        return line.decode()

    def does(self, orders):
        for order in orders:
            self.process.stdin.write(order.encode())
            self.process.stdin.flush()
            if self.line() != "good":
                self.process.stdin.close()
                fail(f"wrong bytes after {order}: {self.process.stderr.read().decode()}")

    def seen(self):
        return next((c for c in status()["clients"] if c["pid"] == self.process.pid), None)

    def is_managed(self):
        """It is taken over in the moment after its start, or not at all."""
        for _ in range(50):
            if (self.seen() or {}).get("state") == "managed":
                return True
            time.sleep(0.01)
        return False

    def order(self, what):
        """True: done, and all of it."""
        code, answer = ask("POST", f"/v1/clients/{self.process.pid}/{what}")
        if code == 0:
            note("no answer")
        elif code != 200:
            note(f"{what}: {code}" + ("" if answer and answer.get("error") else ", without a word"))
        elif answer.get("why"):
            note(f"{what}: {answer['why'][:60]}")
        return code == 200 and not answer.get("why")

    def end(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()


def round_of():
    """How many calls there were, and the program, which goes on."""
    program = Program()
    if not program.is_managed():
        note("not taken over")
        program.does("rd")
    else:
        program.order("evict")
        program.does("rd")
        program.order("evict")
        program.does("fk")
        program.order("evict")
        program.order("release")
        program.does("r")
        program.order("evict")
        program.does("rd")
    count = counted()
    arm(0)
    return count, program


def afterwards(program):
    """Nothing fails, so everything works. An agent that gets no CPU is late, which is said."""
    if program.is_managed():
        for _ in range(20):
            if program.order("evict"):
                break
        out = (program.seen() or {}).get("evicted_bytes", 0)
        if out < 3 << 20:
            fail(f"afterwards only {out} bytes leave: {json.dumps(program.seen())}")
        program.does("rdfk")
    program.end()


def main():
    global n
    number = KINDS.index(kind)
    random.seed(int(seed))
    arm(0, number)
    total, program = round_of()
    afterwards(program)
    outcomes.clear()
    if total == 0:
        fail("nothing of the kind is ever called")
    print(f"{kind}: {total} calls a round, seed {seed}", flush=True)
    chosen = list(range(1, min(total, FIRST) + 1))
    if total > FIRST:
        chosen += sorted(random.sample(range(FIRST + 1, total + 1), min(total - FIRST, FIRST)))
    before = status()["service"]["pid"]
    failed = 0
    for n in chosen:
        arm(n, number)
        count, program = round_of()
        failed += count >= n
        service = status()["service"]
        if service["pid"] != before:
            note("another worker")
            before = service["pid"]
        if service["corrupt_pages"]:
            fail("damaged pages")
        afterwards(program)
        if n % 5 == 0 or n == chosen[-1]:
            program = Program()
            if not program.is_managed():
                fail("afterwards no program is taken over")
            afterwards(program)
    print(f"{failed} failed: {json.dumps(outcomes)}")
    if failed < len(chosen) / 2:
        fail("most were never reached")


main()
