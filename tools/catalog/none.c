/* SPDX-License-Identifier: MIT */
/* No kernels compiled with the library: for the tool that writes them, and for builds without. */
#include "runtime/prebuilt.h"

const zm_prebuilts zm_prebuilt_table = {NULL, 0};
