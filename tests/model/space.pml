/* svc/space.c, space_event.c, settle.c: the service's picture of the two address spaces. Each
 * inline here is service memory under the gate, so one step. */

#define ABSENT 0
#define RESIDENT 1
#define HELD 2
#define STORED 3
#define OUT(x) (state[x] >= HELD)
byte state[MM * P];
byte bytes[MM * P]; /* of a page that is out: in the link when HELD, in the store when STORED */
bit suspect[MM * P];
bit region[MM * P];
byte remove_seq;

/* Rule 5's memory: UNMAPs and REMAPs that were read since the fence was last seen down, in their
 * order, and what they dropped; the newest last. With a fork, all of it becomes the child's. */
#if MM > 1
byte step_from[STEPS], step_to[STEPS]; /* to: NIL of an UNMAP */
byte steps;
bit region0[P]; /* what was registered when they began */
byte aside_at[ASIDE], aside_state[ASIDE], aside_bytes[ASIDE];
byte aside_step[ASIDE]; /* which dropped it */
byte asides;

#define NO_CHILD 0
#define UNBORN 1 /* its FORK was read */
#define TOLD 2	 /* and its parent's fence was seen down: all steps are known */
#define BORN 3
byte child_is;
byte steps_before; /* so many were read before its FORK */
#endif

/* What was read since the fence was last seen down (rule 6). */
bit unmapped[MM * P], target[MM * P], open[MM * P];
bit removed[P]; /* discarded while it was registered and not yet on record */
#if P > 1
bit late[P], met[P]; /* the same since the fence was down; and then something was moved there */
#endif
#ifdef NO_RULE6_STAYS
byte was_state[MM * P], was_bytes[MM * P]; /* before an UNMAP that is in doubt */
#endif
#if P > 2
#define ANY(what, m) (what[X(m, 0)] || what[X(m, 1)] || what[X(m, 2)])
#elif P > 1
#define ANY(what, m) (what[X(m, 0)] || what[X(m, 1)])
#else
#define ANY(what, m) (what[X(m, 0)])
#endif
#if P > 2
#define IS_LATE(m) (m == 0 && (met[0] || met[1] || met[2]))
#elif P > 1
#define IS_LATE(m) (m == 0 && (met[0] || met[1]))
#else
#define IS_LATE(m) false
#endif
#define IN_DOUBT(m) (ANY(open, m) || IS_LATE(m))
#if MM > 1
#define UNSETTLED(m) \
	(ANY(unmapped, m) || ANY(target, m) || \
		(m == 0 && ((child_is == NO_CHILD && steps > 0) || child_is == UNBORN)))
#else
#define UNSETTLED(m) (ANY(unmapped, m) || ANY(target, m))
#endif

#if MM > 1
inline forget_steps()
{
	do
	:: asides > 0 ->
		asides--;
		aside_at[asides] = 0; aside_state[asides] = 0; aside_bytes[asides] = 0;
		aside_step[asides] = 0
	:: else -> break
	od;
	do
	:: steps > 0 -> steps--; step_from[steps] = 0; step_to[steps] = 0
	:: else -> break
	od;
	steps_before = 0;
	region0[0] = 0;
#if P > 1
	region0[1] = 0;
#endif
#if P > 2
	region0[2] = 0
#endif
}

inline note_begin()
{
	if
	:: steps == 0 ->
		region0[0] = region[0];
#if P > 1
		region0[1] = region[1];
#endif
#if P > 2
		region0[2] = region[2]
#endif
	:: else
	fi
}

/* Of a fork's child the list goes on to grow until the fence is seen down. */
#ifdef NO_RULE5_STEPS_AFTER
#define NOTES(m) (m == 0 && child_is == NO_CHILD)
#else
#define NOTES(m) (m == 0 && child_is <= UNBORN)
#endif

inline note_step(m, a, to)
{
	if
	:: NOTES(m) ->
		assert(steps < STEPS);
		note_begin();
		step_from[steps] = a; step_to[steps] = to;
		steps++
	:: else
	fi
}
#else
#define note_step(m, a, to) skip
#endif

inline forget_place(x)
{
#ifdef NO_RULE6_STAYS
	was_state[x] = 0; was_bytes[x] = 0;
#endif
	unmapped[x] = 0; target[x] = 0; open[x] = 0
}

#if P > 1
/* Nothing left the place: there was nothing else to discard. */
inline settle_late(a)
{
	if
	:: met[a] && region[a] ->
		printf("place %d had been discarded\n", a);
		suspect[a] = (OUT(a) -> suspect[a] : 1);
		state[a] = ABSENT; bytes[a] = 0
	:: else
	fi;
	late[a] = 0; met[a] = 0
}
#endif

/* The fence was seen down, and nothing is in doubt. */
inline forget(m)
{
#if MM > 1
	if
	:: m == 0 && child_is == NO_CHILD -> forget_steps()
	:: m == 0 && child_is == UNBORN -> child_is = TOLD; printf("all steps are known\n")
	:: else
	fi;
#endif
	forget_place(X(m, 0));
#if P > 1
	forget_place(X(m, 1));
	if
	:: m == 0 ->
		settle_late(0);
		settle_late(1)
#if P > 2
		;
		settle_late(2)
#endif
	:: else
	fi;
#endif
#if P > 2
	forget_place(X(m, 2))
#endif
}

/* By the last step. */
inline keep_aside(a)
{
	assert(asides < ASIDE);
	aside_at[asides] = a; aside_state[asides] = state[a]; aside_bytes[asides] = bytes[a];
	aside_step[asides] = steps - 1;
	asides++
}

inline drop_page(m, a, keep)
{
#if MM > 1 && !defined(NO_RULE5_ASIDE)
	if
	:: keep && OUT(a) && m == 0 && child_is == NO_CHILD -> keep_aside(a)
	:: else
	fi;
#endif
	state[X(m, a)] = ABSENT; bytes[X(m, a)] = 0; suspect[X(m, a)] = 0
}

inline space_remove(a)
{
	remove_seq++;
	if
	:: region[a] ->
#ifdef NO_RULE5_REMOVED_STAY
		note_step(0, a, NIL);
		if
		:: OUT(a) && child_is == NO_CHILD -> keep_aside(a)
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
	fi;
#if P > 1 && !defined(NO_RULE4_LATE)
#ifdef NO_RULE4_LATE_LEFT
	late[a] = late[a] || !region[a]
#else
	late[a] = late[a] || (!region[a] && !unmapped[a])
#endif
#endif
}

#if P > 1
inline late_no_more(m, a)
{
	late[a] = late[a] && m != 0;
	met[a] = met[a] && m != 0
}
#endif

/* An UNMAP of what a REMAP was read for, fence up since: which came last, only the kernel knows,
 * and until it is asked (settle_page) the record stays as it is, and later events change it. */
inline space_unmap(m, a)
{
	note_step(m, a, NIL);
#if P > 1
	late_no_more(m, a);
#endif
	unmapped[X(m, a)] = 1;
#ifndef NO_RULE6_DOUBT
	open[X(m, a)] = open[X(m, a)] || target[X(m, a)];
#endif
	if
#ifndef NO_RULE6_STAYS
	:: open[X(m, a)]
#endif
	:: else ->
#ifdef NO_RULE6_STAYS
		was_state[X(m, a)] = (open[X(m, a)] -> state[X(m, a)] : was_state[X(m, a)]);
		was_bytes[X(m, a)] = (open[X(m, a)] -> bytes[X(m, a)] : was_bytes[X(m, a)]);
#endif
		drop_page(m, a, true); region[X(m, a)] = 0
	fi
}

#if P > 1
/* The moved page's steps tell where it was. */
inline space_remap(m, a, to)
{
	note_step(m, a, to);
	late_no_more(m, a);
	met[to] = met[to] || (m == 0 && late[to]);
	b_state = state[X(m, a)]; b_bytes = bytes[X(m, a)]; b_suspect = suspect[X(m, a)];
	drop_page(m, a, false);
	drop_page(m, to, true);
	state[X(m, to)] = b_state; bytes[X(m, to)] = b_bytes; suspect[X(m, to)] = b_suspect;
	b_state = 0; b_bytes = 0; b_suspect = 0;
	target[X(m, to)] = 1;
#ifndef NO_RULE6_DOUBT
	open[X(m, to)] = open[X(m, to)] || unmapped[X(m, to)];
#endif
	region[X(m, to)] = region[X(m, to)] || region[X(m, a)]
}
#endif

#ifdef NO_RULE6_STAYS
inline take_back(m, a)
{
	if
	:: was_state[X(m, a)] >= HELD && state[X(m, a)] == ABSENT ->
		state[X(m, a)] = was_state[X(m, a)];
		bytes[X(m, a)] = was_bytes[X(m, a)]
	:: else -> suspect[X(m, a)] = suspect[X(m, a)] || was_state[X(m, a)] == RESIDENT
	fi
}
#endif

/* By the kernel's word, fence down. */
inline settle_present(m, a)
{
	printf("mm %d: place %d is settled: registered\n", m, a);
#ifdef NO_RULE6_STAYS
	take_back(m, a);
#endif
	if
	:: m == 0 ->
		suspect[a] = suspect[a] || (removed[a] && state[a] == ABSENT);
		removed[a] = 0
	:: else
	fi;
	region[X(m, a)] = 1
}

inline settle_absent(m, a)
{
	printf("mm %d: place %d is settled: not registered\n", m, a);
	drop_page(m, a, false);
	if
	:: m == 0 -> removed[a] = 0
	:: else
	fi;
	region[X(m, a)] = 0
}

inline settle_page(m, a)
{
	if
	:: vma[X(m, a)] == REGISTERED -> settle_present(m, a)
	:: else -> settle_absent(m, a)
	fi
}
