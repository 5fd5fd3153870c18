#include "trouble.h"
#include "attach.h"
#include "log.h"
#include "readers.h"
#include "worker.h"

static const struct {
	const char *name, *what;
} texts[] = {
#define X(id, name, what) {name, what},
	TROUBLES(X)
#undef X
};

void trouble_set(struct worker *w, enum trouble t, bool on)
{
	uint64_t none = 0;

	if (on) {
		if (atomic_compare_exchange_strong(
			    &w->troubles.since_ms[t], &none, worker_now_ms()))
			log_warn("trouble: %s: %s", texts[t].name, texts[t].what);
	} else if (atomic_exchange(&w->troubles.since_ms[t], 0) != 0) {
		log_info("trouble: %s: over", texts[t].name);
	}
}

void trouble_ages(struct worker *w, uint64_t ret_ms[TROUBLE_COUNT])
{
	uint64_t now = worker_now_ms();

	for (unsigned t = 0; t < TROUBLE_COUNT; t++) {
		uint64_t since = atomic_load(&w->troubles.since_ms[t]);
		ret_ms[t] = since == 0 ? 0 : now > since ? now - since : 1;
	}
}

void trouble_look(struct worker *w)
{
	if (atomic_load(&w->troubles.since_ms[TROUBLE_STORE]) != 0 && store_has_room(w->store))
		trouble_set(w, TROUBLE_STORE, false);
	trouble_set(w, TROUBLE_FILES, attach_descriptors_are_few(w));
	trouble_set(w, TROUBLE_READER, readers_stuck(w->readers) > 0);
}
