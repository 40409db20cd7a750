#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The shared library exports the public functions and nothing else.
#
#   bash exports.sh LIBRARY
set -euo pipefail
if [ "$(uname -s)" = Darwin ]; then
    names=$(nm -gU "$1" | awk '{ sub(/^_/, "", $NF); print $NF }')
else
    names=$(nm -D --defined-only "$1" | awk '{ print $NF }')
fi
grep -qx zmlx_model_load <<<"$names" || { echo "exports: zmlx_model_load is missing" >&2; exit 1; }
! grep -v '^zmlx_' <<<"$names" || { echo "exports: these are not part of the public interface" >&2; exit 1; }
