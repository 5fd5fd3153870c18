/* svc/pager.c, readers.c, order.c, evict_block.c, adopt.c, agent.c. One step is what happens
 * between two calls of the kernel, or one call. */

bit gate[MM];
bit deferred[MM * P];
#ifdef NO_RULE3_LOOKUP_AGAIN
byte kept[MM * P]; /* bytes looked up before COPY said EAGAIN; 0: none, else value + 1 */
#endif
#define DEFERRED(m) ANY(deferred, m)
#define READABLE(m) (HAS_FAULT(m) || len(events[m]) > 0)

/* Something to do: to read, or put off until the fence falls (the timer; trying while it is up
 * changes nothing). */
#ifdef NO_RULE3_TIMER
#define WORK(m) READABLE(m)
#else
#define WORK(m) (READABLE(m) || ((DEFERRED(m) || UNSETTLED(m)) && fence[m] == 0))
#endif

/* Scratch of one step. */
byte b_i, b_a, b_state, b_bytes, b_suspect, b_to, b_thread;
mtype b_kind;

#if MM > 1
#include "birth.pml"
#else
#define CHILD_SERVED false
#endif

inline lock(m)
{
	atomic { gate[m] == 0 -> gate[m] = 1 }
}

inline unlock(m)
{
	gate[m] = 0
}

/* ---- the pager ---- */

inline read_fault(m, t)
{
	printf("fault of thread %d at place %d is read\n", t, fault_at[t]);
	fault[t] = READ;
	deferred[X(m, fault_at[t])] = 1
}

inline apply(m)
{
	if
	:: b_kind == REMOVE -> space_remove(b_a)
#if MM > 1 && P > 1
	:: b_kind == UNMAP && b_a == ALL ->
		space_unmap(m, 0);
		space_unmap(m, 1)
#if P > 2
		;
		space_unmap(m, 2)
#endif
#endif
	:: b_kind == UNMAP && b_a != ALL -> space_unmap(m, b_a)
#if P > 1
	:: b_kind == REMAP -> space_remap(m, b_a, b_to)
#endif
#if MM > 1
	:: b_kind == FORK -> space_fork()
#endif
	fi
}

/* The kernel hands out faults before events. Reading an event lets its thread go on. */
inline read_one(m)
{
	if
	:: m == 0 && fault[0] == WAITS -> read_fault(0, 0); more = 1
#if CLIENTS > 1
	:: m == 0 && fault[1] == WAITS -> read_fault(0, 1); more = 1
#endif
#if MM > 1
	:: m == 1 && fault[CHILD] == WAITS -> read_fault(1, CHILD); more = 1
#endif
	:: !HAS_FAULT(m) && len(events[m]) > 0 ->
		events[m]?b_kind, b_a, b_to, b_thread;
		printf("mm %d: %e of place %d is read\n", m, b_kind, b_a);
		released[b_thread] = 1;
		more = 1;
		b_thread = 0;
#if MM > 1
		if
		:: m == 1 && KEEPS_EARLY -> keep_early()
		:: else ->
#endif
			apply(m)
#if MM > 1
		fi
#endif
		;
		b_kind = 0; b_a = 0; b_to = 0
	:: else -> more = 0
	fi
}

/* Asks the kernel, with a COPY that can't be done: it looks at the fence, and only then, when it
 * has got hold of the address space, for the mapping, and at the fence again. So what was moved
 * away meanwhile is ENOENT, and the fence must be looked at once more. */
inline settle_one(m, a)
{
	if
	:: open[X(m, a)] && !failed && fence[m] == 0 ->
		d_step {
			absent = (vma[X(m, a)] != REGISTERED);
			failed = (!absent && fence[m] > 0) };
		d_step {
#ifndef NO_RULE6_ENOENT_FENCE
			failed = failed || fence[m] > 0;
#endif
			if
			:: !failed && absent -> settle_absent(m, a)
			:: !failed && !absent -> settle_present(m, a)
			:: else
			fi;
			absent = 0 }
	:: open[X(m, a)] && !failed && fence[m] > 0 -> failed = 1
	:: else
	fi
}

inline settle_doubt(m)
{
	if
	:: IN_DOUBT(m) && fence[m] == 0 ->
		settle_one(m, 0);
#if P > 1
		settle_one(m, 1);
#endif
#if P > 2
		settle_one(m, 2);
#endif
		d_step {
			if
			:: !failed -> forget(m)
			:: else -> failed = 0
			fi }
	:: else
	fi
}

/* COPY or ZEROPAGE of what was looked up. */
inline copy_page(m, a)
{
	if
	:: fence[m] > 0 -> /* EAGAIN: the fault stays deferred */
#ifdef NO_RULE3_LOOKUP_AGAIN
		kept[X(m, a)] = found + 1
#endif
	:: fence[m] == 0 ->
		printf("mm %d: place %d is answered with %d\n", m, a, found);
		deferred[X(m, a)] = 0;
#ifdef NO_RULE3_LOOKUP_AGAIN
		kept[X(m, a)] = 0;
#endif
		if
		:: vma[X(m, a)] != REGISTERED /* ENOENT */
		:: vma[X(m, a)] == REGISTERED ->
			pte[X(m, a)] = (pte[X(m, a)] == NIL -> found : pte[X(m, a)]);
			state[X(m, a)] = RESIDENT; bytes[X(m, a)] = 0;
			suspect[a] = (m == 0 -> 0 : suspect[a])
		fi;
#ifdef NO_RULE3_ENOENT_WAKE
		if
		:: vma[X(m, a)] == REGISTERED -> wake(m, a)
		:: else
		fi
#else
		wake(m, a)
#endif
	fi;
	found = 0
}

inline answer(m, a)
{
	if
	:: deferred[X(m, a)] && !IN_DOUBT(m) && !HAS_LOST(m) ->
		found = (OUT(X(m, a)) -> bytes[X(m, a)] : 0);
#ifdef NO_RULE3_LOOKUP_AGAIN
		found = (kept[X(m, a)] > 0 -> kept[X(m, a)] - 1 : found);
#endif
#ifdef NO_RULE3_GATE
		unlock(m);
#endif
#ifdef NO_RULE3_READ_ON_EAGAIN
		fence[m] == 0; /* tries again and again */
#endif
		d_step { copy_page(m, a) };
#ifdef NO_RULE3_GATE
		lock(m)
#endif
	:: else
	fi
}

inline drain(m)
{
	do
	:: atomic { read_one(m) };
		settle_doubt(m);
		answer(m, 0);
#if P > 1
		answer(m, 1);
#endif
#if P > 2
		answer(m, 2);
#endif
		if
		:: more -> more = 0
		:: else -> break
		fi
	od;
	if
#ifdef NO_RULE5_UNTIL_FENCE
	:: atomic { m == 0 && !IN_DOUBT(m) -> d_step { forget(m) } }
#endif
	:: atomic { UNSETTLED(m) && !IN_DOUBT(m) && fence[m] == 0 -> d_step { forget(m) } }
	:: else
	fi
}

#if MM > 1
/* A child that isn't born may still have to read what its own thread waits for. */
inline drain_child()
{
	if
	:: child_is == TOLD -> bear()
	:: else
	fi;
	if
	:: CHILD_SERVED -> drain(1)
	:: else
	fi
}
#endif

active [READERS] proctype Reader()
{
	bit more, failed, absent;
	byte found;

end:	do
	:: atomic { WORK(0) && gate[0] == 0 -> gate[0] = 1 } drain(0); unlock(0)
#if MM > 1
	:: atomic { CHILD_WORK && gate[1] == 0 -> gate[1] = 1 } drain_child(); unlock(1)
#endif
	od
}

/* ---- agent ---- */

#define MOVE 1
#define ZAP 2
byte order; /* 0: answered */
byte order_at;
bit moved;
byte slot;

inline move_page(a)
{
	if
#ifdef NO_RULE1_FENCE
	:: vma[a] != NONE && pte[a] != NIL && !cow[a] &&
#else
	:: fence[0] == 0 && vma[a] != NONE && pte[a] != NIL && !cow[a] &&
#endif
		staging_registered && staging == NIL ->
		printf("place %d is moved out: %d\n", a, pte[a]);
		staging = pte[a]; pte[a] = NIL; lazy[a] = 0; took = 1
	:: else
	fi
}

active proctype Agent()
{
	bit took;

end:	do
	:: order == MOVE ->
#ifdef NO_RULE1_MOVE
		d_step {
			if
			:: fence[0] == 0 && pte[order_at] != NIL && !cow[order_at] ->
				slot = pte[order_at]; took = 1
			:: else
			fi };
		d_step {
			if
			:: took -> staging = slot; pte[order_at] = NIL
			:: else
			fi };
#else
		d_step { move_page(order_at) };
		if
		:: took -> slot = (staging == NIL -> 0 : staging)
		:: else
		fi;
#endif
		d_step { moved = took; took = 0; order = 0 }
	:: d_step { order == ZAP -> staging = NIL; order = 0 }
	od
}

/* ---- evictor ---- */

#define MOVABLE(a) (state[a] == RESIDENT && region[a])

/* What stays RESIDENT must be there; what is there and not suspect is RESIDENT (rule 4). */
inline adopt_page(a)
{
	if
	:: !region[a] || OUT(a)
	:: region[a] && !OUT(a) && suspect[a] -> suspect[a] = (pte[a] != NIL)
	:: region[a] && !OUT(a) && !suspect[a] ->
		state[a] = (pte[a] != NIL -> RESIDENT : ABSENT)
	fi
}

/* Registers what the program mapped, and puts it on record if the fence is down before and
 * after. With the fence seen down, no fork is older than what is aside. */
inline adopt_mapping(a)
{
	lock(0);
	drain(0);
	do
	:: vma[a] == NONE || region[a] -> break
	:: vma[a] != NONE && !region[a] ->
		if
		:: fence[0] == 0 && !IN_DOUBT(0) ->
#ifndef NO_RULE5_REGISTERED
			d_step { forget(0) };
#endif
			d_step {
				vma[a] = (vma[a] == PLAIN -> REGISTERED : vma[a]);
				printf("place %d is registered\n", a) };
			atomic {
				if
#ifdef NO_RULE6_REGISTER_SETTLED
				:: true -> region[a] = 1; break
#else
				:: fence[0] == 0 -> settle_page(0, a); break
#endif
				:: else
				fi };
			drain(0)
		:: else -> break /* the next look will */
		fi
	od;
	unlock(0)
}

inline examine(a)
{
	/* Every thread is seen outside of the calls that discard, after a look at the clock. */
	seen = remove_seq;
	quiet = (inside == 0);
	lock(0);
	drain(0);
	d_step {
		if
#ifdef NO_RULE4_QUIET_CLOCK
		:: quiet -> suspect[a] = 0
#else
		:: quiet && remove_seq == seen -> suspect[a] = 0
#endif
#ifdef NO_RULE4_FENCE_IS_ENOUGH
		:: fence[0] == 0 -> suspect[a] = 0
#endif
		:: else
		fi;
		quiet = 0; seen = 0 };
	d_step { adopt_page(a) };
	go = MOVABLE(a);
	unlock(0)
}

inline revoke(a)
{
#ifndef NO_RULE2_REVOKE
	staging_registered = 0;
#endif
#ifdef NO_RULE2_REVOKE_LOOK
	got = 0
#else
	d_step { got = (staging != NIL);
		if
		:: got -> slot = staging
		:: else
		fi }
#endif
}

/* Gate held. */
inline move_run(a)
{
	drain(0);
	if
#ifdef NO_RULE2_CHOSEN_ANEW
	:: !IN_DOUBT(0) ->
#else
	:: !IN_DOUBT(0) && MOVABLE(a) ->
#endif
		d_step { order_at = a; order = MOVE };
#ifdef NO_RULE2_GATE
		unlock(0);
#endif
		if
		:: d_step { order == 0 -> got = moved; moved = 0 }
#ifdef LATE
		:: revoke(a)
#endif
		fi;
#ifdef NO_RULE2_GATE
		lock(0);
#endif
		d_step {
			if
			:: got -> printf("place %d is HELD: %d\n", a, slot);
				state[a] = HELD; bytes[a] = slot; suspect[a] = 0
			:: else
			fi }
	:: else
	fi
}

inline publish_page(x)
{
	state[x] = (state[x] == HELD -> STORED : state[x])
}

#if MM > 1
inline publish_aside()
{
	b_i = 0;
	do
	:: b_i < asides ->
		if
		:: aside_state[b_i] == HELD && store_full ->
			aside_state[b_i] = ABSENT; aside_bytes[b_i] = 0
		:: aside_state[b_i] == HELD && !store_full -> aside_state[b_i] = STORED
		:: else
		fi;
		b_i++
	:: else -> break
	od;
	b_i = 0
}
#endif

/* HELD pages go back: the store is full. */
inline give_back_page(m, a)
{
	if
	:: state[X(m, a)] == HELD && fence[m] == 0 ->
		if
		:: vma[X(m, a)] == REGISTERED ->
			pte[X(m, a)] = (pte[X(m, a)] == NIL -> bytes[X(m, a)] : pte[X(m, a)]);
			state[X(m, a)] = RESIDENT; bytes[X(m, a)] = 0; wake(m, a)
		:: else -> state[X(m, a)] = ABSENT; bytes[X(m, a)] = 0
		fi
	:: else
	fi
}

#if P > 2
#define ANY_HELD(m) \
	(state[X(m, 0)] == HELD || state[X(m, 1)] == HELD || state[X(m, 2)] == HELD)
#elif P > 1
#define ANY_HELD(m) (state[X(m, 0)] == HELD || state[X(m, 1)] == HELD)
#else
#define ANY_HELD(m) (state[X(m, 0)] == HELD)
#endif

inline publish(m)
{
	lock(m);
	d_step {
		if
		:: !store_full ->
			publish_page(X(m, 0));
#if P > 1
			publish_page(X(m, 1));
#endif
#if P > 2
			publish_page(X(m, 2))
#endif
		:: else
		fi;
#ifdef NO_RULE6_STAYS
		was_state[0] = (was_state[0] == HELD && store_full -> ABSENT : was_state[0]);
		was_state[1] = (was_state[1] == HELD && store_full -> ABSENT : was_state[1]);
#endif
#if MM > 1
		if
		:: m == 0 -> publish_aside()
		:: else
		fi
#endif
	};
#ifdef FULL
	do
	:: ANY_HELD(m) ->
		unlock(m);
		if
		:: m == 0 -> fence[m] == 0 || READABLE(m); lock(m); drain(m)
#if MM > 1
		:: m == 1 -> CHILD_WORK || child_is == BORN && fence[m] == 0;
			lock(m); drain_child()
#endif
		fi;
		if
		:: m == 0 || CHILD_SERVED ->
			d_step { give_back_page(m, 0) };
#if P > 1
			d_step { give_back_page(m, 1) };
#endif
#if P > 2
			d_step { give_back_page(m, 2) }
#endif
		:: else
		fi
	:: else -> break
	od;
#endif
	unlock(m)
}

inline evict(a)
{
	examine(a);
	if
	:: go ->
		go = 0;
#ifndef NO_RULE2_ANSWERED_FIRST
		order == 0;
#endif
		staging_registered = 1;
		lock(0);
		move_run(a);
		unlock(0);
		staging_registered = 0;
#ifdef FULL
		store_full = 1;
#endif
		publish(0);
#if MM > 1
		if
		:: forked -> publish(1)
		:: else
		fi;
#endif
		store_full = 0;
#ifndef NO_RULE2_ANSWERED_FIRST
		order == 0;
#endif
		order = ZAP;
		order == 0;
		got = 0; moved = 0
	:: else
	fi
}

#if ROUNDS > 0
active proctype Evictor()
{
	bit more, failed, absent, quiet, go, got, store_full;
	byte found, seen, rounds;

	do
	:: rounds < ROUNDS -> rounds++;
		if
		:: evict(0)
#if P > 1
		:: evict(1)
#endif
#if P > 2
		:: evict(2)
#endif
#ifdef ADOPT
		:: adopt_mapping(0)
#if P > 1
		:: adopt_mapping(1)
#endif
#if P > 2
		:: adopt_mapping(2)
#endif
#endif
		fi
	:: break
	od
}
#endif
