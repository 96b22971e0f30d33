#!/bin/sh
# Puts what a machine without a network may lack beside torch, numpy and scipy into the folder
# vendor/ of this checkout, which git ignores: packages of plain Python, good for any version of it.
#
#     sh tests/benchmarks/vendor.sh [PYTHON]
set -e
cd "$(dirname "$0")/../.."
rm -rf vendor
"${1:-python3}" -m pip install --quiet --target vendor --no-deps --no-compile -c constraints.txt \
    pyro-ppl pyro-api arviz h5netcdf xarray-einstats platformdirs pooch zuko
du -sh vendor
