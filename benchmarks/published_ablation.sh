#!/usr/bin/env bash
# The published generator, one thing changed at a time, each row trained as long and judged on proteins
# held out.
#
#   bash benchmarks/published_ablation.sh waves TRAIN_DIR FEW_DIR HELD_DIR OUT   # three stores
#   bash benchmarks/published_ablation.sh rows OUT [IMAGES] [ROW...]             # all rows, or those named
#
# SEED=1 and STORE=few.zarr in the environment give rows of another seed, or all of one store.
#
# The folders hold prepared structures: many to learn from, a few for the row `few`, and those held out.
set -euo pipefail
stage=$1; shift
seed=${SEED:-0} tag=${SEED:+-seed$SEED}
export OMP_NUM_THREADS=1
# One exit plane for all. To learn from, a grid coarser than the default, since nothing here reaches 3 Å.
held=(--box-A 70 --workers 1 --set simulate.engine=torch --set simulate.depth_A=100
  --set simulate.slice_A=5)
grid=("${held[@]}" --set simulate.sampling_A=0.25 --set simulate.max_outside=0.2)

waves() { # TRAIN_DIR FEW_DIR HELD_DIR OUT
  mkdir -p "$4"
  python -m diffragan simulate "$3" --out "$4/held.zarr" --orientations 4 "${held[@]}" --seed 7
  python -m diffragan simulate "$1" --out "$4/train.zarr" --orientations 4 "${grid[@]}" --seed 1
  python -m diffragan simulate "$2" --out "$4/few.zarr" --orientations 40 "${grid[@]}" --seed 2
}

train() { # NAME IMAGES BATCH STORE [SETTINGS]
  local name=$1 images=$2 batch=$3 store=${STORE:-$4}; shift 4
  local steps=$((images / batch)) stems
  stems=$(python -c "from pathlib import Path; from diffragan.files.store import open_simulation
print([s.stem for s in open_simulation(Path('$out/held.zarr')).structures])")
  /usr/bin/time -f "$name$tag: $images images, %U CPU s" -a -o "$out/seconds.txt" \
    python -m diffragan train "$out/$store" "$out/held.zarr" \
    --out "$out/$name$tag" --threads 1 --seed "$seed" \
    --set "train.validation_structures=$stems" --set network.width=0.0625 \
    --set train.batch_size="$batch" --set train.max_steps="$steps" \
    --set train.validate_every_steps="$steps" "$@"
}

row() { # NAME
  local n=$images l1=(--set train.adversarial_weight=0)
  local better=(--set train.learning_rate=2e-4 --set train.augment=true)
  case $1 in
    printed) train "$1" $((n / 2)) 1 train.zarr ;;
    gan) train "$1" "$n" 4 train.zarr "${better[@]}" ;;
    linear) train "$1" "$n" 4 train.zarr "${better[@]}" "${l1[@]}" ;;
    root | log | rings | blank)
      train "$1" "$n" 4 train.zarr "${better[@]}" "${l1[@]}" --set network.pattern_as="$1" ;;
    amplitude) train "$1" "$n" 4 train.zarr "${better[@]}" "${l1[@]}" --set network.preparation=amplitude ;;
    amplitude-gan) train "$1" "$n" 4 train.zarr "${better[@]}" --set network.preparation=amplitude ;;
    gan-l1-*) train "$1" "$n" 4 train.zarr "${better[@]}" --set train.l1_weight="${1##*-}" ;;
    fast) train "$1" "$n" 4 train.zarr "${better[@]}" "${l1[@]}" --set train.learning_rate=1e-3 ;;
    slow) train "$1" "$n" 4 train.zarr "${better[@]}" "${l1[@]}" --set train.learning_rate=5e-5 ;;
    average) train "$1" "$n" 4 train.zarr "${better[@]}" "${l1[@]}" --set train.average=0.99 ;;
    falling) train "$1" "$n" 4 train.zarr "${better[@]}" "${l1[@]}" --set train.decay_from=0.5 ;;
    unturned) train "$1" "$n" 4 train.zarr "${better[@]}" "${l1[@]}" --set train.augment=false ;;
    few) train "$1" "$n" 4 few.zarr "${better[@]}" "${l1[@]}" ;;
    dry) train "$1" "$n" 4 train.zarr "${better[@]}" "${l1[@]}" --set network.dropout=0 ;;
    patch-70) train "$1" "$n" 4 train.zarr "${better[@]}" --set network.patch_px=70 ;;
    long) # validated on the way: its best weights are those at which it would have been stopped early
      train "$1" $((4 * n)) 4 train.zarr "${better[@]}" "${l1[@]}" --set train.validate_every_steps=200
      python -m benchmarks.projections "$out/held.zarr" --rows "$out/$1$tag/best.safetensors" \
        --set image.defocus_A=-1000 --out "$out/$1$tag-best.json" | tail -n +2 ;;
    wide) train "$1" $((n / 2)) 4 train.zarr "${better[@]}" "${l1[@]}" --set network.width=0.125 ;;
    *) echo "no row $1" >&2; exit 2 ;;
  esac
  python -m benchmarks.projections "$out/held.zarr" --rows "$out/$1$tag/last.safetensors" \
    --swapped --set image.defocus_A=-1000 --out "$out/$1$tag.json" | tail -n +2
}

case $stage in
  waves) waves "$@" ;;
  rows)
    out=$1 images=${2:-3200}; shift; shift || true
    names=("$@")
    [ ${#names[@]} -gt 0 ] || names=(printed gan linear root log rings amplitude amplitude-gan blank gan-l1-10 gan-l1-1000 patch-70
      fast slow average falling unturned dry few wide long)
    for name in "${names[@]}"; do row "$name"; done ;;
  *) sed -n '2,9p' "$0"; exit 2 ;;
esac
