/* svc/birth.c, space_birth.c: a forked child between its FORK and the moment when it is known
 * where it has what. The page tables were copied somewhere among the steps; its registrations,
 * copied with them, tell where. All in one step but for reading: with its fence down, the
 * answers for all places are of one moment. */

#define NO 0
#define YES 1
#define UNSURE 2 /* unmapped by the child itself, if it was there */
#define GONE NIL
#define PLACES 8

bit hopeless; /* it can't be told: nothing of the child is answered any more */

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
byte h_answer[P];	      /* by place */
byte h_place[PLACES];	      /* where one page may be, from the earliest on */
byte h_stays[PLACES];	      /* the step from there left it registered */
byte h_came[PLACES];	      /* by which step, counted from 1 */
byte h_places;
byte h_back[STEPS + 1], h_by[STEPS + 1]; /* backwards, and by which step */
byte h_backs;
byte h_state[P], h_bytes[P], h_since[P]; /* the new record */
byte h_i, h_k, h_a, h_at;
byte h_lost, h_bit;

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
	steps_before = steps;
#ifdef NO_RULE5_BIRTH_FENCE
	child_is = TOLD
#else
	child_is = UNBORN
#endif
}

/* ---- what the kernel says ---- */

/* What the first of the child's own calls tells counts, for it changed the answer. */
inline ask(a)
{
	h_answer[a] = (vma[X(1, a)] == REGISTERED -> YES : NO);
#ifndef NO_RULE5_EARLY_TELLS
	h_i = earlies;
	do
	:: h_i > 0 ->
		h_i--;
		if
		:: early_kind[h_i] == REMAP && early_at[h_i] == a -> h_answer[a] = YES
		:: early_kind[h_i] == REMAP && early_to[h_i] == a -> h_answer[a] = UNSURE
		:: early_kind[h_i] == UNMAP && (early_at[h_i] == a || early_at[h_i] == ALL) ->
			h_answer[a] = UNSURE
		:: else
		fi
	:: else -> break
	od;
#endif
	printf("child: place %d was registered: %d\n", a, h_answer[a])
}

/* ---- places ---- */

/* No UNMAP of the source follows: DONTUNMAP. */
inline see_whether_stays(i)
{
#ifdef NO_RULE5_STAYS
	h_bit = 0;
#else
	h_bit = 1;
	h_k = i + 1;
	do
	:: h_k < steps ->
		h_bit = h_bit && !(step_to[h_k] == NIL && step_from[h_k] == step_from[i]);
		h_k++
	:: else -> break
	od
#endif
}

/* To and fro: of a plain move only one of the two is registered. */
inline add_place(a, by)
{
	h_k = 0;
	do
	:: h_k < h_places && h_place[h_k] != a -> h_k++
	:: h_k < h_places && h_place[h_k] == a ->
		h_lost = h_lost || h_stays[h_k] || h_stays[h_places - 1];
		break
	:: h_k == h_places ->
		assert(h_places < PLACES);
		h_place[h_places] = a; h_stays[h_places] = 0; h_came[h_places] = by;
		h_places++;
		break
	od
}

/* Backwards through the REMAPs among the first n steps that brought it to a. */
inline places_before(a, n)
{
	h_back[0] = a; h_backs = 1;
	h_i = n;
	do
	:: h_i > 0 ->
		h_i--;
		if
		:: step_to[h_i] != NIL && step_to[h_i] == h_back[h_backs - 1] ->
			h_by[h_backs] = h_i;
			h_back[h_backs] = step_from[h_i];
			h_backs++
		:: else
		fi
	:: else -> break
	od;
	h_places = 0;
	h_backs--;
	add_place(h_back[h_backs], 0);
	do
	:: h_backs > 0 ->
		see_whether_stays(h_by[h_backs]);
		h_stays[h_places - 1] = h_bit;
		add_place(h_back[h_backs - 1], h_by[h_backs] + 1);
		h_backs--
	:: else -> break
	od
}

/* On through the others, until it is dropped. */
inline places_after(a)
{
	h_at = a;
	h_i = steps_before;
	do
	:: h_i < steps ->
		if
		:: step_from[h_i] == h_at && step_to[h_i] == NIL -> break
		:: step_from[h_i] == h_at && step_to[h_i] != NIL ->
			h_at = step_to[h_i];
			see_whether_stays(h_i);
			h_stays[h_places - 1] = h_bit;
			add_place(h_at, h_i + 1)
		:: step_from[h_i] != h_at && step_to[h_i] == h_at -> break
		:: else
		fi;
		h_i++
	:: else -> break
	od
}

/* h_k: which of the places, h_places when none is. */
inline choose()
{
	h_k = 0;
#if defined(NO_RULE5_ASKED) /* as if nothing had come before the copy */
#elif defined(NO_RULE5_ASKED_LAST) /* as if all had */
	h_k = h_places - 1;
#elif defined(NO_RULE5_EARLIEST)
	h_i = h_places;
	h_k = h_places;
	do
	:: h_i > 0 ->
		h_i--;
		h_k = (h_k == h_places && h_answer[h_place[h_i]] != NO -> h_i : h_k)
	:: else -> break
	od;
#else
	h_i = h_places; /* the first one that isn't sure */
	do
	:: h_k < h_places && h_answer[h_place[h_k]] != YES ->
		h_i = (h_i == h_places && h_answer[h_place[h_k]] == UNSURE -> h_k : h_i);
		h_k++
	:: else -> break
	od;
	h_k = (h_k == h_places -> h_i : h_k);
	do
	:: h_k + 1 < h_places && h_stays[h_k] && h_answer[h_place[h_k + 1]] == YES -> h_k++
	:: else -> break
	od
#endif
}

/* ---- birth ---- */

/* What came later counts. */
inline put(a, a_state, a_bytes, since)
{
	if
	:: h_state[a] == ABSENT || h_since[a] < since ->
		printf("child: place %d has %d\n", a, a_bytes);
		h_state[a] = a_state; h_bytes[a] = a_bytes; h_since[a] = since
	:: else
	fi
}

inline bear_page(a)
{
	if
	:: OUT(X(1, a)) ->
		places_before(a, steps_before);
		places_after(a);
		choose();
		if
		:: h_k < h_places ->
			put(h_place[h_k], state[X(1, a)], bytes[X(1, a)], h_came[h_k])
		:: else
		fi;
		state[X(1, a)] = ABSENT; bytes[X(1, a)] = 0
	:: else
	fi
}

inline bear_aside(i)
{
	if
	:: aside_state[i] >= HELD ->
		places_before(aside_at[i], aside_step[i]);
		choose();
		if
		:: h_k < h_places ->
			put(h_place[h_k], aside_state[i], aside_bytes[i], h_came[h_k])
		:: else
		fi
	:: else
	fi
}

inline clear_scratch()
{
	h_i = 0;
	do
	:: h_i < PLACES -> h_place[h_i] = 0; h_stays[h_i] = 0; h_came[h_i] = 0; h_i++
	:: else -> break
	od;
	h_i = 0;
	do
	:: h_i <= STEPS -> h_back[h_i] = 0; h_by[h_i] = 0; h_i++
	:: else -> break
	od;
	h_i = 0; h_k = 0; h_a = 0; h_at = 0; h_bit = 0; h_lost = 0; h_places = 0; h_backs = 0
}

inline set_place(a)
{
	if
	:: h_state[a] != ABSENT -> state[X(1, a)] = h_state[a]; bytes[X(1, a)] = h_bytes[a]
	:: else
	fi;
	region[X(1, a)] = (h_answer[a] != NO);
	h_state[a] = ABSENT; h_bytes[a] = 0; h_since[a] = 0; h_answer[a] = 0
}

inline find_places()
{
	h_a = 0;
	do
	:: h_a < P -> ask(h_a); h_a++
	:: else -> break
	od;
	h_a = 0;
	do
	:: h_a < P -> bear_page(h_a); h_a++
	:: else -> break
	od;
	do
	:: asides > 0 -> bear_aside(asides - 1); asides--;
		aside_at[asides] = 0; aside_state[asides] = 0; aside_bytes[asides] = 0;
		aside_step[asides] = 0
	:: else -> break
	od;
	h_a = 0;
	do
	:: h_a < P -> set_place(h_a); h_a++
	:: else -> break
	od;
	forget_steps();
	hopeless = h_lost;
	clear_scratch()
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
