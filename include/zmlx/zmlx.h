/* SPDX-License-Identifier: MIT */
/* The whole public API of zmlx. Each header opens with its concept, most with a short example. */
#ifndef ZMLX_ZMLX_H
#define ZMLX_ZMLX_H

#include "zmlx/arrays.h"
#include "zmlx/catalog.h"
#include "zmlx/catalog_bench.h"
#include "zmlx/kernel.h"
#include "zmlx/kernel_bench.h"
#include "zmlx/kernel_test.h"
#include "zmlx/kernel_tools.h"
#include "zmlx/kernels.h"
#include "zmlx/model.h"
#include "zmlx/model_bench.h"
#include "zmlx/optimizer.h"
#include "zmlx/patch.h"
#include "zmlx/status.h"
#include "zmlx/synth.h"
#include "zmlx/system.h"
#include "zmlx/tokenizer.h"
#include "zmlx/validate.h"

#endif
