#!/bin/bash
# The guest under a service that evicts without pause, while the kernel compacts memory without pause: pages are
# migrated and looked for again in the middle of UFFDIO_MOVE. Linux 6.18.0 to 6.18.50 move some of them then
# without counting them (svc/order.c).
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=tests/guest/service.sh
. "$source_dir/tests/guest/service.sh"
need python3
compact=/proc/sys/vm/compact_memory
[ -w $compact ] || skip "$compact can't be written to: no such kernel, or a sandbox"

seed=${GUEST_SEED:-$((RANDOM * 32768 + RANDOM))}
echo "GUEST_SEED=$seed"
while :; do echo 1 >$compact; done &
started+=($!)
guest_run 200 --quiet --threads 2 --mb 128 --seed "$seed" --seconds "${GUEST_SECONDS:-10}" \
	--ops read,write,poke,mmap,munmap,move,fork,exec,hugepage || fail "the guest ended with $?"
grep 'pages verified$' "$work/client.out"
[ "$guest_evicted" -gt 0 ] || fail 'nothing was evicted'
echo "moved and not reported: $guest_unreported"
