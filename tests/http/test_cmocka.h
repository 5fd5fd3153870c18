/* What cmocka wants included, in its order. */
#ifndef LARDER_TEST_CMOCKA_H
#define LARDER_TEST_CMOCKA_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#endif
