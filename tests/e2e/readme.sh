#!/bin/bash
# What README.md tells people to type exists: the commands of the quick start parse and name files
# that are there, each subcommand is in the program's help, and each file of the source tour, each
# configuration key and each statistic is in the sources.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

readme=$source_dir/README.md

section() { awk -v heading="## $1" '/^## / { inside = $0 == heading; next } inside' "$readme"; }

# The fenced sh blocks of a section.
commands() { section "$1" | awk '/^```/ { block = $0 == "```sh"; next } block'; }

# What stands in code quotes at the start of a section's table rows.
names() { section "$1" | awk -F'`' '/^\| `/ { print $2 }'; }

# some TEXT WHAT: a section that the README lost would make its checks pass.
some() { [ -n "$1" ] || fail "README.md has no $2"; }

check_quick_start() {
	local text word
	text=$(commands 'Quick start')
	some "$text" 'quick start'
	bash -n <<<"$text" || fail 'the quick start does not parse'
	for word in $text; do
		case $word in
		contrib/* | tests/* | .ci/*) [ -x "$source_dir/$word" ] || fail "README.md: no $word" ;;
		esac
	done
}

check_commands() {
	local text program subcommand
	text=$(commands 'Commands')
	some "$text" 'commands'
	larder --help >"$work/help.out" 2>&1 || fail "larder --help ended with $?"
	while read -r program subcommand _; do
		[ "$program" = larder ] || continue
		grep -Eq "(^|[[:space:]|])$subcommand([[:space:]|]|\$)" "$work/help.out" ||
			fail "larder --help has no $subcommand"
	done <<<"$text"
}

check_configuration() {
	local text key
	text=$(names 'Configuration')
	some "$text" 'configuration keys'
	for key in $text; do
		grep -q "\"$key\"" "$source_dir/policy/config_key.c" || fail "README.md: no key $key"
	done
}

check_statistics() {
	local text name
	text=$(names 'Statistics')
	some "$text" 'statistics'
	for name in $text; do
		grep -Eq "X\($name,|\"$name\"" "$source_dir"/svc/*.[ch] || fail "README.md: no statistic $name"
	done
}

check_tour() {
	local text file
	# Whatever is quoted there and looks like a path.
	text=$(section 'Source tour' | grep -oE '`[a-zA-Z0-9_.-]+/[a-zA-Z0-9_./-]+`' | tr -d '`' || true)
	some "$text" 'source tour'
	for file in $text; do
		[ -e "$source_dir/$file" ] || fail "README.md: no $file"
	done
	text=$(section 'Source tour' | grep -oE '`struct [a-z_]+`' | tr -d '`' || true)
	some "$text" 'structs'
	while read -r text; do
		grep -qx "$text {" "$source_dir"/{store,policy,svc}/*.[ch] || fail "README.md: no $text"
	done <<<"$text"
}

check_quick_start
check_commands
check_configuration
check_statistics
check_tour
echo 'README.md: as the sources are'
