#!/bin/sh
# expect-detection.sh GUEST OPERATION: a byte corrupted after that operation must be found.
set -u
threads=2
[ "$2" != brk ] || threads=1 # only where no other thread can do so
said=$("$1" --seconds 20 --threads $threads --mb 64 --quiet \
	--ops "read,mmap,munmap,malloc,$2" --sabotage "$2" 2>&1)
code=$?
case $code,$said in
1,*"wrong byte at"*) exit 0 ;;
esac
echo "exit code $code, not 1 with a wrong byte; it said: $said"
exit 1
