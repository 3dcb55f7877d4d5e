#!/usr/bin/env bash
# Draws and edits with the quickstart's cascade in every way that the sampler knows. What is there already is kept.
#
#     bash launch/sampling_tour.sh
#     RUN_DIR=/elsewhere OUT=pictures bash launch/sampling_tour.sh
set -euo pipefail
run_dir=${RUN_DIR:+$(cd "$RUN_DIR" && pwd)}
# shellcheck source=launch/set_up.sh
source "$(dirname "${BASH_SOURCE[0]}")/set_up.sh"
set_up
run_dir=${run_dir:-$checkout/runs/quickstart}
out=${OUT:-$run_dir/tour}
base=$run_dir/base
large=$run_dir/super_resolution
[[ -d $base && -d $large ]] || fail "$run_dir holds no trained cascade: run launch/quickstart.sh first."

# Usage: draw NAME ARGUMENT...
draw() {
    local name=$1
    shift
    say "$name"
    "$python" -m imagen_jax.sample --out="$out/$name" --stages="$base,$large" "$@"
}

words=(--prompt="red apple" --prompt="panda" --prompt="sunflower" --prompt="pizza")

for sampler in ancestral ddim dpm_solver_2m dpm_solver_2m_sde heun unipc; do
    draw "sampler_$sampler" "${words[@]}" --sampler="$sampler" --steps=16,4
done
draw guidance_3 "${words[@]}" --guidance=3,1 --steps=16,4
draw guidance_interval "${words[@]}" --guidance=3,1 --guidance_interval=-5,3 --steps=16,4
draw dynamic_threshold "${words[@]}" --guidance=8,1 --thresholding=dynamic --steps=16,4
draw negative_prompt --prompt="red heart" --negative_prompt="red" --guidance=4,1 --steps=16,4
draw several --prompt="red apple" --samples_per_prompt=4 --steps=16,4

picture=$(echo "$out"/several/red_apple-*-seed0-0.png)
draw image_to_image --prompt="green apple" --image="$picture" --strength=0.6 --steps=32,8 --samples_per_prompt=4
# Its right half is white.
"$python" - "$picture" "$out/mask.png" <<'PYTHON'
import sys
from PIL import Image

width, height = Image.open(sys.argv[1]).size
mask = Image.new("L", (width, height))
mask.paste(255, (width // 2, 0, width, height))
mask.save(sys.argv[2])
PYTHON
draw inpainting --prompt="red apple" --image="$picture" --mask="$out/mask.png" --returns=4 --steps=32,8 \
    --samples_per_prompt=4
draw inversion --prompt="red apple" --prompt="green apple" --image="$picture" --invert="red apple" --steps=50 \
    --sampler=ddim --guidance=1 --thresholding=none --spacing=karras
draw between_prompts --prompt="red apple" --to_prompt="pizza" --between=6 --steps=16,4
draw between_seeds --prompt="panda" --to_seed=1 --between=6 --steps=16,4
draw style --prompt="red apple" --later_prompt="snowman" --augmentation_level=0.3 --steps=16,8 --samples_per_prompt=4
say "enlarged"
"$python" -m imagen_jax.sample --out="$out/enlarged" --stages="$large" --image="$picture" --prompt="red apple" --steps=8
say "All pictures are in $out"
