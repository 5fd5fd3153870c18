# shellcheck shell=bash
# The program `stops` under the service, and points at which that stays. Sourced after lib.sh.

# A service that hangs must not hang us.
larder() { timeout 60 "$work/bin/larder" "$@"; }

install -m 755 "$build/tests/e2e/stops" "$work/bin"
# shellcheck disable=SC2034 # for messages
case='before all'

# ---- points ----

LARDER_POINTS=''
for point in move moved hold commit zap read apply fetch; do
	LARDER_POINTS+=${LARDER_POINTS:+,}$point=$work/at-$point
done
export LARDER_POINTS

stay_at() { touch "$work/at-$1"; } # who comes there next
is_at() { [ -e "$work/at-$1.at" ]; }
go_on() { rm "$work/at-$1.at"; }

# ---- programs ----

declare -A asked # by name: orders that are answered by good or bad

# stops_start NAME: sets client_pid, and memory: address and bytes of what it holds. Taken over on
# return.
memory=()
stops_start() {
	local in=$work/home/$1.in
	[ -e "$in" ] || mkfifo -m 666 "$in"
	rm -f "$work/$1.out"
	(cd "$work/home" && as_nobody "$work/bin/larder" run -- "$work/bin/stops" 3) \
		>"$work/$1.out" 2>&1 <>"$in" &
	client_pid=$!
	started+=("$client_pid")
	asked[$1]=0
	wait_for grep -q ready "$work/$1.out" || fail "$case: $1 never got ready"
	read -ra memory < <(sed -n 's/^ready //p' "$work/$1.out")
	client_wait
}

tell() { printf %s "$2" >"$work/home/$1.in"; }
ask() {
	asked[$1]=$((asked[$1] + 1))
	tell "$1" "$2"
}
answers() { grep -c -e good -e bad "$work/$1.out" || true; }
has_answered() { [ "$(answers "$1")" -eq "${asked[$1]}" ]; }

# checked NAME [ORDER]: it does that with its memory, and all that it ever found was as it has to be.
checked() {
	ask "$1" "${2:-r}"
	wait_for has_answered "$1" || fail "$case: $1 hangs: $(tail -n 3 "$work/$1.out")"
	! grep -q bad "$work/$1.out" || fail "$case: $1 has wrong bytes"
}

# A child of ours, of which the shell has nothing to say.
kill_quietly() {
	kill -9 "$1" 2>/dev/null || true
	wait "$1" 2>/dev/null || true
}

# A thread of it waits for an event to be read.
discards() { grep -q userfaultfd_event_wait "/proc/$1"/task/*/wchan; }

# ---- the second, to whom nothing happens ----

second=0 base=0 base_links=0 base_leaves=0

# As a whole: out, back with every byte, out.
second_is_well() {
	client_pid=$second
	evict_fully
	checked second
	evict_fully
}

second_start() {
	stops_start second
	second=$client_pid
	second_is_well
	wait_for only_second || fail "one program alone: $(larder status --json)"
	base=$(descriptors)
	base_links=$(json .service.link_bytes)
	base_leaves=$(json .service.leaf_bytes)
}

descriptors() { find "/proc/$service/fd" -mindepth 1 -printf . | wc -c; }

only_second() {
	json "(.clients | length) == 1 and .clients[0].pid == $second and
		.service.evicted_bytes == .clients[0].evicted_bytes and
		.service.stored_bytes == .clients[0].stored_bytes"
}

# The service has the second's pages and nothing else.
is_freed() {
	only_second && [ "$(descriptors)" -le "$base" ] &&
		[ "$(json .service.link_bytes)" -le "$base_links" ] &&
		[ "$(json .service.leaf_bytes)" -le "$base_leaves" ]
}
freed() {
	client_pid=$second
	evict_fully
	wait_for is_freed || fail "$case: the service keeps something: $(descriptors) descriptors, before $base;
links before $base_links, leaves $base_leaves: $(larder status --json)"
}

service_is_well() {
	case='after all'
	[ "$(json .service.corrupt_pages)" -eq 0 ] || fail 'damaged pages'
	larderd_stop
	checked second
}
