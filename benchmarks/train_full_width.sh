#!/usr/bin/env bash
# The published generator at full width (255 million weights) on one GPU, in legs that each last less
# than ten minutes and go on from the last checkpoint.
#
#   bash benchmarks/train_full_width.sh waves TRAIN_DIR TEST_DIR OUT   # on CPUs: two stores of exit waves
#   bash benchmarks/train_full_width.sh leg OUT [MINUTES]              # on the GPU, three times or more
#   bash benchmarks/train_full_width.sh judge OUT                      # what it phases, on proteins held out
#   bash benchmarks/train_full_width.sh rehearse TRAIN_DIR TEST_DIR OUT   # all three, a few steps, any machine
#
# TRAIN_DIR and TEST_DIR hold prepared structures (`diffragan prepare`). Exit waves are kept to the
# measured band, 112 x 112 pixels and 100 kB each: 20 proteins in 28 orientations take 56 MB. The
# checkpoint of a leg, 5 GB, stays on the GPU's machine; `judge` leaves figures and tables of a few MB.
set -euo pipefail
stage=$1; shift
run="python -m diffragan"
band=(--preset published --set simulate.keep_q_per_A=0.8)

waves() { # TRAIN_DIR TEST_DIR OUT ORIENTATIONS
  mkdir -p "$3"
  $run simulate "$1" --out "$3/train.zarr" "${band[@]}" --orientations "$4" --seed 1
  $run simulate "$2" --out "$3/test.zarr" "${band[@]}" --orientations "$4" --seed 2 \
    --set simulate.max_outside=0.2
}

leg() { # OUT MINUTES [SETTINGS]
  local out=$1 minutes=$2; shift 2
  $run train "$out/train.zarr" --out "$out/run" --preset published --max-minutes "$minutes" \
    --set train.batch_size=16 --set train.checkpoint_every_s=600 --set train.validate_every_steps=200 "$@"
}

judge() { # OUT
  $run phase "$1/test.zarr" --out "$1/phased.zarr" --preset published --weights "$1/run/best.safetensors"
  $run evaluate "$1/phased.zarr" --out "$1/judged"
}

case $stage in
  waves) waves "$1" "$2" "$3" 28 ;;
  leg) leg "$1" "${2:-8}" ;;
  judge) judge "$1" ;;
  rehearse)
    waves "$1" "$2" "$3" 1
    leg "$3" 8 --set train.batch_size=1 --set train.max_steps=1 --set train.validation_items=1
    judge "$3" ;;
  *) sed -n '2,14p' "$0"; exit 2 ;;
esac
