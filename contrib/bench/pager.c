/* Options, the order of the passes, and the result as one JSON object. */
#include "bench.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static const char usage[] =
	"usage: bench-pager --peer zram|larder [--mb N] [--threads N] [--seed N]\n"
	"                   [--zram DEVICE] [--larder COMMAND] [--service PID]\n"
	"Fills N MiB, then three times: has it evicted, touches every page, verifies every "
	"page.\n"
	"  zram:   pages itself out; swap must be on DEVICE (zram0) alone\n"
	"  larder: must itself be started by \"larder run\"; COMMAND is larder, PID the "
	"service's,\n"
	"          whose processor time is to be counted\n";

static _Noreturn void die(const char *what, int error)
{
	fprintf(stderr, "bench-pager: %s: %s\n", what, strerror(error));
	exit(1);
}

static _Noreturn void usage_error(void)
{
	fputs(usage, stderr);
	exit(2);
}

static uint64_t parse_number(const char *text, uint64_t least, uint64_t most)
{
	char *end;

	errno = 0;
	unsigned long long value = strtoull(text, &end, 0);
	if (errno != 0 || end == text || *end != '\0' || value < least || value > most)
		usage_error();
	return value;
}

static const struct peer *parse_peer(const char *name)
{
	if (strcmp(name, peer_zram.name) == 0)
		return &peer_zram;
	if (strcmp(name, peer_larder.name) == 0)
		return &peer_larder;
	usage_error();
}

static const struct peer *parse_options(struct bench *b, int argc, char **argv)
{
	static const struct option longs[] = {
		{"peer", required_argument, NULL, 'p'},
		{"mb", required_argument, NULL, 'm'},
		{"threads", required_argument, NULL, 't'},
		{"seed", required_argument, NULL, 's'},
		{"zram", required_argument, NULL, 'z'},
		{"larder", required_argument, NULL, 'l'},
		{"service", required_argument, NULL, 'v'},
		{0},
	};
	const struct peer *peer = NULL;
	int key;

	while ((key = getopt_long(argc, argv, "", longs, NULL)) != -1)
		switch (key) {
		case 'p':
			peer = parse_peer(optarg);
			break;
		case 'm':
			b->pages = (size_t)parse_number(optarg, 1, 1 << 20) << 8;
			break;
		case 't':
			b->threads = (size_t)parse_number(optarg, 1, THREADS_MAX);
			break;
		case 's':
			b->seed = parse_number(optarg, 0, UINT64_MAX);
			break;
		case 'z':
			b->zram = optarg;
			break;
		case 'l':
			b->larder = optarg;
			break;
		case 'v':
			b->service = (pid_t)parse_number(optarg, 1, INT32_MAX);
			break;
		default:
			usage_error();
		}
	if (!peer || optind < argc)
		usage_error();
	return peer;
}

static void *map(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap", errno);
	return p;
}

/* The tables are locked, so that neither peer takes them away and they cost no fault. */
static void *map_table(size_t bytes)
{
	void *p = map(bytes);

	if (mlock(p, bytes) < 0)
		die("mlock", errno);
	return p;
}

/* Pages without access on both sides keep the memory a mapping of its own. */
static void bench_fill(struct bench *b)
{
	const size_t edge = 2 << 20;
	size_t bytes = b->pages * BENCH_PAGE;
	uint64_t state = b->seed;
	char *p = map(bytes + 2 * edge);

	if (mprotect(p, edge, PROT_NONE) < 0 || mprotect(p + edge + bytes, edge, PROT_NONE) < 0)
		die("mprotect", errno);
	b->memory = p + edge;
	/* zram swaps pages; huge ones would be split first, which isn't what is compared. */
	if (madvise(b->memory, bytes, MADV_NOHUGEPAGE) < 0 && errno != EINVAL)
		die("madvise", errno);
	b->checksums = map_table(b->pages * sizeof(*b->checksums));
	b->order = map_table(b->pages * sizeof(*b->order));
	b->latency = map_table(b->pages * sizeof(*b->latency));
	b->absent = map_table(b->pages);
	for (size_t i = 0; i < b->pages; i++) {
		data_fill(b->seed, i, b->memory + i * BENCH_PAGE);
		b->checksums[i] = data_checksum(b->memory + i * BENCH_PAGE);
		size_t other = (size_t)(data_random(&state) % (i + 1));
		b->order[i] = b->order[other];
		b->order[other] = (uint32_t)i;
	}
}

static double per_page_us(uint64_t ns, size_t pages)
{
	return pages ? (double)ns / 1000 / (double)pages : 0;
}

static double per_second(size_t count, uint64_t ns)
{
	return ns ? (double)count * 1e9 / (double)ns : 0;
}

static double megabytes_per_second(size_t pages, uint64_t ns)
{
	return per_second(pages, ns) * BENCH_PAGE / (1 << 20);
}

static void run_pass(struct bench *b, const struct peer *peer, enum pass_kind kind,
	struct eviction *e, struct pass *p, int64_t *stored)
{
	struct eviction now;
	int r = bench_evict(b, peer, &now);

	if (r < 0)
		die("evicting", -r);
	if (now.pages == 0)
		die("evicting", ENODATA);
	if (*stored < 0)
		*stored = peer->stored(b);
	r = bench_touch(b, kind, p);
	if (r < 0)
		die("touching", -r);
	size_t wrong = bench_verify(b);
	if (wrong > 0) {
		fprintf(stderr, "bench-pager: %zu of %zu pages have wrong content\n", wrong,
			b->pages);
		exit(1);
	}
	e->pages += now.pages;
	e->left += now.left;
	e->wall_ns += now.wall_ns;
	e->cpu_ns += now.cpu_ns;
}

static void print_latency(const char *name, const struct pass *p)
{
	printf(", \"%s_p50_us\": %.2f, \"%s_p90_us\": %.2f, \"%s_p99_us\": %.2f, "
	       "\"%s_max_us\": %.1f, \"%s_per_s\": %.0f",
		name, p->p50 / 1e3, name, p->p90 / 1e3, name, p->p99 / 1e3, name, p->max / 1e3,
		name, per_second(p->touches, p->wall_ns));
}

int main(int argc, char **argv)
{
	struct bench b = {.seed = 1,
		.pages = 256 << 8,
		.threads = 4,
		.larder = "larder",
		.zram = "zram0"};
	const struct peer *peer = parse_options(&b, argc, argv);
	struct eviction e = {0};
	struct pass random, sequential, threads;
	int64_t stored = -1;

	bench_fill(&b);
	run_pass(&b, peer, PASS_RANDOM, &e, &random, &stored);
	run_pass(&b, peer, PASS_SEQUENTIAL, &e, &sequential, &stored);
	run_pass(&b, peer, PASS_THREADS, &e, &threads, &stored);

	printf("{\"peer\": \"%s\", \"mb\": %zu, \"seed\": %llu, \"threads\": %zu", peer->name,
		b.pages >> 8, (unsigned long long)b.seed, b.threads);
	printf(", \"evicted_pages\": %zu, \"left_pages\": %zu, \"stored_bytes\": %lld", e.pages,
		e.left, (long long)stored);
	printf(", \"evict_us_per_page\": %.3f, \"evict_cpu_us_per_page\": %.3f, "
	       "\"evict_mb_s\": %.1f",
		per_page_us(e.wall_ns, e.pages), per_page_us(e.cpu_ns, e.pages),
		megabytes_per_second(e.pages, e.wall_ns));
	print_latency("random", &random);
	printf(", \"sequential_mb_s\": %.1f",
		megabytes_per_second(sequential.touches, sequential.wall_ns));
	print_latency("threads", &threads);
	printf(", \"verified\": true}\n");
	return 0;
}
