#!/bin/bash
# A forked child whose agent gives up (here because a call of the child's never ends) is served all the
# same, and what the kernel tells nobody of is right in it: guards, MADV_WIPEONFORK, locked memory.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

larderd_start "$everyone"
install -m 755 "$build/tests/e2e/gives_up" "$work/bin"
mkfifo -m 666 "$work/home/in"
exec {orders}<>"$work/home/in"
failed=0
for what in guard-early guard wipe lock; do
	(cd "$work/home" && as_nobody "$work/bin/larder" run -- "$work/bin/gives_up" "$what") \
		>"$work/client.out" 2>&1 <"$work/home/in" &
	client_pid=$!
	started+=("$client_pid")
	wait_for grep -q ready "$work/client.out" || fail "$what: $(cat "$work/client.out")"
	client_wait
	evict_fully
	echo go >&"$orders"
	wait_for gone "$client_pid" || fail "$what hangs"
	if ! grep -qx good "$work/client.out"; then
		echo "$what: $(cat "$work/client.out")"
		failed=1
	fi
done
[ "$failed" -eq 0 ] || fail 'not as without the service'
larderd_stop
