/* The kernel's part, and what memory without the service would have shown.
 *
 *   mm 0: the program        mm 1: its forked child
 *   place: where one page can be mapped. X(m, a) is place a of mm m.
 *
 * Each step between two semicolons is one that no other process can see the middle of. What the
 * kernel does under mmap_lock is one step; raising an event and the wait for it are others, so
 * that events can be raised in another order than their operations happened in. */

#define NIL 15 /* no page */
#define ALL 14 /* instead of a place: each */
#define X(m, a) ((m) * P + (a))

/* ---- mappings and pages ---- */

#define NONE 0
#define PLAIN 1	     /* mapped, not registered */
#define REGISTERED 2 /* with the uffd of its mm */
byte vma[MM * P];
byte pte[MM * P]; /* value of the page */
bit cow[P];	  /* shared with the child: MOVE refuses it */
bit lazy[P];	  /* MADV_FREE: may be reclaimed until it is written to */

byte staging = NIL;
bit staging_registered;

/* ---- the ghost: what the program must see ----
 *
 * ghost is the value that memory without the service has. A discard and another thread's access
 * that overlap it have no order of their own, so 0 is allowed as well while a discard is under
 * way (discards), and afterwards where the page was written meanwhile (or_zero), until somebody
 * has looked. STRICT takes all that away. */
byte ghost[MM * P];
bit or_zero[MM * P];
byte discards[P]; /* under way */
bit written[P];	  /* while one was */
byte last;	  /* value written last; each is written once */

/* ---- userfaultfd ---- */

mtype = {REMOVE, UNMAP, REMAP, FORK};
#define THREADS (CLIENTS + 1) /* the last one is the child's */
#define CHILD CLIENTS
#if MM > 1
#define MM_OF(t) ((t) == CHILD -> 1 : 0)
#else
#define MM_OF(t) 0
#endif
chan events[MM] = [CLIENTS] of {mtype, byte, byte, byte}; /* kind, place, to, thread */
byte fence[MM];	   /* mmap_changing */
bit released[THREADS]; /* its event was read; the fence falls when it runs */
#define WAITS 1 /* not read */
#define READ 2
byte fault[THREADS], fault_at[THREADS];

bit forked;  /* the page tables were copied */
bit forking; /* and fork() hasn't returned */
bit child_runs;
#if MM > 1
bit hopeless; /* the service can't tell where the child has what, and serves it no more */
#define HAS_LOST(m) (m == 1 && hopeless)
#else
#define HAS_LOST(m) false
#endif
byte inside; /* threads inside madvise, as /proc/PID/task/TID/syscall shows */

inline wake(m, a)
{
	fault[0] = ((m == 0 && fault_at[0] == a) -> 0 : fault[0]);
#if CLIENTS > 1
	fault[1] = ((m == 0 && fault_at[1] == a) -> 0 : fault[1]);
#endif
	fault[CHILD] = ((m == 1 && fault_at[CHILD] == a) -> 0 : fault[CHILD])
}

#if CLIENTS > 1
#define HAS_FAULT(m) \
	(m == 0 -> fault[0] == WAITS || fault[1] == WAITS : fault[CHILD] == WAITS)
#else
#define HAS_FAULT(m) (m == 0 -> fault[0] == WAITS : fault[CHILD] == WAITS)
#endif

/* A program that overlaps calls which change its address space can't tell their order. */
inline see(m, a)
{
	printf("mm %d: place %d reads %d, should be %d\n", m, a, pte[X(m, a)], ghost[X(m, a)]);
	if
	:: pte[X(m, a)] == ghost[X(m, a)] ->
		/* A page that was freed can still be dropped later. */
		or_zero[X(m, a)] = or_zero[X(m, a)] && m == 0 && lazy[a]
	:: else ->
#ifdef STRICT
		assert(false);
#endif
		assert(pte[X(m, a)] == 0 && (or_zero[X(m, a)] || (m == 0 && discards[a] > 0)));
		if
		:: m == 0 && discards[a] > 0
		:: else -> ghost[X(m, a)] = 0; or_zero[X(m, a)] = 0
		fi
	fi
}

inline store(m, a)
{
	last++;
	printf("mm %d: place %d is written: %d\n", m, a, last);
	pte[X(m, a)] = last;
	ghost[X(m, a)] = last;
	or_zero[X(m, a)] = 0;
	if
	:: m == 0 -> cow[a] = 0; lazy[a] = 0; written[a] = (discards[a] > 0)
	:: else
	fi
}

/* One load or store. A page that isn't there faults; without a mapping it is the program's
 * fault, and nothing is checked. */
inline touch(m, t, a, is_store)
{
	do
	:: d_step { pte[X(m, a)] != NIL ->
		if
		:: is_store -> store(m, a)
		:: else -> see(m, a)
		fi } break
	:: d_step { vma[X(m, a)] == PLAIN && pte[X(m, a)] == NIL -> pte[X(m, a)] = 0 }
	:: atomic { vma[X(m, a)] == REGISTERED && pte[X(m, a)] == NIL ->
		fault[t] = WAITS; fault_at[t] = a;
		fault[t] == 0 || HAS_LOST(m); fault[t] = 0; fault_at[t] = NIL }
	:: HAS_LOST(m) -> break
	:: vma[X(m, a)] == NONE -> break
	od
}

/* The calling thread's event: it goes on when the event was read, and only then does the fence
 * fall. */
inline raise(t, kind, a, to)
{
	atomic { events[MM_OF(t)]!kind, a, to, t;
		printf("thread %d raises %e of place %d\n", t, kind, a) };
	d_step { released[t] -> released[t] = 0; fence[MM_OF(t)]--;
		printf("thread %d goes on\n", t) }
}

inline drop_mapping(a)
{
	vma[a] = NONE; pte[a] = NIL; ghost[a] = NIL; or_zero[a] = 0;
	cow[a] = 0; lazy[a] = 0
}

/* ---- what programs do ---- */

/* REMOVE comes before the zap, and the fence is down when the zap begins. Where nothing is
 * registered, all of it is one step. */
inline sys_discard(t, a, is_free)
{
	d_step {
		if
		:: vma[a] == NONE
		:: else ->
			printf("thread %d: madvise of place %d\n", t, a);
			inside++;
			discards[a]++;
#if MM > 1
			or_zero[X(1, a)] = or_zero[X(1, a)] || (forking && ghost[X(1, a)] != 0);
#endif
			needs = (vma[a] == REGISTERED);
			fence[0] = fence[0] + needs;
			if
			:: needs
			:: else -> madvise_acts(a, is_free)
			fi
		fi };
	if
	:: needs -> needs = 0; raise(t, REMOVE, a, 0); d_step { madvise_acts(a, is_free) }
	:: else
	fi
}

inline madvise_acts(a, is_free)
{
	if
	:: is_free -> free_page(a)
	:: else -> zap_page(a)
	fi;
	discards[a]--;
	written[a] = written[a] && discards[a] > 0;
	inside--
}

/* The mapping is looked up again: it may be another one by now. */
inline zap_page(a)
{
	if
	:: vma[a] == NONE
	:: else ->
		printf("zap of place %d: value %d\n", a, pte[a]);
		pte[a] = NIL; cow[a] = 0; lazy[a] = 0;
#ifdef STRICT
		written[a] = 0;
#endif
		or_zero[a] = written[a] && ghost[a] != 0;
		ghost[a] = (written[a] -> ghost[a] : 0)
	fi
}

inline free_page(a)
{
	if
	:: vma[a] == NONE
	:: else ->
		lazy[a] = (pte[a] != NIL && pte[a] != 0);
		or_zero[a] = (ghost[a] != 0)
	fi
}

/* Reclaim after MADV_FREE: no event. */
inline reclaim(a)
{
	d_step {
		if
		:: lazy[a] && pte[a] != NIL -> pte[a] = NIL; lazy[a] = 0
		:: else
		fi }
}

#if MM > 1
inline copy_page_table(a)
{
	vma[X(1, a)] = vma[a];
	pte[X(1, a)] = pte[a];
	ghost[X(1, a)] = ghost[a];
	or_zero[X(1, a)] = or_zero[a] || (discards[a] > 0 && ghost[a] != 0);
	cow[a] = (pte[a] != NIL)
}

/* Page tables are copied, and the fence is up, before the event is raised. */
inline sys_fork(t)
{
	d_step {
		if
		:: forked
		:: else ->
			printf("thread %d: fork copies the page tables\n", t);
			forked = 1; forking = 1; acts = 1;
			fence[0]++;
			copy_page_table(0);
#if P > 1
			copy_page_table(1);
#endif
#if P > 2
			copy_page_table(2)
#endif
		fi };
	if
	:: acts -> acts = 0; raise(t, FORK, 0, 0); d_step { forking = 0; child_runs = 1 }
	:: else
	fi
}
#endif

inline sys_munmap(t, a)
{
	d_step {
		if
		:: vma[a] == NONE
		:: else ->
			printf("thread %d: munmap of place %d\n", t, a);
			needs = (vma[a] == REGISTERED);
			fence[0] = fence[0] + needs;
			drop_mapping(a)
		fi };
	if
	:: needs -> needs = 0; raise(t, UNMAP, a, 0)
	:: else
	fi
}

inline sys_mmap(t, a)
{
	d_step {
		if
		:: vma[a] == NONE ->
			printf("thread %d: mmap of place %d\n", t, a);
			vma[a] = PLAIN; ghost[a] = 0
		:: else
		fi }
}

#if P > 1
/* mremap, onto whatever is there. keep: MREMAP_DONTUNMAP. UNMAP of the target, REMAP, UNMAP of
 * the source, each after the operation and each waited for. */
inline sys_mremap(t, a, to, keep)
{
	d_step {
		if
		:: vma[a] == NONE
		:: else ->
			printf("thread %d: mremap of place %d to %d\n", t, a, to);
			covers = (vma[to] == REGISTERED);
			needs = (vma[a] == REGISTERED);
			fence[0] = fence[0] + covers + (needs -> (keep -> 1 : 2) : 0);
			vma[to] = vma[a]; pte[to] = pte[a]; ghost[to] = ghost[a];
			or_zero[to] = or_zero[a] || (discards[a] > 0 && ghost[a] != 0);
			cow[to] = cow[a]; lazy[to] = lazy[a];
			written[to] = (discards[to] > 0);
			drop_mapping(a);
			vma[a] = (keep -> vma[to] : NONE);
			ghost[a] = (keep -> 0 : NIL)
		fi };
	if
	:: covers -> covers = 0; raise(t, UNMAP, to, 0)
	:: else
	fi;
	if
	:: needs -> needs = 0; raise(t, REMAP, a, to);
		if
		:: keep
		:: else -> raise(t, UNMAP, a, 0)
		fi
	:: else
	fi
}
#endif

/* ---- what the child does: it has one thread, and neither discards nor forks ---- */

#if MM > 1
inline child_drops(a)
{
	needs = needs || vma[X(1, a)] == REGISTERED;
	vma[X(1, a)] = NONE; pte[X(1, a)] = NIL;
	ghost[X(1, a)] = NIL; or_zero[X(1, a)] = 0
}

inline child_munmap(a)
{
	d_step {
		printf("child: munmap of place %d\n", a);
		child_drops(a);
		fence[1] = fence[1] + needs };
	if
	:: needs -> needs = 0; raise(CHILD, UNMAP, a, 0)
	:: else
	fi
}

#if P > 1
/* One call over all places: what it tells of them is less. */
inline child_munmap_all()
{
	d_step {
		printf("child: munmap of all places\n");
		child_drops(0);
		child_drops(1);
#if P > 2
		child_drops(2);
#endif
		fence[1] = fence[1] + needs };
	if
	:: needs -> needs = 0; raise(CHILD, UNMAP, ALL, 0)
	:: else
	fi
}

inline child_mremap(a, to, keep)
{
	d_step {
		if
		:: vma[X(1, a)] == NONE
		:: else ->
			printf("child: mremap of place %d to %d\n", a, to);
			covers = (vma[X(1, to)] == REGISTERED);
			needs = (vma[X(1, a)] == REGISTERED);
			fence[1] = fence[1] + covers + (needs -> (keep -> 1 : 2) : 0);
			vma[X(1, to)] = vma[X(1, a)]; pte[X(1, to)] = pte[X(1, a)];
			ghost[X(1, to)] = ghost[X(1, a)]; or_zero[X(1, to)] = or_zero[X(1, a)];
			vma[X(1, a)] = (keep -> vma[X(1, a)] : NONE);
			pte[X(1, a)] = NIL;
			ghost[X(1, a)] = (keep -> 0 : NIL); or_zero[X(1, a)] = 0
		fi };
	if
	:: covers -> covers = 0; raise(CHILD, UNMAP, to, 0)
	:: else
	fi;
	if
	:: needs -> needs = 0; raise(CHILD, REMAP, a, to);
		if
		:: keep
		:: else -> raise(CHILD, UNMAP, a, 0)
		fi
	:: else
	fi
}
#endif
#endif
