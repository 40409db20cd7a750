/* SPDX-License-Identifier: MIT */
#define PRELUDE_LEVEL prelude_avx512
#define PRELUDE_NAME "avx512"
#include "prelude_level_functions.h"
