#!/usr/bin/env bash
# What only a GPU can tell of scansynth, within eight minutes: tests marked `gpu`, equality with the CPU, a resume, rates,
# training steps and volumes of the small recipes, and what compiling, CUDA graphs and fused attention bring.
#
#     bash benchmarks/gpu.sh -o gpu.json             # writes gpu.json, and gpu.md for docs/performance.md
#     bash benchmarks/gpu.sh --device cpu --minutes 1 -o gpu-try.json    # tries the script itself
#
# It needs a checkout and a Python with torch; what is missing beside is taken from WHEELS (a folder of wheels that were
# carried along), if that is set, and never from the network. What there is no time for is listed, never dropped.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python3}
if [ -n "${WHEELS:-}" ]; then
    site=$(mktemp -d) || exit 1
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl || exit 1
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$PWD/src:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "$python" benchmarks/gpu.py "$@"
