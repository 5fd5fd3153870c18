/* Reading the world for the checks. */
#include "doctor_check.h"

#include "cleanup.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The longest is a program's list of mappings: 65530 of them, 200 bytes each. */
#define TEXT_MAX ((size_t)64 << 20)

static int open_va(const struct doctor *d, int flags, const char *format, va_list ap)
{
	char path[PATH_MAX];
	int n = snprintf(path, sizeof(path), "%s", d->root);
	size_t left = sizeof(path) - (size_t)n;
	int m = vsnprintf(path + n, left, format, ap);

	if (m < 0 || (size_t)m >= left)
		return -ENAMETOOLONG;
	int fd = open(path, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int doctor_open(const struct doctor *d, int flags, const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	int fd = open_va(d, flags, format, ap);
	va_end(ap);
	return fd;
}

int doctor_stat(const struct doctor *d, struct stat *ret, const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	_cleanup_fd_ int fd = open_va(d, O_PATH, format, ap);
	va_end(ap);
	if (fd < 0)
		return fd;
	return fstat(fd, ret) < 0 ? -errno : 0;
}

/* NULL with errno. */
static char *read_all(int fd, size_t *ret_size)
{
	size_t room = 4096, have = 0;
	char *text = malloc(room + 1);
	ssize_t n = 1;

	while (text && (n = read(fd, text + have, room - have)) > 0) {
		have += (size_t)n;
		if (have < room)
			continue;
		room *= 2;
		char *more = room <= TEXT_MAX ? realloc(text, room + 1) : NULL;
		if (!more)
			free(text);
		text = more;
	}
	if (text && n < 0) {
		int e = errno;
		free(text);
		errno = e;
		return NULL;
	}
	if (!text) {
		errno = ENOMEM;
		return NULL;
	}
	text[have] = '\0';
	if (ret_size)
		*ret_size = have;
	return text;
}

char *doctor_text(const struct doctor *d, size_t *ret_size, const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	_cleanup_fd_ int fd = open_va(d, O_RDONLY, format, ap);
	va_end(ap);
	if (fd < 0) {
		errno = -fd;
		return NULL;
	}
	return read_all(fd, ret_size);
}

/* A number in decimal or another base, with spaces before it. */
static const char *take_number(const char *s, int base, uint64_t *ret)
{
	char *end;
	s += strspn(s, " \t");
	errno = 0;
	unsigned long long n = strtoull(s, &end, base);
	if (end == s || *s == '-' || errno != 0)
		return NULL;
	*ret = n;
	return end;
}

bool doctor_number(const struct doctor *d, const char *path, uint64_t *ret)
{
	_cleanup_free_ char *text = doctor_text(d, NULL, "%s", path);
	return text && take_number(text, 10, ret);
}

/* Behind KEY at the start of a line, or NULL. */
static const char *line_of(const char *text, const char *key)
{
	size_t n = strlen(key);
	while (strncmp(text, key, n) != 0) {
		text = strchr(text, '\n');
		if (!text)
			return NULL;
		text++;
	}
	return text + n;
}

bool doctor_field(const char *text, const char *key, int base, uint64_t *ret)
{
	const char *value = line_of(text, key);
	return value && take_number(value, base, ret);
}

static const char *take_limit(const char *s, uint64_t *ret)
{
	static const char unlimited[] = "unlimited";
	s += strspn(s, " ");
	if (strncmp(s, unlimited, sizeof(unlimited) - 1) != 0)
		return take_number(s, 10, ret);
	*ret = UINT64_MAX;
	return s + sizeof(unlimited) - 1;
}

bool doctor_limit(const char *limits, const char *name, uint64_t *ret_soft, uint64_t *ret_hard)
{
	uint64_t soft, hard;
	const char *s = line_of(limits, name);

	if (!s || !(s = take_limit(s, &soft)) || !take_limit(s, &hard))
		return false;
	if (ret_soft)
		*ret_soft = soft;
	if (ret_hard)
		*ret_hard = hard;
	return true;
}

const char *doctor_variable(const char *text, size_t size, const char *name)
{
	size_t n = strlen(name);
	for (const char *s = text; s < text + size; s += strlen(s) + 1)
		if (strncmp(s, name, n) == 0 && s[n] == '=')
			return s + n + 1;
	return NULL;
}

bool doctor_same_path(const struct doctor *d, const char *a, const char *b)
{
	struct stat x, y;
	if (strcmp(a, b) == 0)
		return true;
	return doctor_stat(d, &x, "%s", a) == 0 && doctor_stat(d, &y, "%s", b) == 0 &&
	       x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

char *doctor_bytes(uint64_t bytes, char text[static 32])
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	double n = (double)bytes;
	size_t unit = 0;

	while (n >= 1023.5 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		n /= 1024;
		unit++;
	}
	snprintf(text, 32, "%.*f %s", unit > 0 && n < 99.95 ? 1 : 0, n, units[unit]);
	return text;
}

/* Of either class: the fields have the same names. */
#define HAS_INTERPRETER(fd, Header, Program, ret)                                              \
	do {                                                                                   \
		Header h;                                                                      \
		Program p;                                                                     \
		if (pread(fd, &h, sizeof(h), 0) != sizeof(h) || h.e_phentsize != sizeof(p))    \
			return -EBADMSG;                                                       \
		(ret)->machine = h.e_machine;                                                  \
		for (unsigned i = 0; i < h.e_phnum && !(ret)->has_interpreter; i++)            \
			(ret)->has_interpreter =                                               \
				pread(fd, &p, sizeof(p),                                       \
					(off_t)(h.e_phoff + i * sizeof(p))) == sizeof(p) &&    \
				p.p_type == PT_INTERP;                                         \
	} while (0)

int doctor_elf_read(int fd, struct doctor_elf *ret)
{
	unsigned char ident[EI_NIDENT];
	struct doctor_elf e = {.elf = true};

	if (pread(fd, ident, sizeof(ident), 0) != sizeof(ident) ||
		memcmp(ident, ELFMAG, SELFMAG) != 0) {
		*ret = (struct doctor_elf){.elf = false};
		return 0;
	}
	e.is_64 = ident[EI_CLASS] == ELFCLASS64;
	if (e.is_64)
		HAS_INTERPRETER(fd, Elf64_Ehdr, Elf64_Phdr, &e);
	else
		HAS_INTERPRETER(fd, Elf32_Ehdr, Elf32_Phdr, &e);
	*ret = e;
	return 0;
}
