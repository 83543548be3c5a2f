#!/usr/bin/env bash
# Builds the wheel, looks whether all of the package is in it, and runs the demo from it in a fresh
# environment and an empty folder, as somebody does who has no checkout.
#
#     release/try_wheel.sh [python of an environment with the extra `dev`]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
away=$(mktemp -d)
trap 'rm -rf "$away"' EXIT

"$python" -m build --no-isolation --wheel --outdir "$away/dist" .
wheel=$(echo "$away"/dist/*.whl)
"$python" release/missing_files.py "$wheel"

"$python" -m venv "$away/venv"
bin=$away/venv/bin
pip=("$bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt)
"${pip[@]}" torch
"${pip[@]}" "$wheel"

mkdir "$away/empty"
cd "$away/empty"
unset PYTHONPATH
"$bin/diffragan" --version
"$bin/diffragan" demo
test -s demo-out/report.html
test -s demo-out/many-views/map.mrc
test -s demo-out/atoms/model.cif
echo "The wheel runs the demo."
