#!/bin/bash
# A program that can't be taken over never notices: same output, same errors, same exit code as bare,
# whether there is no service, it doesn't want this user, or its directory can't be read.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
need python3

# The programs, each as it would be typed into a shell.
programs=(
	"/usr/bin/python3 -c 'import sys; print(sum(range(10**6))); print(\"e\", file=sys.stderr); sys.exit(3)'"
	"sh -c 'seq 10000 | sort -r | cksum; ls /nonexistent; exit 5'"
	"sh -c 'kill -TERM \$\$'"
	"/nonexistent/program"
)

# outcome CMD...: what it prints on either side and its exit code, as one text.
outcome() {
	local code=0
	{
		(cd "$work/home" && as_nobody "$@") >"$work/stdout" 2>"$work/stderr" </dev/null
	} 2>/dev/null || code=$? # bash's own word on a signal goes nowhere
	printf 'code %s\nstdout\n%s\nstderr\n%s\n' "$code" "$(cat "$work/stdout")" "$(cat "$work/stderr")"
}

# same_as_bare WHAT: all programs, under `larder run` with the present LARDER_RUNTIME_DIR.
same_as_bare() {
	local program
	for program in "${programs[@]}"; do
		outcome sh -c "exec $program" | sed 's/^sh: 1: exec: //' >"$work/bare"
		outcome sh -c "exec '$work/bin/larder' run -- $program" >"$work/run.txt"
		case $program in
		/nonexistent*) # the words are the shell's or ours, the exit code is the same
			cmp -s <(head -n 1 "$work/bare") <(head -n 1 "$work/run.txt") ;;
		*) cmp -s "$work/bare" "$work/run.txt" ;;
		esac || fail "$1: $program: $(diff "$work/bare" "$work/run.txt")"
	done
	echo "$1: same as bare"
}

real=$LARDER_RUNTIME_DIR
export LARDER_RUNTIME_DIR=$work/nothing
same_as_bare 'no service'
# There is nothing to hurry for.
install -m 755 "$build/tests/e2e/without" "$work/bin"
(as_nobody "$work/bin/without" slice "$work/bin/larder" run -- sh -c 'exit 7') && code=0 || code=$?
[ "$code" -eq 7 ] || fail "without a service, it changes how it is scheduled ($code)"

LARDER_RUNTIME_DIR=$work/closed
install -d -m 700 "$LARDER_RUNTIME_DIR"
same_as_bare 'unreadable directory'

LARDER_RUNTIME_DIR=$real
larderd_start '[service]
allow-user = root'
same_as_bare 'refused user'
[ "$(json '.clients | length')" -eq 0 ] || fail 'a user who may not attach became a client'
larderd_stop
same_as_bare 'service ended'
