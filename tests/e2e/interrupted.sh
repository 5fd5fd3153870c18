#!/bin/bash
# A signal handler may fork anywhere, also inside a call that the shim follows.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

larderd_start "$everyone"
install -m 755 "$build/tests/e2e/interrupted" "$work/bin"
for how in fork _Fork; do
	for what in linked unlinked; do
		options=()
		[ "$what" = linked ] || options=(--no-inherit)
		(cd "$work/home" && as_nobody "$work/bin/larder" run "${options[@]}" -- \
			"$work/bin/interrupted" "$what" "$how") >"$work/client.out" 2>&1 ||
			fail "$what, $how: $(cat "$work/client.out")"
		echo "$what, $how: $(cat "$work/client.out")"
	done
done
echo '-- a call that never ends'
(cd "$work/home" && as_nobody timeout 60 "$work/bin/larder" run -- "$work/bin/interrupted" stuck fork) \
	>"$work/client.out" 2>&1 || fail "its agent waits for ever: $(cat "$work/client.out")"
larderd_stop
