#!/usr/bin/env bash
# Everything that only a GPU can tell, by one command that needs no network: at most 8 minutes on
# one H100.
#
#     tools/benchmarks/gpu_check.sh --output DIR                    # PYTHON=... names another Python
#     tools/benchmarks/gpu_check.sh --output DIR --small --device cpu    # tiny sizes, to try it
#
# DIR gets gpu_check.json, gpu_check.md (tables for docs/performance.md) and a log of each part. What
# a package that is not installed would give is reported as missing; PYTHONPATH may carry packages.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
exec "${PYTHON:-$(command -v python || command -v python3)}" tools/benchmarks/gpu_check.py "$@"
