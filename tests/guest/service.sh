# shellcheck shell=bash
# The guest under a larderd of its own that evicts without pause. Sourced after tests/lib.sh.

install -m 755 "$build/tests/guest/larder-guest" "$work/bin"

# guest_run SECONDS ARG...: runs the guest with these arguments, and returns its exit code; its output
# is in $work/client.out. 124: it doesn't end, within this many seconds. LARDER_POINTS makes the
# service slow where races are narrow (svc/points.h).
guest_run() {
	local code=0
	larderd_start "$everyone"
	client_start "$work/bin/larder-guest" "${@:2}"
	timeout "$1" "$source_dir/tests/guest/evictor" "$LARDER_RUNTIME_DIR/stats.sock" "$client_pid" \
		>"$work/evictor.out" || code=$?
	if [ "$code" -eq 0 ]; then
		wait "$client_pid" || code=$?
	elif [ "$code" -eq 124 ]; then
		guest_hangs
	else
		fail "the evictor ended with $code"
	fi
	[ "$code" -ne 0 ] || guest_service_check
	return "$code"
}

# guest_begin ARG...: starts the guest, and evicts while services die and come. guest_end: it ends, and
# every byte was right.
guest_begin() {
	client_start "$work/bin/larder-guest" "$@"
	"$source_dir/tests/guest/evictor" "$LARDER_RUNTIME_DIR/stats.sock" "$client_pid" mortal \
		>"$work/evictor.out" &
	guest_evictor=$!
	started+=("$guest_evictor")
}
guest_runs() { ! gone "$client_pid" && [ "$(ps -o stat= -p "$client_pid")" != Z ]; }
guest_ended() { ! guest_runs; }
guest_end() { # LOG, where a copy of the service's goes, or ''
	local code=0
	WAIT=120 wait_for guest_ended || guest_hangs
	[ -z "$1" ] || cp "$work/larderd.log" "$1"
	wait "$client_pid" || code=$?
	wait "$guest_evictor" || fail "the evictor ended with $?"
	cat "$work/evictor.out"
	[ "$code" -eq 0 ] || fail "the guest ended with $code"
	grep 'pages verified$' "$work/client.out"
}

# What the service thinks of it, and where its threads are, before it is ended. To stderr: what else
# is printed of a failed test is the ends of files.
guest_hangs() {
	local process pid task
	echo '---- the guest hangs ----'
	larder status || true
	larder status "$client_pid" || true
	for process in /proc/[0-9]*; do
		[ "$(readlink "$process/exe")" = "$work/bin/larder-guest" ] || continue
		pid=${process##*/}
		for task in "$process"/task/*; do
			echo "$pid: ${task##*/} $(cut -d ' ' -f 2-4 "$task/stat") in $(cat "$task/wchan")," \
				"call $(tr '\n' ' ' <"$task/syscall")"
		done
		larder status "$pid" | grep -E 'waiting|oldest|evicted_bytes' | tr '\n' ';' || true
		echo
	done 2>/dev/null
	kill -9 "$client_pid" 2>/dev/null || true
} >&2

guest_evicted=0 guest_faults=0 guest_unreported=0 # what the service counted
guest_service_check() {
	guest_evicted=$(json .service.pages_evicted)
	guest_faults=$(json .service.faults)
	guest_unreported=$(json .service.moves_unreported)
	[ "$(json .service.corrupt_pages)" -eq 0 ] || fail 'damaged pages'
	larderd_stop
}
