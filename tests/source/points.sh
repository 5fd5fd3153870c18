#!/bin/bash
# Every point at which the worker can be killed is in the list of tests/e2e/kill_points.sh, and is passed
# somewhere in the code.
#
# SOURCE: the sources.
set -euo pipefail
cd "$SOURCE"

fail() {
	echo "FAIL: $*" >&2
	exit 1
}

# names FILE MACRO: of its list.
names() { sed -n "/^#define $2(X)/,/[^\\\\]$/s/^\tX(\([a-z_]*\), .*/\1/p" "$1"; }

points=$(names svc/points.h POINTS | sort)
steps=$(names store/store.h STORE_STEPS | sort)
listed=$(tests/e2e/kill_points.sh list | sort)
[ "$(wc -w <<<"$points")" -gt 100 ] || fail 'the list of svc/points.h is not found'
[ "$(wc -w <<<"$steps")" -gt 5 ] || fail 'the list of store/store.h is not found'
[ "$(uniq -d <<<"$listed")" = '' ] || fail "twice in tests/e2e/kill_points.sh: $(uniq -d <<<"$listed")"
only=$(comm -3 <(echo "$points") <(echo "$listed"))
[ -z "$only" ] || fail "only in svc/points.h (left) or in tests/e2e/kill_points.sh (right):"$'\n'"$only"
for name in $points; do
	if grep -qx "$name" <<<"$steps"; then
		grep -q "store_step(s, STORE_STEP_$name)" store/*.c || fail "the store never takes step $name"
	else
		grep -Eq "(point\(|= )POINT_$name\b" svc/*.c || fail "point $name is passed nowhere"
	fi
done
echo "$(wc -w <<<"$points") points"
