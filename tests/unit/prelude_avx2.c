/* SPDX-License-Identifier: MIT */
#define PRELUDE_LEVEL prelude_avx2
#define PRELUDE_NAME "avx2"
#include "prelude_level_functions.h"
