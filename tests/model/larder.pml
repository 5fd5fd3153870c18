/* One client of the service, with as many threads, places and calls as tests/model/run says:
 *
 *   CLIENTS, OPS0, CALLS0, OPS1, CALLS1   threads; which calls each may make, and how many
 *   OPSC, CALLSC                          the same of the forked child
 *   P, MM                                 places (1 to 3); address spaces (2: with a fork)
 *   READERS, ROUNDS                       readers; turns of the evictor
 *   LATE, FULL, ADOPT                     late agent; full store; new mappings are registered
 *   ALL_OUT, EMPTY, FREE_TARGET           where it begins: pages are out; or were never touched;
 *                                         only place 0 is mapped
 *   ASIDE, STEPS, EARLY                   bounds of what the service remembers: never reached
 *
 * NO_... takes out one rule, or a part of it (README.md). */
#define LOAD 1
#define STORE 2
#define DONTNEED 4
#define FREE 8
#define FORKS 16
#define MUNMAP 32
#define MMAP 64
#define MREMAP 128
#define DONTUNMAP 256

#ifndef OPS1
#define CLIENTS 1
#define OPS1 0
#define CALLS1 0
#else
#define CLIENTS 2
#endif

#include "kernel.pml"
#include "space.pml"
#include "service.pml"

inline call(t, ops, a, to)
{
	if
	:: (ops & LOAD) -> touch(0, t, a, false)
	:: (ops & STORE) -> touch(0, t, a, true)
	:: (ops & DONTNEED) -> sys_discard(t, a, false)
#if (OPS0 | OPS1) & FREE
	:: (ops & FREE) -> sys_discard(t, a, true)
#endif
#if MM > 1
	:: (ops & FORKS) -> sys_fork(t)
#endif
	:: (ops & MUNMAP) -> sys_munmap(t, a)
	:: (ops & MMAP) -> sys_mmap(t, a)
#if P > 1
	:: (ops & MREMAP) -> sys_mremap(t, a, to, false)
#if (OPS0 | OPS1) & DONTUNMAP
	:: (ops & DONTUNMAP) -> sys_mremap(t, a, to, true)
#endif
#endif
	:: skip
	fi
}

proctype Client(byte t; short ops; byte calls)
{
	bit needs, covers, acts;

	do
	:: calls > 0 -> calls--;
		if
		:: call(t, ops, 0, 1)
#if P > 1
		:: call(t, ops, 1, 0)
#endif
#if P > 2
		:: call(t, ops, 0, 2)
		:: call(t, ops, 1, 2)
		:: call(t, ops, 2, 0)
		:: call(t, ops, 2, 1)
#endif
		fi
	:: calls == 0 -> break
	od
}

#if MM > 1
#ifdef OPSC
inline child_call(ops, a, to)
{
	if
	:: (ops & LOAD) -> touch(1, CHILD, a, false)
	:: (ops & MUNMAP) -> child_munmap(a)
#if P > 1
	:: (ops & MUNMAP) && a == 0 -> child_munmap_all()
	:: (ops & MREMAP) -> child_mremap(a, to, false)
#if OPSC & DONTUNMAP
	:: (ops & DONTUNMAP) -> child_mremap(a, to, true)
#endif
#endif
	:: skip
	fi
}
#endif

proctype Child()
{
#ifdef OPSC
	bit needs, covers;
	byte calls = CALLSC;
#endif

end:	child_runs;
#ifdef OPSC
	do
	:: calls > 0 -> calls--;
		if
		:: child_call(OPSC, 0, 1)
#if P > 1
		:: child_call(OPSC, 1, 0)
#endif
#if P > 2
		:: child_call(OPSC, 0, 2)
		:: child_call(OPSC, 1, 2)
		:: child_call(OPSC, 2, 0)
		:: child_call(OPSC, 2, 1)
#endif
		fi
	:: calls == 0 -> break
	od;
#endif
	touch(1, CHILD, 0, false);
#if P > 1
	touch(1, CHILD, 1, false);
#endif
#if P > 2
	touch(1, CHILD, 2, false)
#endif
}
#endif

inline begin_registered(a, value)
{
	vma[a] = REGISTERED; region[a] = 1; ghost[a] = value
}

inline begin_unmapped(x)
{
	vma[x] = NONE; pte[x] = NIL; ghost[x] = NIL
}

inline begin(a, value)
{
	if
#ifdef FREE_TARGET
	:: a > 0 -> begin_unmapped(a)
	:: a == 0 ->
#elif defined(GAP)
	:: a == 1 -> begin_unmapped(a)
	:: a != 1 ->
#else
	:: true ->
#endif
		printf("place %d is out\n", a);
		begin_registered(a, value); pte[a] = NIL; state[a] = STORED; bytes[a] = value
#ifdef EMPTY
	:: printf("place %d is empty\n", a);
		begin_registered(a, 0); pte[a] = NIL
#endif
#if !defined(ALL_OUT) && !defined(GAP)
	:: printf("place %d is in\n", a);
		begin_registered(a, value); pte[a] = value; state[a] = RESIDENT
#ifdef ADOPT
	:: printf("place %d is not managed\n", a);
		vma[a] = PLAIN; pte[a] = value; ghost[a] = value
#endif
	:: a > 0 -> begin_unmapped(a)
#endif
	fi
}

init
{
	atomic {
		fault_at[0] = NIL;
#if CLIENTS > 1
		fault_at[1] = NIL;
#endif
		fault_at[CHILD] = NIL;
		begin(0, 1);
#if P > 1
		begin(1, 2);
#endif
#if P > 2
		begin(2, 3);
#endif
		last = P;
#if MM > 1
		begin_unmapped(X(1, 0));
#if P > 1
		begin_unmapped(X(1, 1));
#endif
#if P > 2
		begin_unmapped(X(1, 2));
#endif
		run Child();
#endif
		run Client(0, OPS0, CALLS0);
#if CLIENTS > 1
		run Client(1, OPS1, CALLS1);
#endif
	}
#if (OPS0 | OPS1) & FREE
	do
	:: lazy[0] -> reclaim(0)
	:: timeout -> break
	od
#endif
}
