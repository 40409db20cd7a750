/* SPDX-License-Identifier: MIT */
#define PRELUDE_LEVEL prelude_baseline
#define PRELUDE_NAME "baseline"
#include "prelude_level_functions.h"
