#!/usr/bin/env bash
# The paper's Figure 8 at its own size: maps of 1AUP by RELION from 8,000 true and 8,000 phased waves,
# on a machine with GPUs and a RELION built for them.
#
#   STRUCTURE=1AUP VIEWS=8000 SIZE=256 GPUS=4 benchmarks/relion_figure8.sh OUT
#
# Every step goes on where it was interrupted. The patterns end at 1.254 Å, which 128 pixels of an 80 Å
# box hold; 256 is the paper's size and only finer. VIEWS, SIZE and GPUS=0 make a trial on a small
# machine.
set -euo pipefail
out=${1:?"name a folder to write"}
structure=${STRUCTURE:-1AUP} views=${VIEWS:-8000} size=${SIZE:-256} gpus=${GPUS:-1}
method=${METHOD:-raar} box=${BOX_A:-80} seed=${SEED:-1}
here=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$out"

[ -e "$out/$structure.cif" ] || diffragan prepare "$structure" --out "$out"
diffragan simulate "$out/$structure.cif" --out "$out/waves.zarr" \
  --orientations "$views" --box-A "$box" --seed "$seed"
[ -e "$out/true.zarr" ] || (cd "$here" && python -m benchmarks.relion_figure8 \
  truth "$out/waves.zarr" "$out/true.zarr" --views "$views")
diffragan phase "$out/waves.zarr" --out "$out/$method.zarr" --method "$method" --seed "$seed"

words=(--set "relion.size_px=$size" --set relion.initial_iterations=200 --set "relion.initial_subset=[200, 1000]")
if [ "$gpus" -gt 0 ]; then
  words+=(--set relion.gpu=true --set "relion.ranks=$((gpus < 2 ? 3 : gpus + 1))" --set relion.threads=8)
fi
for set in true "$method"; do
  diffragan reconstruct "$out/$set.zarr" --engine relion --find-orientations \
    --out "$out/by-relion-$set" --model "$out/$structure.cif" --seed "$seed" "${words[@]}"
done
cd "$here" && python -m benchmarks.relion_figure8 compare "$out/by-relion-true" \
  "$out/by-relion-$method" --model "$out/$structure.cif" --out "$out/figure8.png"
