#!/bin/bash
# Who is charged: what leaves a program leaves its control group, and what is stored is charged to the
# service's; a page that comes back is charged to the program again. With v1 and v2 alike.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

# The directory of the memory controller, and how it names the number.
if [ -e /sys/fs/cgroup/memory/memory.usage_in_bytes ]; then
	root=/sys/fs/cgroup/memory current=memory.usage_in_bytes
elif grep -qw memory /sys/fs/cgroup/cgroup.subtree_control 2>/dev/null; then
	root=/sys/fs/cgroup current=memory.current
else
	skip 'no memory controller'
fi

# group NAME PID: puts the process into a group of that name.
group() {
	local dir
	dir=$root/larder-$(basename "$work")-$1
	mkdir "$dir" 2>/dev/null || skip "control groups can't be made in $root"
	at_exit+=("rmdir '$dir'")
	echo "$2" >"$dir/cgroup.procs"
}

# Bytes charged to the program, or to the service.
charged() {
	cat "$root/larder-$(basename "$work")-$1/$current"
}

larderd_start "$everyone"
group service "$(json .service.pid)"
redis_start
group program "$client_pid"
redis_fill 60000
full=$(charged program) idle=$(charged service)
evict_fully
evicted=$(client evicted_bytes) stored=$(client stored_bytes)
left=$(charged program) holds=$(charged service)
echo "program $full, then $left; service $idle, then $holds; $evicted evicted into $stored"
[ $((full - left)) -gt $((evicted * 8 / 10)) ] || fail 'what left the program is charged to it still'
[ $((holds - idle)) -gt $((stored * 9 / 10)) ] || fail 'what is stored is not charged to the service'

redis_digest >"$work/digest.out"
back=$(((evicted - $(client evicted_bytes)) * 8 / 10))
[ $(($(charged program) - left)) -gt "$back" ] || fail 'what came back is not charged to the program'
less() { [ "$(charged service)" -lt $((holds - stored / 2)) ]; }
wait_for less || fail 'what came back is charged to the service still'
larderd_stop
