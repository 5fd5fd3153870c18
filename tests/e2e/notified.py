"""notified.py SOCKET: prints what is sent to it, a line each, as a service manager would get it."""
import os
import socket
import sys

at = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
at.bind(sys.argv[1])
print("listens", flush=True)
while True:
    print(os.fsdecode(at.recv(4096)), end="", flush=True)
