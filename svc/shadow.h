/* For the hunt for faults in recovery (recover.h), where -DLARDER_SHADOW=ON: what each client
 * has on record is copied, whenever its gate is let go of, to where the next worker finds it.
 * That compares it with what it tells from rows and journal, and logs each difference that
 * could cost a byte, with the journal. Else nothing. */
#ifndef LARDER_SHADOW_H
#define LARDER_SHADOW_H

struct client;

#ifdef LARDER_SHADOW
void shadow_begin(void);		     /* the keeper's, before any worker */
void shadow_keep(const struct client *c);    /* gate held */
void shadow_compare(const struct client *c); /* told, and compared with what it has */
#else
static inline void shadow_begin(void)
{
}
static inline void shadow_keep(const struct client *c)
{
	(void)c;
}
static inline void shadow_compare(const struct client *c)
{
	(void)c;
}
#endif

#endif
