# shellcheck shell=bash
# A program that holds 32 MiB of numbers, and says their sum when it is asked. Sourced after lib.sh.

# sums_start: taken over on return; client_pid.
sums_start() {
	mkfifo -m 666 "$work/home/in"
	exec {to}<>"$work/home/in"
	client_start /usr/bin/python3 -c '
import hashlib, sys
keep = [b"".join(b"%08d" % i for i in range(1 << 17)) for _ in range(32)]
print("ready", flush=True)
for line in open(sys.argv[1]):
    print(line.strip(), hashlib.md5(b"".join(keep)).hexdigest(), flush=True)' in
	client_wait
	wait_for grep -qx ready "$work/client.out" || fail 'python3 is not ready'
}

tell() { echo "$1" >&"$to"; }

ask() { # WORD, another each time
	tell "$1"
	wait_for grep -q "^$1 " "$work/client.out" || fail "no answer to $1"
	sed -n "s/^$1 //p" "$work/client.out"
}
