#!/bin/bash
# One call of the service fails, the n-th of its kind, for each n: a program is taken over or runs on as
# without a service, an order is carried out or says why not, a worker that dies is followed by another.
# Never a wrong byte, nobody waits for ever, and afterwards everything works.
#
#   fail_nth.sh KIND...     of fail_nth.c, in small letters
#
# NTH_SEED (from the clock, and printed) chooses among many calls, NTH_FIRST how many (fail_nth.py).
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need python3

install -m 755 "$build/tests/e2e/stops" "$work/bin"
head -c 12 /dev/zero >"$work/switch"
larderd_in=(env "LD_PRELOAD=$build/tests/e2e/libfail_nth.so" "SWITCH=$work/switch")
larderd_start "$everyone"
for kind; do
	python3 "$source_dir/tests/e2e/fail_nth.py" "$work/bin" "$LARDER_RUNTIME_DIR/stats.sock" "$work/switch" \
		"$kind" "${NTH_SEED:-$((RANDOM * 32768 + RANDOM))}" || fail "$kind"
done
echo "$(grep -c 'took over' "$work/larderd.log" || true) workers took over"
larderd_stop
