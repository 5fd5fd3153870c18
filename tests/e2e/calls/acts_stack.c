/* Memory that becomes a stack (DESIGN rule 11): once it is seen to be one, it isn't taken. */
#include "calls.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

static ucontext_t from, coroutine;
static struct test *the_test;

/* On the other stack: an order to evict is a read(2), in which the stack pointer shows. */
static void on_own_stack(void)
{
	volatile char deep[3 * PAGE];

	deep[0] = deep[sizeof(deep) - 1] = 1;
	evict_again(the_test);
	absent(the_test, the_test->base, PAGES);
	evict_again(the_test);
	absent(the_test, the_test->base, PAGES);
}

/* Where a stack was, contents are its own affair. */
static void drop_pages_of_stack(struct test *t)
{
	if (mmap(t->base, PAGES * PAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		abort();
}

static void switch_stacks(struct test *t)
{
	the_test = t;
	getcontext(&coroutine);
	coroutine.uc_stack.ss_sp = t->base + 40 * PAGE;
	coroutine.uc_stack.ss_size = 100 * PAGE;
	coroutine.uc_link = &from;
	makecontext(&coroutine, on_own_stack, 0);
	swapcontext(&from, &coroutine);
}

static void coroutine_stack(struct test *t)
{
	switch_stacks(t);
	for (size_t i = 40; i < 140; i++)
		write_page(t, t->base + i * PAGE, (uint32_t)i);
}

/* While it sleeps on the other, a stack is memory like any other. */
static void sleeping_body(void)
{
	volatile unsigned local[64];

	for (unsigned i = 0; i < 64; i++)
		local[i] = i * 77;
	swapcontext(&coroutine, &from);
	for (unsigned i = 0; i < 64; i++)
		if (local[i] != i * 77)
			say(the_test, "WRONG: local %u", i);
}

static void coroutine_sleeps(struct test *t)
{
	the_test = t;
	getcontext(&coroutine);
	coroutine.uc_stack.ss_sp = t->base + 40 * PAGE;
	coroutine.uc_stack.ss_size = 100 * PAGE;
	coroutine.uc_link = &from;
	makecontext(&coroutine, sleeping_body, 0);
	swapcontext(&from, &coroutine);
	evict_again(t);
	if (managed() && t->who == WHO_SELF && wrongly_here(t) > 2)
		say(t, "WRONG: a stack that nobody is on stays");
	swapcontext(&from, &coroutine);
	for (size_t i = 40; i < 140; i++)
		write_page(t, t->base + i * PAGE, (uint32_t)i);
}

/* ---- threads ---- */

static int waiting[2], going[2];

static void *thread_body(void *arg)
{
	char byte = 1;

	if (write(waiting[1], &byte, 1) != 1 || read(going[0], &byte, 1) != 1)
		abort();
	return arg;
}

/* The kernel clears a word of the control block when the thread ends, and faults nobody. */
static void thread_stack(struct test *t)
{
	pthread_attr_t attributes;
	pthread_t thread;
	char byte;

	if (pipe(waiting) < 0 || pipe(going) < 0)
		abort();
	pthread_attr_init(&attributes);
	pthread_attr_setstack(&attributes, t->base + 40 * PAGE, 100 * PAGE);
	if (pthread_create(&thread, &attributes, thread_body, NULL) != 0 ||
		read(waiting[0], &byte, 1) != 1)
		abort();
	evict_again(t);
	absent(t, t->base, PAGES);
	evict_again(t);
	absent(t, t->base, PAGES);
	if (write(going[1], &byte, 1) != 1)
		abort();
	pthread_join(thread, NULL);
	pthread_attr_destroy(&attributes);
	for (int i = 0; i < 2; i++) {
		close(waiting[i]);
		close(going[i]);
	}
	for (size_t i = 40; i < 140; i++)
		write_page(t, t->base + i * PAGE, (uint32_t)i);
}

/* It never sleeps: only its control block shows where its stack is. */
static volatile int turning;

static void *turning_body(void *arg)
{
	turning = 1;
	while (turning == 1)
		;
	return arg;
}

static void running_thread(struct test *t)
{
	pthread_attr_t attributes;
	pthread_t thread;

	turning = 0;
	pthread_attr_init(&attributes);
	pthread_attr_setstack(&attributes, t->base + 40 * PAGE, 100 * PAGE);
	if (pthread_create(&thread, &attributes, turning_body, NULL) != 0)
		abort();
	while (turning == 0)
		;
	evict_again(t);
	absent(t, t->base, PAGES);
	turning = 2;
	pthread_join(thread, NULL);
	pthread_attr_destroy(&attributes);
	for (size_t i = 40; i < 140; i++)
		write_page(t, t->base + i * PAGE, (uint32_t)i);
}

static void pool_of_threads(struct test *t)
{
	for (int i = 0; i < 3; i++)
		thread_stack(t);
}

static void stack_and_gone(struct test *t)
{
	switch_stacks(t);
	drop_pages_of_stack(t);
}

/* ---- signals ---- */

static volatile sig_atomic_t signals;

static void on_signal(int number)
{
	(void)number;
	signals++;
}

/* On a stack of their own, which is out when one comes. */
static void signal_stack(struct test *t)
{
	const stack_t own = {.ss_sp = t->base + 40 * PAGE, .ss_size = 100 * PAGE};
	const stack_t none = {.ss_flags = SS_DISABLE};
	struct sigaction act = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK}, before;

	signals = 0;
	sigaltstack(&own, NULL);
	sigaction(SIGUSR1, &act, &before);
	raise(SIGUSR1);
	evict_again(t);
	raise(SIGUSR1);
	say(t, "%d signals", (int)signals);
	sigaction(SIGUSR1, &before, NULL);
	sigaltstack(&none, NULL);
	for (size_t i = 40; i < 140; i++)
		write_page(t, t->base + i * PAGE, (uint32_t)i);
}

static const struct act acts[] = {
	{"stack-coroutine", "makecontext: the stack that runs", NULL, coroutine_stack, NULL, 0,
		0, 0},
	{"stack-sleeping", "makecontext: a stack that sleeps", NULL, coroutine_sleeps, NULL, 0,
		0, 0},
	{"stack-replaced", "makecontext, and mapped over", NULL, stack_and_gone, NULL, 0, 0, 0},
	{"stack-thread", "pthread_attr_setstack", NULL, thread_stack, NULL, 0, 0, 0},
	{"stack-running", "pthread_attr_setstack: a thread that never sleeps", NULL,
		running_thread, NULL, 0, 0, 0},
	{"stack-threads", "one thread after the other", NULL, pool_of_threads, NULL, 0, 0, 0},
	{"stack-signal", "sigaltstack", NULL, signal_stack, NULL, 0, 0, 0},
};

struct acts acts_stack(void)
{
	return (struct acts){acts, sizeof(acts) / sizeof(acts[0])};
}
