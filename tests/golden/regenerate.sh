#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Writes the golden texts again after an intended change of emitted text; look at the difference before a commit.
#
#   tests/golden/regenerate.sh BUILD
set -euo pipefail
ZMLX_WRITE_GOLDEN=1 "$1/tests/test_emit_gpu"
