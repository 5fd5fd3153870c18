#!/bin/bash
# Limits: at each of them evictions stop, and say why; whatever is out still comes back, and makes
# room for the next eviction.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need python3

settings() { # STORE's lines, POLICY's lines
	printf '%s\n[store]\n%s\n[policy redis]\nmatch-exe = redis-*\n%s\n' "$everyone" "$1" "$2"
}

reload() {
	settings "$@" >"$work/larder.conf"
	larder reload >"$work/reload.out"
}

# Evicts until a limit stops it; an agent that is late isn't one.
evict_to() { # WHAT the reason must say
	local passes=0 why=''
	until [[ $why == *"$1"* ]]; do
		passes=$((passes + 1))
		[ "$passes" -le 20 ] || fail "no eviction was stopped by: $1; the last said: $why"
		larder evict --json "$client_pid" >"$work/evict.out"
		why=$(jq -r .why "$work/evict.out")
	done
	echo "$why"
	[ "$(client why)" = "$why" ] || fail "the status says: $(client why)"
	larder status | grep -qF "$client_pid: $why" || fail 'the table does not say why'
	[ "$(client evicted_bytes)" -gt 0 ] || fail 'nothing was evicted'
}

all_comes_back() {
	local digest out=$1
	digest=$(redis_digest)
	[ "$digest" = "$before" ] || fail "the digest was $before and is $digest"
	[ "$(client evicted_bytes)" -lt "$out" ] || fail 'nothing came back'
	[ "$(json .service.corrupt_pages)" -eq 0 ] || fail 'corrupt pages'
}

within() { # WHAT BYTES LIMIT: not above, and not far below
	[ "$2" -le "$3" ] || fail "$1: $2 bytes, limit $3"
	[ "$2" -gt $(($3 * 9 / 10)) ] || fail "$1: only $2 bytes of $3"
	echo "$1: $2 of $3"
}

mib=$((1 << 20))

# ---- of a program ----
larderd_start "$(settings 'memory-limit = 64M' 'memory-limit = 4M')"
redis_start
redis_fill 60000
before=$(redis_digest)
evict_to 'memory-limit of policy redis'
within 'program' "$(client charged_bytes)" $((4 * mib))
[ "$(client limit_bytes)" -eq $((4 * mib)) ] || fail 'the status shows another limit'
all_comes_back "$(client evicted_bytes)"
# The room is there again.
evict_to 'memory-limit of policy redis'
[ "$(jq .moved_pages "$work/evict.out")" -gt 0 ] || fail 'what came back made no room'

# ---- of its owner ----
reload $'memory-limit = 64M\nowner-limit = 12.5%' ''
evict_to 'owner-limit in [store]'
owner=$(json '.owners[] | select(.uid == 65534) | .charged_bytes')
within 'owner' "$owner" $((8 * mib))
[ "$(json '.owners[] | select(.uid == 65534) | .limit_bytes')" -eq $((8 * mib)) ] ||
	fail 'the status shows another limit'
all_comes_back "$(client evicted_bytes)"

# Another owner's programs have room of their own.
"$work/bin/larder" run -- sleep 100 &
started+=($!)
root_managed() { client state "${started[-1]}"; }
wait_for root_managed || fail 'a program of root is not taken over'
larder evict --json "${started[-1]}" >"$work/evict-root.out"
[[ $(jq -r .why "$work/evict-root.out") != *owner-limit* ]] || fail 'root is stopped by another'

# ---- what is shared counts once ----
reload 'memory-limit = 64M' ''
(cd "$work/home" && as_nobody "$work/bin/larder" run -- python3 -c '
import os, signal, time
text = bytearray(os.urandom(1 << 20) * 24)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
print("ready", flush=True)
signal.sigwait({signal.SIGUSR1})
parent = os.getpid()
if os.fork() == 0:
    while os.getppid() == parent:
        time.sleep(0.2)
else:
    signal.pause()') >"$work/python.out" 2>&1 &
python=$!
started+=("$python")
python_ready() { grep -q ready "$work/python.out" && client state "$python"; }
wait_for python_ready || fail 'python is not taken over'
larder evict --json "$python" >"$work/evict-python.out"
alone=$(client charged_bytes "$python")
[ "$alone" -gt $((16 * mib)) ] || fail "only $alone bytes of python are charged"
# Over the limit, but with nothing left to take: then none was in the way.
reload $'memory-limit = 64M\nowner-limit = 12.5%' ''
larder evict --json "$python" >"$work/evict-python.out"
[ "$(jq -r 'select(.seen_pages == 0) | .why' "$work/evict-python.out")" = '' ] ||
	fail 'a limit is named where nothing was left'
kill -USR1 "$python"
family() { json "[.clients[] | select(.pid == $python or .parent == $(client id "$python"))] | $1"; }
forked() { family 'length == 2'; }
wait_for forked || fail 'the fork was not followed'
sum=$(family 'map(.charged_bytes) | add')
near 'charge of both after a fork' "$sum" "$alone" $((alone / 20))
[ "$(family 'map(.charged_bytes) | min')" -gt $((alone / 3)) ] || fail 'one bears it all'
kill -9 "$python" # the child sees it
wait "$python" 2>/dev/null || true

# ---- of the store ----
# Its limit waits for a restart.
redis SHUTDOWN NOSAVE || true
larderd_stop
larderd_start "$(settings $'memory-limit = 16M\nowner-limit = 100%' '')"
redis_start
redis_fill 60000
before=$(redis_digest)
evict_to 'the store is full: memory-limit in [store] is 16.0 MiB'
all_comes_back "$(client evicted_bytes)"
evict_to 'the store is full'
all_comes_back "$(client evicted_bytes)"
larderd_stop
