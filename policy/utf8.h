/* UTF-8, as far as a service needs it: is this text that may be shown and put into JSON? */
#ifndef LARDER_UTF8_H
#define LARDER_UTF8_H

#include <stddef.h>

/* Bytes at the start of text[0..size) that are well-formed UTF-8 (RFC 3629: no overlong forms,
 * no surrogates, nothing above U+10FFFF). size itself when all of it is. NUL counts as a
 * character. */
size_t utf8_span(const char *text, size_t size);

#endif
