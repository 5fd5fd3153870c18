#!/bin/bash
# The manual pages and what the programs say of themselves agree, both ways: no option, command or key
# is in one and not in the other. And groff finds nothing to warn about.
#
# BUILD: the build tree; SOURCE: the sources.
set -euo pipefail

fail() {
	echo "FAIL: $*" >&2
	exit 1
}

skip() {
	echo "skipped: $*" >&2
	[ "${MUST_WORK:-}" != 1 ] || exit 1
	exit 77
}

for program in man groff col; do
	command -v "$program" >/dev/null || skip "no $program (contrib/setup test)"
done
larderd=$BUILD/svc/larderd larder=$BUILD/svc/larder man=$SOURCE/contrib/man
config_page=$BUILD/contrib/man/larder.conf.5

# page FILE: as people read it, in one paragraph a line and without hyphens of groff's own.
page() { MANWIDTH=2000 MANROFFOPT='-rHY=0' LC_ALL=C.UTF-8 man --warnings -P cat -l "$1" 2>/dev/null | col -bx; }

# section FILE NAME
section() { page "$1" | awk -v name="$2" '/^[A-Z]/ { inside = $0 == name; next } inside'; }

# items: the first line of each item in a section's lists: "--json", "evict [--json] PID".
items() { grep -E '^ {5}[^ ]' | sed 's/^ *//'; }

same() { # WHAT, two lists of words
	local only
	only=$(comm -3 <(sort -u <<<"$2") <(sort -u <<<"$3"))
	[ -n "$2" ] || fail "$1: nothing found"
	[ -z "$only" ] || fail "$1: only in the program (left) or in the page (right):"$'\n'"$only"
	echo "$1: $(wc -l <<<"$2")"
}

options_in() { grep -oE -- '--[a-z][a-z-]*' <<<"$1" || true; }

check_warnings() {
	local file said
	for file in "$man/larder.1" "$man/larderd.8" "$config_page"; do
		said=$(groff -ww -mdoc -Tutf8 -z "$file" 2>&1)
		[ -z "$said" ] || fail "groff: $said"
		said=$(LC_ALL=C.UTF-8 MANWIDTH=80 man --warnings -E UTF-8 -l -Tutf8 -Z "$file" 2>&1 >/dev/null)
		[ -z "$said" ] || fail "man: $said"
	done
}

# Options are named in their table, and in the synopsis.
check_larderd() {
	local help
	help=$("$larderd" --help)
	same 'larderd, options' "$(options_in "$help")" "$(options_in "$(section "$man/larderd.8" DESCRIPTION | items | grep '^-')")"
	same 'larderd, synopsis' "$(options_in "$help")" \
		"$(options_in "$(section "$man/larderd.8" SYNOPSIS)")"
}

# A line each, as in the help: name, operands, meaning.
larder_commands() { "$larder" --help | sed -n '/^commands:/,/^$/s/^  \([^ ].*\)/\1/p'; }

check_larder() {
	local name line help all='' page_items
	page_items=$(section "$man/larder.1" DESCRIPTION | items)
	same 'larder, commands' "$(larder_commands | awk '{ print $1 }')" \
		"$(sed -n '/^run /,/^--version/p' <<<"$page_items" | awk '{ print $1 }')"
	# The options of each command, next to it in the page; --runtime-dir and --help are of all.
	while read -r name _; do
		[[ $name != -* ]] || continue
		help=$("$larder" "$name" --help)
		all+=$'\n'$(options_in "$(sed -n '/^options:/,$p' <<<"$help")")
		line=$(grep -E "^$name( |\$)" <<<"$page_items")
		[ "$(options_in "$(sed -n '/^options:/,$p' <<<"$help")" | grep -vxE -- '--(runtime-dir|help)' | sort)" = \
			"$(options_in "$line" | sort)" ] || fail "larder $name: its options are not those of: $line"
	done < <(larder_commands)
	same 'larder, options' "${all#$'\n'}" \
		"$(options_in "$(sed -n '/^--version/,$p' <<<"$page_items" | sed 1d | grep '^--')")"
}

check_config() {
	local keys sections
	keys=$("$larder" --help-config | sed -n 's/^  \([a-z-]*\)$/\1/p')
	sections=$("$larder" --help-config | grep '^\[')
	same 'larder.conf, keys' "$keys" \
		"$(section "$config_page" KEYS | items | awk '{ print $1 }')"
	same 'larder.conf, sections' "$sections" "$(section "$config_page" KEYS | sed -n 's/^ *\(\[.*\]\)$/\1/p')"
	# The example: as wide as the table, and right.
	"$larder" check-config "$BUILD/contrib/man/larder.conf" >/dev/null || fail 'the example is wrong'
	same 'example, keys' "$keys" "$(sed -n 's/^#\([a-z-]*\) = .*/\1/p' "$BUILD/contrib/man/larder.conf")"
}

check_warnings
check_larderd
check_larder
check_config
