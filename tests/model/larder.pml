/* One client of the service, with as many threads, places and calls as tests/model/run says:
 *
 *   CLIENTS, OPS0, CALLS0, OPS1, CALLS1   threads; which calls each may make, and how many
 *   P, MM                                 places (1, 2); address spaces (2: with a fork)
 *   READERS, ROUNDS                       readers; turns of the evictor
 *   LATE, FULL, ADOPT                     late agent; full store; new mappings are registered
 *   ALL_OUT, FREE_TARGET                  where it begins: pages are out; place 1 is not mapped
 *   FORK_FIRST, FORK_LAST                 the page tables are copied before, or after, an mremap
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
#ifdef FORK_LAST
	:: (ops & FORKS) && vma[0] == NONE -> sys_fork(t)
#else
	:: (ops & FORKS) -> sys_fork(t)
#endif
#endif
	:: (ops & MUNMAP) -> sys_munmap(t, a)
	:: (ops & MMAP) -> sys_mmap(t, a)
#if P > 1
#ifdef FORK_FIRST
	:: (ops & MREMAP) && forked -> sys_mremap(t, a, to, false)
#else
	:: (ops & MREMAP) -> sys_mremap(t, a, to, false)
#endif
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
		fi
	:: calls == 0 -> break
	od
}

#if MM > 1
proctype Child()
{
end:	child_runs;
	touch(1, CHILD, 0, false);
#if P > 1
	touch(1, CHILD, 1, false)
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
#if defined(FREE_TARGET) && P > 1
	:: a == 1 -> begin_unmapped(a)
	:: a == 0 ->
#else
	:: true ->
#endif
		printf("place %d is out\n", a);
		begin_registered(a, value); pte[a] = NIL; state[a] = STORED; bytes[a] = value
#ifndef ALL_OUT
	:: printf("place %d is in\n", a);
		begin_registered(a, value); pte[a] = value; state[a] = RESIDENT
#ifdef ADOPT
	:: printf("place %d is not managed\n", a);
		vma[a] = PLAIN; pte[a] = value; ghost[a] = value
#endif
#if P > 1
	:: a == 1 -> begin_unmapped(a)
#endif
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
		last = P;
#if MM > 1
		begin_unmapped(X(1, 0));
#if P > 1
		begin_unmapped(X(1, 1));
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
