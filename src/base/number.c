/* SPDX-License-Identifier: MIT */
#include "base/number.h"

#include <locale.h>
#include <pthread.h>
#include <stdlib.h>
#if defined(__APPLE__)
#include <xlocale.h>
#endif

static locale_t c_locale;

static void make_c_locale(void) { c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0); }

double zm_read_number(const char *text, char **end) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_c_locale);
    locale_t before = uselocale(c_locale); /* of this thread alone */
    double number = strtod(text, end);
    uselocale(before);
    return number;
}
