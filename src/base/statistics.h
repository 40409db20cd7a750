/* SPDX-License-Identifier: MIT */
#ifndef ZM_BASE_STATISTICS_H
#define ZM_BASE_STATISTICS_H

#include <stddef.h>

/* The median, for an even count the mean of the two in the middle; 0 for none. Sorts values. */
double zm_median(double *values, size_t count);

#endif
