#!/bin/bash
# The worker is killed at every point that has a name (svc/points.h), while programs that verify
# themselves run: it did die there, another takes over, no byte is wrong, nobody hangs, and in the end
# nothing is left.
#
#   kill_points.sh GROUP...   the points of these groups
#   kill_points.sh list       prints all of them, for tests/source/points.sh
#
# KILL_TIMES (1): how often at each point; the first time as it is passed first, then as it is passed for
# an n-th time up to KILL_NTH (30), at random by KILL_SEED (from the clock, and printed). KILL_POINTS: of the
# group's, only these. KILL_LOG: where a copy of the service's log goes.
declare -A group=(
	[attach]='loop accepted hello welcomed ready proved recorded attached'
	[evict]='adopt registered opened move order_told order_posted moved held hold packed put stored commit
		published zap zap_posted zapped zap_told begun rows client_row written committed recycled trimmed'
	[serve]='read answer fetch copied zeroed read_remap read_remove read_unmap remap remapped remove removed
		unmap unmapped apply entry grow trim calm_told settle settle_told buried rung replied reopened'
	[store]='compact_moved compact_quiet compacted repacked repack_done scrub scrubbed'
	[recovery]='recover recover_store recover_clients recover_rows recover_all_rows recover_closed
		recover_entry recover_journal recover_seen recover_dead recover_clean recover_threads recover_wake
		recover_woken recover_serves'
	[release]='release released ask unregistered evict_again'
	[taken]='recover_all_rows recover_seen recover_woken'
	[ended]='ended forget forgotten shrink shrunk'
	[stop]='end end_told all_back goodbye closing closed'
	[upgrade]='leave leave_flushed leave_now upgrade upgrade_checked upgrade_alone upgrade_open upgrade_begun
		upgrade_taken'
	[kept]='kept'
	[late]='revoked posted'
	[full]='returned'
	[lost]='waits flush_told gone_told'
	[fork]='read_fork fork fork_recorded fork_told fork_copied forked birth birth_asked born join joined
		joined_told unshare'
)
if [ "$*" = list ]; then
	# shellcheck disable=SC2048,SC2086 # they are words
	unset 'group[taken]' # of the others
	printf '%s\n' ${group[*]}
	exit
fi
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# shellcheck source=tests/guest/service.sh
. "$source_dir/tests/guest/service.sh"
need python3

export LARDER_POINTS=kill=$work/kill
mkdir "$work/kill"
[ -z "${KILL_LOG:-}" ] || at_exit+=("cp $work/larderd.log $KILL_LOG")
seed=${KILL_SEED:-$((RANDOM * 32768 + RANDOM))}
RANDOM=$seed
echo "KILL_SEED=$seed"

# ---- dying at a point ----

arm() { # NAME [N]
	[ ! -L "$work/kill/$1" ] || fail "$1: armed already"
	rm -f "$work/kill/$1.at"
	ln -s "${2:-1}" "$work/kill/$1"
}
died() { [ -L "$work/kill/$1.at" ]; }

now='' # the worker that serves
serves() { now=$(json .service.pid); }
is_other() { serves && [ "$now" != "$1" ]; }

# kill_at NAME N COMMAND...: arms the point, does what passes it, and waits until the worker has died there
# and another serves.
kill_at() {
	local name=$1 n=$2 old
	wait_for serves || fail "$name: before it, nobody serves"
	old=$now
	arm "$name" "$n"
	"${@:3}"
	wait_to_die "$name" "$n" "$3"
	wait_for is_other "$old" || fail "$name ($n): no other worker serves"
	look_well
	echo "$name${n:+ $n}"
}
# Some points aren't passed so often in the life of one worker: then the next time will do. Who takes
# over while one guest has ended and the next hasn't begun has nothing to recover.
wait_to_die() { # NAME N [COMMAND]
	local begun=$SECONDS last=$SECONDS
	until died "$1"; do
		[ "$2" -eq 1 ] || [ "$SECONDS" -lt $((begun + 5)) ] || ln -sfn 1 "$work/kill/$1"
		if [ "${3:-}" = kill_now ] && [ "$SECONDS" -ge $((last + 5)) ] && serves; then
			last=$SECONDS
			kill -9 "$now"
		fi
		[ "$SECONDS" -lt $((begun + 60)) ] || fail "$1 ($2): nobody has passed it"
		look_well
		sleep 0.05
	done
}
look_well() { [ -z "$guest" ] || guest_go_on; }
# A recovery passes most of its points once.
nth() { # NAME
	local most=${KILL_NTH:-30}
	[[ $1 != recover* || $1 = recover_entry ]] || most=1
	echo $((RANDOM % most + 1))
}
kill_each() { # GROUP COMMAND...
	local name n
	for name in ${group[$1]}; do
		kill_at "$name" 1 "${@:2}"
	done
	for ((n = 1; n < ${KILL_TIMES:-1}; n++)); do
		for name in ${group[$1]}; do
			kill_at "$name" "$(nth "$name")" "${@:2}"
		done
	done
}

# What the service says when it has lost something.
complaints='none of its faults is|no fault of this|damaged|is lost|can.t be restored|clients wait, nothing'
all_is_well() {
	! grep -E "$complaints" "$work/larderd.log" || fail 'the service has lost something'
	[ "$(json .service.corrupt_pages)" -eq 0 ] || fail 'damaged pages'
}
nothing_is_left() { [ "$(json '(.clients | length) + .service.evicted_bytes + .service.stored_bytes')" -eq 0 ]; }
descriptors() { find "/proc/$service/fd" -type l | wc -l; }
# All programs have ended.
end_well() {
	wait_for nothing_is_left || fail "there is something left: $(larder status --json)"
	[ "$(descriptors)" -le $((descriptors_first + 4)) ] ||
		fail "$(descriptors) descriptors are open, and were $descriptors_first"
	all_is_well
	larderd_stop
}
begin() { # CONFIG
	larderd_start "$everyone$1"
	descriptors_first=$(descriptors)
}

# ---- the guest, evicted without pause ----

ops=read,write,poke,mmap,munmap,reuse,mapover,grow,growhere,shrink,move,moveover,movepart,resize,dontunmap
ops+=,unmapmany,mapmany,dontneedmany,dontneed,free,populate,protect,guard,mlock,malloc,realloc,release
guests=0 guest=''
guest_begin() {
	guests=$((guests + 1))
	client_start "$work/bin/larder-guest" --threads 3 --mb 96 --seed $((seed + guests)) --seconds 30 \
		--child-steps 100 --quiet "${guest_options[@]}"
	guest=$client_pid
	"$source_dir/tests/guest/evictor" "$LARDER_RUNTIME_DIR/stats.sock" "$guest" mortal >"$work/evictor.out" &
	evictor=$!
	started+=("$evictor")
}
guest_runs() { ! gone "$guest" && [ "$(ps -o stat= -p "$guest")" != Z ]; }
guest_end() {
	local code=0
	wait "$guest" || code=$?
	[ "$code" -eq 0 ] || fail "the guest ended with $code: $(cat "$work/client.out")"
	wait "$evictor" || fail "the evictor ended with $?"
	tail -n 1 "$work/client.out"
	guest=''
}
guest_ended() { ! guest_runs; }
# For as long as there are points left: one after the other.
guest_go_on() {
	guest_runs && return
	guest_end
	guest_begin
}
guest_wait() {
	WAIT=120 wait_for guest_ended || { guest_hangs; fail "the guest hangs: $(cat "$work/client.out")"; }
	guest_end
}
under_guest() { # CONFIG GROUP COMMAND...
	begin "$1"
	guest_begin
	kill_each "${@:2}"
	guest_wait
	end_well
}

# ---- programs that hold memory, and say whether it is as it was ----

install -m 755 "$build/tests/e2e/stops" "$work/bin"
declare -A pid=() asked=() # by name
hold() { # NAME MB
	local in=$work/home/$1.in
	[ -e "$in" ] || mkfifo -m 666 "$in"
	(cd "$work/home" && as_nobody "$work/bin/larder" run -- "$work/bin/stops" "$2") \
		>"$work/$1.out" 2>&1 <>"$in" &
	client_pid=$!
	started+=("$client_pid")
	pid[$1]=$client_pid asked[$1]=0
	wait_for grep -q ready "$work/$1.out" || fail "$1 never got ready"
}
has_answered() { [ "$(grep -cx -e good -e bad "$work/$1.out")" -eq "${asked[$1]}" ]; }
tell() { printf %s "$2" >"$work/home/$1.in"; }
ask() { # NAME ORDER
	asked[$1]=$((asked[$1] + 1))
	tell "$1" "$2"
}
is_right() { # NAME [ORDER]
	[ "${2:-}" = answered ] || ask "$1" "${2:-r}"
	wait_for has_answered "$1" || fail "$1 hangs"
	! grep -qx bad "$work/$1.out" || fail "$1 has wrong bytes"
}
leave() { # NAME
	local code=0
	tell "$1" x
	wait_for gone "${pid[$1]}" || fail "$1 does not end"
	wait "${pid[$1]}" || code=$?
	[ "$code" -eq 0 ] || fail "$1 ended with $code"
}
# An order that a worker dies of has no answer. It is given again.
out() { [ "$(client evicted_bytes "$1")" -ge $(($2 << 20 | ${3:-0} << 10)) ]; }
evict_out() { larder evict "$1" && out "$@"; }
take_out() { # NAME MB [KB]: so much of it, at least
	wait_for evict_out "${pid[$1]}" "${@:2}" || fail "$1 can't be evicted: $(larder evict "${pid[$1]}" 2>&1)"
}
try() { larder "$@" >"$work/try.out" 2>&1 || true; }

# ---- groups ----

just_wait() { :; }
kill_now() { kill -9 "$(json .service.pid)"; }

guest_options=(--ops "$ops")
run_evict() { under_guest '' evict just_wait; }
run_serve() { under_guest '' serve just_wait; }
run_recovery() { under_guest '' recovery kill_now; }
run_store() {
	under_guest $'\n[store]\nscrub-every = 1s\n[policy all]\nmatch-exe = *\nrecompress-after = 1s' store just_wait
}

# Before it is on record it runs on without the service, and then with it.
run_attach() {
	local name
	begin ''
	hold first 3
	take_out first 2
	for name in ${group[attach]}; do
		kill_at "$name" 1 hold second 3
		is_right second
		[[ ! $name =~ recorded|attached ]] || take_out second 2
		is_right second
		leave second
		is_right first
		take_out first 2
	done
	leave first
	end_well
}

run_release() {
	local name state
	begin ''
	hold first 20
	for name in ${group[release]}; do
		take_out first 18
		if [ "$name" = evict_again ]; then
			larder release "$client_pid" >/dev/null
			kill_at "$name" 1 try evict "$client_pid"
		else
			kill_at "$name" 1 try release "$client_pid"
		fi
		# What the record says.
		state=released
		[ "$name" != release ] || state=managed
		[ "$(client state)" = $state ] || fail "$name: the next worker says $(client state)"
		is_right first
		larder release "$client_pid" >/dev/null || fail "$name: it can't be released"
		[ "$(client evicted_bytes)" -eq 0 ] || fail "$name: released, and out"
		is_right first
	done
	leave first
	end_well
}

# A GiB that packs to nothing, but has rows: when they go the index gets smaller. Filled and evicted in
# pieces, so that it is never all there.
many_rows() {
	local i
	client_start /usr/bin/python3 -c '
import mmap, signal
piece = 128 << 20
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
memory = mmap.mmap(-1, 10 * piece, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for i in range(10):
    memory[i * piece:(i + 1) * piece] = b"\1" * piece
    print("ready", i, flush=True)
    signal.sigwait({signal.SIGUSR1})'
	for i in {0..9}; do
		wait_for grep -q "ready $i" "$work/client.out" || fail 'python3 is not ready'
		client_wait
		wait_for evict_out "$client_pid" $((128 * (i + 1))) || fail 'python3 is not evicted'
		[ "$i" -eq 9 ] || kill -USR1 "$client_pid"
	done
}
end_python() {
	kill "$client_pid"
	wait "$client_pid" || true
}
run_ended() {
	local name
	begin ''
	hold first 3
	for name in ${group[ended]}; do
		if [[ $name = shr* ]]; then
			many_rows
			kill_at "$name" 1 end_python
		else
			hold second 3
			take_out second 2
			kill_at "$name" 1 leave second
		fi
		is_right first
		client_pid=${pid[first]}
		take_out first 2
	done
	leave first
	end_well
}

run_stop() {
	local name code
	for name in ${group[stop]} ${group[release]% *} recover_clients recover_woken; do
		begin ''
		hold first 20
		take_out first 18
		hold second 3
		take_out second 2
		arm "$name"
		if [[ $name = recover* ]]; then arm all_back; fi
		kill "$service"
		wait_for gone "$service" || fail "$name: the service does not end"
		code=0
		wait "$service" || code=$?
		service=''
		[ "$code" -eq 0 ] || fail "$name: the service ended with $code"
		died "$name" || fail "$name: nobody has passed it"
		! mountpoint -q "$LARDER_RUNTIME_DIR/store" || fail "$name: the store is left"
		is_right first
		is_right second
		leave first
		leave second
		echo "$name, stopping"
	done
	! grep -E "$complaints" "$work/larderd.log" || fail 'the service has lost something'
}

# Another larderd is to take over in place. A worker that dies then is as good as one that leaves. A keeper
# that dies with a worker alive has everything given back; without one, the next larderd takes over.
has_upgraded() { [ "$(json .service.upgrades)" -eq 1 ]; }
run_upgrade() {
	local name
	for name in ${group[upgrade]}; do
		begin ''
		hold first 20
		take_out first 18
		serves
		arm "$name"
		kill -USR2 "$service"
		wait_for died "$name" || fail "$name: nobody has passed it"
		if [[ $name = leave* ]]; then
			wait_for has_upgraded || fail "$name: no other larderd takes over"
			is_right first
		else
			wait_for gone "$service" || fail "$name: the keeper lives"
			wait "$service" 2>/dev/null || true
			service=''
			ask first r
			wait_for gone "$now" || fail "$name: the worker lives"
			[[ ! $name =~ ^upgrade(_checked)?$ ]] || is_right first answered
			begin ''
			is_right first answered
		fi
		# It is over when everything was given back.
		if [[ $name =~ ^upgrade(_checked)?$ ]]; then
			grep -q 'every page is given back' "$work/larderd.log" || fail "$name: not all was given back"
		else
			take_out first 18
			is_right first
		fi
		leave first
		end_well
		: >"$work/larderd.log"
		echo "$name, upgrading"
	done
}

# Something else lies where pages were that have moved, and the worker dies before it has read of the move.
has_said() { [ "$(grep -c "^$1" "$work/first.out")" -eq "$round" ]; }
run_taken() {
	local round=0
	begin ''
	hold first 3
	client_wait
	for name in ${group[taken]}; do
		take_out first 2
		tell first o
		round=$((round + 1))
		wait_for has_said prepared || fail 'it does not get ready'
		wait_for serves || fail 'nobody serves'
		kill -STOP "$now"
		ask first g
		wait_for has_said taken || fail 'the place is not taken'
		arm "$name"
		kill -9 "$now"
		wait_to_die "$name" 1
		is_right first answered
		is_right first
		echo "$name, taken"
	done
	leave first
	end_well
}

# An agent that doesn't answer.
run_late() {
	local agent
	begin ''
	hold first 20
	client_wait
	agent=$(client agent_pid)
	kill -STOP "$agent"
	kill_at revoked 1 try evict "$client_pid"
	is_right first
	kill -CONT "$agent"
	take_out first 18
	is_right first
	# Or one that sleeps.
	kill_at posted 1 try evict "$client_pid"
	take_out first 18
	is_right first
	leave first
	end_well
}

# A store that is too small.
run_full() {
	begin $'\n[store]\nmemory-limit = 24M\nowner-limit = 100%'
	hold first 48
	client_wait
	for name in ${group[full]}; do
		kill_at "$name" 1 try evict "$client_pid"
		is_right first
		take_out first 8
	done
	leave first
	end_well
}

# A process that shares the memory is killed in munmap, and nobody hears of it: what is on record there is
# too much, if all is out. Then something else is moved there, or it is given back.
lose_unmap() {
	local child evict
	is_right first m
	touch "$work/at-move"
	larder evict "$client_pid" >"$work/evict.out" 2>&1 &
	evict=$!
	wait_for test -e "$work/at-move.at" || fail 'the service never comes there'
	tell first u
	wait_for grep -q child "$work/first.out" || fail 'there is no child'
	child=$(sed -n 's/^child //p' "$work/first.out")
	wait_for grep -q userfaultfd_event_wait "/proc/$child/wchan" || fail 'its child does not wait'
	kill -9 "$child"
	wait_for grep -q lost "$work/first.out" || fail 'its child can not be killed'
	rm "$work/at-move.at"
	wait "$evict" || fail "evict: $(cat "$work/evict.out")"
}
run_lost() {
	local name
	LARDER_POINTS+=,move=$work/at-move
	begin ''
	for name in ${group[lost]}; do
		hold first 3
		client_wait
		take_out first 3 512
		lose_unmap
		if [ "$name" = gone_told ]; then
			kill_at "$name" 1 try release "$client_pid"
		else
			kill_at "$name" 1 ask first M
			is_right first answered
		fi
		try evict "$client_pid"
		is_right first U
		is_right first
		leave first
	done
	end_well
}

run_fork() {
	guest_options=(--also fork)
	under_guest '' fork just_wait
}

# With a service manager that keeps descriptors of children.
run_kept() {
	python3 "$source_dir/tests/e2e/notified.py" "$work/notify" >"$work/notify.out" &
	started+=("$!")
	wait_for grep -q listens "$work/notify.out" || fail 'nobody listens'
	larderd_in=(env "NOTIFY_SOCKET=$work/notify")
	guest_options=(--also fork)
	under_guest '' kept just_wait
	larderd_in=()
}

for one; do
	group[$one]=${KILL_POINTS:-${group[$one]}}
	"run_$one"
done
