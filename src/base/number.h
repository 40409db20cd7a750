/* SPDX-License-Identifier: MIT */
#ifndef ZM_BASE_NUMBER_H
#define ZM_BASE_NUMBER_H

/* strtod as in the C locale, whatever point the program's own locale writes. */
double zm_read_number(const char *text, char **end);

#endif
