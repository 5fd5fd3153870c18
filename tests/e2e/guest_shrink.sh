#!/bin/bash
# A failure of the guest is made short: of a trace in which a byte was corrupted on purpose after each
# step of one kind, a handful of steps remain, and they fail as well.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need python3

guest=$build/tests/guest/larder-guest
kind=move
! "$guest" --threads 2 --mb 16 --steps 3000 --seed 3 --sabotage $kind --trace "$work/trace" >"$work/guest.out" 2>&1 ||
	fail 'a corrupted byte was not found'
export LARDER_BUILD=$build
"$source_dir/tests/guest/shrink" --tries 1 --seconds 1 --sabotage $kind "$work/trace" \
	>"$work/script" 2>"$work/shrink.out" || fail 'it was not made shorter'
cat "$work/shrink.out" "$work/script"

long=$(grep -c "^[01]" "$work/trace") || fail 'the trace has no steps'
short=$(grep -c "^[01]" "$work/script") || fail 'the script has no steps'
[ "$long" -gt 200 ] || fail "the trace has $long steps only"
[ "$short" -le 5 ] || fail "$short steps are left"
grep -q "^[01] $kind " "$work/script" || fail "no $kind is left"
code=0
"$guest" --replay "$work/script" --sabotage $kind >"$work/again.out" 2>&1 || code=$?
[ "$code" -eq 1 ] || fail "the script ended with $code"
grep -q 'wrong byte' "$work/again.out" || fail 'the script fails otherwise'
"$guest" --replay "$work/script" >"$work/again.out" 2>&1 || fail 'the script fails by itself'
