#!/bin/sh
# expect-replay.sh GUEST THREADS: the same seed gives the same steps in the same order, of each thread, and
# so does a replay of them. With one thread, of each child, too: several take addresses from each other, so
# that a call which makes a child may not come about.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
all='^[0-9]*[ /]'
[ "$2" = 1 ] || all='^[0-9]* '
steps() { grep "$all" "$dir/$1" | sort -s -k 1,1 >"$dir/$1.steps"; }

for run in first second; do
	"$1" --quiet --trace "$dir/$run" --threads "$2" --mb 64 --seed 7 --steps 4000 --child-steps 200
	steps $run
done
"$1" --quiet --trace "$dir/third" --replay "$dir/first"
steps third
[ "$(grep -c '^[0-9]*/' "$dir/first")" -gt 100 ] || {
	echo 'no steps of children'
	exit 1
}
cmp "$dir/first.steps" "$dir/second.steps"
cmp "$dir/first.steps" "$dir/third.steps"
