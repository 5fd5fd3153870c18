#!/bin/bash
# Every header compiles alone and twice, with gcc and with clang, without a warning, and with no more to
# include than its folder may see: store/ and policy/ neither each other nor svc/.
#
# SOURCE: the sources.
set -euo pipefail

flags=(-std=gnu11 -D_GNU_SOURCE '-DLARDER_VERSION="test"' -Wall -Wextra -Wshadow -Wconversion
	-Wstrict-prototypes -Wmissing-prototypes -Wswitch-enum -Wvla -Werror -fsyntax-only -x c)
# shellcheck disable=SC2207 # words
flags+=($(pkg-config --cflags json-c sqlite3 libmicrohttpd cmocka))

# What each folder may include besides its own; further folders are an error, to be named here.
sees() {
	case $1 in
	store | policy | contrib/bench | tests/guest) ;;
	svc) echo store policy ;;
	tests/store) echo store ;;
	tests/policy) echo policy ;;
	tests/*) echo svc store policy ;;
	*) echo "FAIL: $1: say in $0 what it may include" >&2 && return 1 ;;
	esac
}

cd "$SOURCE"
mapfile -t headers < <(find store policy svc contrib tests -name '*.h' | sort)
[ "${#headers[@]}" -gt 50 ] || { echo "FAIL: only ${#headers[@]} headers" >&2 && exit 1; }

compilers=()
for compiler in gcc clang; do
	if command -v "$compiler" >/dev/null; then
		compilers+=("$compiler")
	else
		echo "skipped: $compiler isn't installed (contrib/setup test)" >&2
		[ "${MUST_WORK:-}" != 1 ] || exit 1
	fi
done
[ "${#compilers[@]}" -gt 0 ] || exit 77

failed=0
for header in "${headers[@]}"; do
	folder=$(dirname "$header")
	seen=$(sees "$folder")
	includes=(-I "$folder")
	for other in $seen; do includes+=(-I "$other"); done
	for compiler in "${compilers[@]}"; do
		printf '#include "%s"\n#include "%s"\nint compiled_alone(void);\n' \
			"$SOURCE/$header" "$SOURCE/$header" |
			"$compiler" "${flags[@]}" "${includes[@]}" - || {
			echo "FAIL: $header does not compile alone with $compiler" >&2
			failed=1
		}
	done
done
echo "${#headers[@]} headers with ${compilers[*]}"
exit "$failed"
