/* System calls without libc: no errno, no TLS, no cancellation. They return what the kernel
 * returns, negative errno included. */
#ifndef LARDER_RAWCALL_H
#define LARDER_RAWCALL_H

#include <stdint.h>

#if defined(__x86_64__)
static inline long rawcall(long nr, long a, long b, long c, long d, long e, long f)
{
	long r;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	__asm__ volatile("syscall"
			 : "=a"(r)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return r;
}

static inline void rawcopy(void *to, const void *from, unsigned long n)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static inline void rawpause(void)
{
	__asm__ volatile("pause");
}
#elif defined(__aarch64__)
static inline long rawcall(long nr, long a, long b, long c, long d, long e, long f)
{
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;
	__asm__ volatile("svc 0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
			 : "memory");
	return x0;
}

static inline void rawcopy(void *to, const void *from, unsigned long n)
{
	volatile uint64_t *t = to;
	const volatile uint64_t *s = from;
	for (unsigned long i = 0; i < n / sizeof(*t); i++)
		t[i] = s[i];
}

static inline void rawpause(void)
{
	__asm__ volatile("yield");
}
#else
#error "no raw system calls for this architecture"
#endif

#define RAWCALL(nr, a, b, c, d, e, f)                                                          \
	rawcall((nr), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

#endif
