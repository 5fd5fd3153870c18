/* svc/birth.c, space_birth.c: a forked child between its FORK and the moment when it is known
 * where it has what. The page tables were copied somewhere among the steps; its registrations,
 * copied with them, tell where. All in one step but for reading: with its fence down, the
 * answers for all places are of one moment. */

#define NO 0
#define YES 1
#define UNSURE 2 /* unmapped by the child itself, if it was there */
#define EMPTY_ONE (P + 1) /* of the mappings: what DONTUNMAP leaves */

/* What the child did before it was born. */
mtype early_kind[EARLY];
byte early_at[EARLY], early_to[EARLY];
byte earlies;

#ifdef NO_RULE5_UNBORN
#define KEEPS_EARLY false
#define CHILD_SERVED true
#else
#define KEEPS_EARLY (child_is < BORN)
#define CHILD_SERVED (child_is == BORN)
#endif
#ifdef NO_RULE5_UNBORN
#define CHILD_WORK (WORK(1) || (child_is == TOLD && !hopeless && fence[1] == 0))
#else
#define CHILD_WORK \
	((child_is == BORN && WORK(1)) || \
		(child_is == TOLD && !hopeless && (READABLE(1) || fence[1] == 0)))
#endif

/* Scratch of one step. */
byte h_answer[P];      /* by place */
byte h_who[P];	       /* which mapping lies there: 0 none, else its number */
byte h_state[P + 2], h_bytes[P + 2]; /* by mapping: its page, when that is out */
byte h_found[P];       /* by place: the value to be answered + 1; 0: nothing there */
bit h_drops[P];	       /* by place: the child's first call unmapped it */
bit h_done[STEPS];     /* by step */
byte h_i, h_j, h_k, h_a, h_at, h_next;
bit h_match, h_any, h_unlike, h_split;

inline space_fork_page(a)
{
	state[X(1, a)] = state[a];
	bytes[X(1, a)] = bytes[a];
	region[X(1, a)] = region[a]
}

inline space_fork()
{
	space_fork_page(0);
#if P > 1
	space_fork_page(1);
#endif
#if P > 2
	space_fork_page(2);
#endif
	note_begin();
	steps_before = steps;
#ifdef NO_RULE5_BIRTH_FENCE
	child_is = TOLD
#else
	child_is = UNBORN
#endif
}

/* ---- what the kernel says ---- */

/* What the first of the child's own calls tells counts, for it changed the answer. A REMAP came
 * to what was free, unless the event that says who freed it is among the later ones. What an
 * UNMAP drops before anything else was done with it doesn't matter. */
inline ask(a)
{
	h_answer[a] = (vma[X(1, a)] == REGISTERED -> YES : NO);
#ifndef NO_RULE5_EARLY_TELLS
	h_any = 0;
	h_i = earlies;
	do
	:: h_i > 0 ->
		h_i--;
		if
		:: early_kind[h_i] == REMAP && early_to[h_i] == a ->
			h_answer[a] = (h_any -> UNSURE : NO); h_drops[a] = 0
		:: early_kind[h_i] == REMAP && early_at[h_i] == a ->
			h_answer[a] = YES; h_drops[a] = 0; h_any = 1
		:: early_kind[h_i] == UNMAP && (early_at[h_i] == a || early_at[h_i] == ALL) ->
			h_answer[a] = (early_at[h_i] == a -> YES : UNSURE);
			h_drops[a] = 1; h_any = 1
		:: else
		fi
	:: else -> break
	od;
	h_any = 0;
#endif
	printf("child: place %d was registered: %d\n", a, h_answer[a])
}

/* ---- what explains the answers ----
 *
 * The steps are gone through again, from what was registered when they began. Wherever that is
 * what the child has, its page tables may have been copied. */

/* h_j: the first step from place a behind step i; or to it. */
inline find_step_from(i, a, only_unmap)
{
	h_j = i + 1;
	do
	:: h_j < steps && (h_done[h_j] || step_from[h_j] != a ||
		   (only_unmap && step_to[h_j] != NIL)) -> h_j++
	:: else -> break
	od
}

inline find_step_to(i, a)
{
	h_j = i + 1;
	do
	:: h_j < steps && (h_done[h_j] || step_to[h_j] != a) -> h_j++
	:: else -> break
	od
}

/* The next step, h_next, in the order of operations. What a REMAP came to was free by then, and
 * what went away was there, though the event that tells of it was read later. */
inline choose_step()
{
	do
	:: h_i < steps && h_done[h_i] -> h_i++
	:: else -> break
	od;
	h_next = h_i;
#ifndef NO_RULE5_ORDER
	if
	:: h_i < steps && h_who[step_from[h_i]] == 0 ->
		find_step_to(h_i, step_from[h_i]);
		h_next = (h_j < steps -> h_j : h_i)
	:: h_i < steps && h_who[step_from[h_i]] != 0 && step_to[h_i] != NIL &&
		h_who[step_to[h_i]] != 0 ->
		find_step_from(h_i, step_to[h_i], false);
		h_next = (h_j < steps -> h_j : h_i)
	:: else
	fi
#endif
}

/* A REMAP takes the UNMAP of its source along. Or the two are calls of their own, the first one
 * with DONTUNMAP (h_split): nothing tells. So both have to say the same; unless it is known that
 * there is no DONTUNMAP (MOVES_ONLY). */
inline take_step()
{
	h_done[h_next] = 1;
	h_a = step_from[h_next];
	if
	:: step_to[h_next] == NIL -> h_who[h_a] = 0
	:: else ->
		h_who[step_to[h_next]] = (h_who[h_a] == 0 -> EMPTY_ONE : h_who[h_a]);
		find_step_from(h_next, h_a, true);
#ifdef MOVES_ONLY
		h_who[h_a] = 0;
#else
		h_who[h_a] = (h_j < steps && !h_split -> 0 : EMPTY_ONE);
#endif
		if
		:: h_j < steps && !h_split -> h_done[h_j] = 1
		:: else
		fi
	fi
}

#define HAS_PAGE(a) (!h_drops[a] && h_answer[a] != UNSURE && h_state[h_who[a]] != ABSENT)

/* Where mappings are registered meanwhile: one that wasn't on record may be by now. */
#ifdef ADOPT
#define OFF_RECORD(a) (!region0[a] && h_who[a] == 0)
#else
#define OFF_RECORD(a) false
#endif

/* What is unsure has been dropped since. */
inline compare()
{
	h_match = 1;
	h_a = 0;
	do
	:: h_a < P ->
		h_match = h_match && (h_answer[h_a] == UNSURE || OFF_RECORD(h_a) ||
			(h_who[h_a] != 0) == (h_answer[h_a] == YES));
		h_a++
	:: else -> break
	od;
#ifdef NO_RULE5_ASKED
	h_match = !h_any;
#endif
#ifdef NO_RULE5_ASKED_LAST
	h_match = 1; h_any = 0;
#endif
	h_a = 0;
	do
	:: h_a < P && h_match ->
		h_unlike = h_unlike ||
			(h_any && h_found[h_a] != (HAS_PAGE(h_a) -> h_who[h_a] : 0));
		h_found[h_a] = (HAS_PAGE(h_a) -> h_who[h_a] : 0);
		h_a++
	:: else -> break
	od;
	h_any = h_any || h_match
}

inline explain()
{
	h_a = 0;
	do
	:: h_a < P -> h_who[h_a] = (region0[h_a] -> h_a + 1 : 0); h_a++
	:: else -> break
	od;
	compare();
	h_i = 0;
	do
	:: choose_step();
		if
		:: h_i < steps -> take_step(); compare()
		:: else -> break
		fi
	od;
	h_i = 0;
	do
	:: h_i < STEPS -> h_done[h_i] = 0; h_i++
	:: else -> break
	od
}

/* ---- birth ---- */

/* Where the page was when the steps began, that is at place a after n of them. */
inline find_origin(a, n)
{
	h_at = a;
	h_i = n;
	do
	:: h_i > 0 ->
		h_i--;
		h_at = (step_to[h_i] == h_at -> step_from[h_i] : h_at)
	:: else -> break
	od
}

inline collect()
{
	h_k = 0;
	do
	:: h_k < P ->
		if
		:: OUT(X(1, h_k)) ->
			find_origin(h_k, steps_before);
			assert(h_state[h_at + 1] == ABSENT);
			h_state[h_at + 1] = state[X(1, h_k)];
			h_bytes[h_at + 1] = bytes[X(1, h_k)];
			state[X(1, h_k)] = ABSENT; bytes[X(1, h_k)] = 0
		:: else
		fi;
		h_k++
	:: else -> break
	od;
	do
	:: asides > 0 ->
		asides--;
		find_origin(aside_at[asides], aside_step[asides]);
		assert(h_state[h_at + 1] == ABSENT);
		h_state[h_at + 1] = aside_state[asides];
		h_bytes[h_at + 1] = aside_bytes[asides];
		aside_at[asides] = 0; aside_state[asides] = 0; aside_bytes[asides] = 0;
		aside_step[asides] = 0
	:: else -> break
	od
}

inline set_place(a)
{
	printf("child: place %d has page %d\n", a, h_bytes[h_found[a]]);
	if
	:: h_found[a] != 0 ->
		state[X(1, a)] = h_state[h_found[a]];
		bytes[X(1, a)] = h_bytes[h_found[a]]
	:: else
	fi;
	region[X(1, a)] = (h_answer[a] != NO);
	h_found[a] = 0; h_drops[a] = 0; h_answer[a] = 0; h_who[a] = 0
}

inline find_places()
{
	h_k = 0;
	do
	:: h_k < P -> ask(h_k); h_k++
	:: else -> break
	od;
	collect();
	explain();
#ifndef MOVES_ONLY
	h_split = 1;
	explain();
#endif
	hopeless = !h_any || h_unlike;
#ifndef MAY_BE_HOPELESS
	assert(!hopeless);
#endif
	h_k = 0;
	do
	:: h_k < P -> set_place(h_k); h_k++
	:: else -> break
	od;
	h_k = 0;
	do
	:: h_k <= P -> h_state[h_k] = 0; h_bytes[h_k] = 0; h_k++
	:: else -> break
	od;
	forget_steps();
	h_i = 0; h_j = 0; h_k = 0; h_a = 0; h_at = 0; h_next = 0;
	h_match = 0; h_any = 0; h_unlike = 0; h_split = 0
}

inline keep_early()
{
	assert(earlies < EARLY);
	early_kind[earlies] = b_kind; early_at[earlies] = b_a; early_to[earlies] = b_to;
	earlies++
}

inline apply_early()
{
	h_i = 0; /* apply doesn't use it */
	do
	:: h_i < earlies ->
		b_kind = early_kind[h_i]; b_a = early_at[h_i]; b_to = early_to[h_i];
		apply(1);
		early_kind[h_i] = 0; early_at[h_i] = 0; early_to[h_i] = 0;
		h_i++
	:: else -> break
	od;
	earlies = 0; h_i = 0;
	b_kind = 0; b_a = 0; b_to = 0
}

/* The child's gate is held. A call of its own that is in flight keeps its fence up, and has to be
 * read before anything can be asked. */
inline bear()
{
	do
	:: atomic { fence[1] == 0 ->
		d_step {
			printf("child is born\n");
#ifdef NO_RULE5_EARLY_AFTER
			apply_early();
#endif
			find_places();
			child_is = BORN;
#ifndef NO_RULE5_EARLY_AFTER
			apply_early()
#endif
		};
		break }
	:: atomic { fence[1] > 0 && READABLE(1) -> read_one(1) }; more = 0
	:: atomic { fence[1] > 0 && !READABLE(1) -> break }
	od
}
