/* SPDX-License-Identifier: MIT */
#define PRELUDE_LEVEL prelude_avx512bf16
#define PRELUDE_NAME "avx512bf16"
#include "prelude_level_functions.h"
