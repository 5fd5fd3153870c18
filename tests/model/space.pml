/* svc/space.c, space_event.c, settle.c: the service's picture of the two address spaces. Each
 * inline here is service memory under the gate, so one step. */

#define ABSENT 0
#define RESIDENT 1
#define HELD 2
#define STORED 3
#define OUT(x) (state[x] >= HELD)
byte state[MM * P];
byte bytes[MM * P]; /* of a page that is out: in the link when HELD, in the store when STORED */
bit suspect[P];
bit region[P];
byte remove_seq;

/* Rule 5's memory; the newest last. */
byte aside_at[ASIDE], aside_state[ASIDE], aside_bytes[ASIDE];
bit aside_doubtful[ASIDE];
byte asides;

/* What was read since the fence was last seen down (rule 6). */
bit unmapped[P], target[P], open[P];
bit removed[P]; /* discarded while it was registered and not yet on record */
#if P > 1
#define IN_DOUBT (open[0] || open[1])
#define UNSETTLED (asides > 0 || unmapped[0] || unmapped[1] || target[0] || target[1])
#else
#define IN_DOUBT (open[0])
#define UNSETTLED (asides > 0 || unmapped[0])
#endif

inline forget_aside()
{
	do
	:: asides > 0 ->
		asides--;
		aside_at[asides] = 0; aside_state[asides] = 0; aside_bytes[asides] = 0;
		aside_doubtful[asides] = 0
	:: else -> break
	od;
	unmapped[0] = 0; target[0] = 0; open[0] = 0;
#if P > 1
	unmapped[1] = 0; target[1] = 0; open[1] = 0
#endif
}

inline keep_aside(a, doubtful)
{
	assert(asides < ASIDE);
	aside_at[asides] = a; aside_state[asides] = state[a]; aside_bytes[asides] = bytes[a];
	aside_doubtful[asides] = doubtful;
	asides++
}

inline drop_page(a, doubtful)
{
	if
#ifdef NO_RULE5_ASIDE
	:: OUT(a) && doubtful -> keep_aside(a, doubtful)
#else
	:: OUT(a) -> keep_aside(a, doubtful)
#endif
	:: else
	fi;
	state[a] = ABSENT; bytes[a] = 0; suspect[a] = 0
}

inline space_remove(a)
{
	remove_seq++;
	if
	:: region[a] ->
#ifdef NO_RULE5_REMOVED_STAY
		if
		:: OUT(a) -> keep_aside(a, 0)
		:: else
		fi;
#endif
#ifndef NO_RULE4_SUSPECT
		suspect[a] = (OUT(a) -> suspect[a] : 1);
#endif
		state[a] = ABSENT; bytes[a] = 0
#ifdef NO_RULE4_OFF_RECORD
	:: else
#else
	:: else -> removed[a] = 1
#endif
	fi
}

/* An UNMAP of what a REMAP was read for, fence up since: which came last, only the kernel knows,
 * and until it is asked (settle_page) the record stays as it is, and later events change it. */
inline space_unmap(a)
{
	unmapped[a] = 1;
#ifndef NO_RULE6_DOUBT
	open[a] = open[a] || target[a];
#endif
	if
#ifndef NO_RULE6_STAYS
	:: open[a]
#endif
	:: else -> drop_page(a, open[a]); region[a] = 0
	fi
}

#if P > 1
inline space_remap(a, to)
{
	b_state = state[a]; b_bytes = bytes[a]; b_suspect = suspect[a];
	drop_page(a, 0);
	drop_page(to, 0);
	state[to] = b_state; bytes[to] = b_bytes; suspect[to] = b_suspect;
	b_state = 0; b_bytes = 0; b_suspect = 0;
	target[to] = 1;
#ifndef NO_RULE6_DOUBT
	open[to] = open[to] || unmapped[to];
#endif
	region[to] = region[to] || region[a]
}
#endif

#ifdef NO_RULE6_STAYS
inline take_back(a)
{
	b_i = asides;
	do
	:: b_i > 0 ->
		b_i--;
		if
		:: aside_doubtful[b_i] && aside_at[b_i] == a && state[a] == ABSENT ->
			if
			:: aside_state[b_i] >= HELD ->
				state[a] = aside_state[b_i];
				bytes[a] = aside_bytes[b_i]
			:: else -> suspect[a] = 1
			fi
		:: else
		fi
	:: else -> break
	od;
	b_i = 0
}
#endif

/* By the kernel's word, fence down. */
inline settle_present(a)
{
	printf("place %d is settled: registered\n", a);
#ifdef NO_RULE6_STAYS
	take_back(a);
#endif
	suspect[a] = suspect[a] || (removed[a] && state[a] == ABSENT);
	removed[a] = 0;
	region[a] = 1
}

inline settle_absent(a)
{
	printf("place %d is settled: not registered\n", a);
	drop_page(a, 0);
	removed[a] = 0;
	region[a] = 0
}

inline settle_page(a)
{
	if
	:: vma[a] == REGISTERED -> settle_present(a)
	:: else -> settle_absent(a)
	fi
}

#if MM > 1
#ifdef NO_RULE5_REMOVED_STAY
#define FORK_TAKES(a) true
#else
#define FORK_TAKES(a) (!region[a]) /* else it is of a newer mapping */
#endif

inline fork_page(a)
{
	state[X(1, a)] = state[a];
	bytes[X(1, a)] = bytes[a]
}

/* Put there at once, or forgotten: where there is no registered mapping, nothing may stay on
 * record. */
inline settle_fork_page(a)
{
	if
	:: !OUT(X(1, a))
	:: OUT(X(1, a)) && vma[X(1, a)] != REGISTERED -> state[X(1, a)] = ABSENT
	:: OUT(X(1, a)) && vma[X(1, a)] == REGISTERED ->
		pte[X(1, a)] = (pte[X(1, a)] == NIL -> bytes[X(1, a)] : pte[X(1, a)]);
		state[X(1, a)] = RESIDENT
	fi;
	bytes[X(1, a)] = (OUT(X(1, a)) -> bytes[X(1, a)] : 0)
}

inline fork_aside()
{
	b_i = 0;
	do
	:: b_i < asides ->
		b_a = aside_at[b_i];
		if
		:: aside_state[b_i] >= HELD && state[X(1, b_a)] == ABSENT && FORK_TAKES(b_a) ->
			state[X(1, b_a)] = aside_state[b_i];
			bytes[X(1, b_a)] = aside_bytes[b_i];
			settle_fork_page(b_a)
		:: else
		fi;
		b_i++
	:: else -> break
	od;
	b_i = 0; b_a = 0
}

inline space_fork()
{
	fork_page(0);
#if P > 1
	fork_page(1);
#endif
	fork_aside()
}
#endif
