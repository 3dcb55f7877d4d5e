#!/usr/bin/env bash
# Draws and edits with the quickstart's cascade in every way that the sampler knows, and writes a page of it: each picture
# with the command that made it. What is there already is kept. Twenty minutes the first time: it trains a classifier too.
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
classifier=$run_dir/classifier
[[ -d $base && -d $large ]] || fail "$run_dir holds no trained cascade: run launch/quickstart.sh first."
mkdir -p "$out"
page=$out/README.md
cat >"$page" <<'PAGE'
# Every way to sample

Written by `bash launch/sampling_tour.sh` after `bash launch/quickstart.sh`: each picture was made by the command under it.
The cascade is small, trained for twenty minutes on two CPU cores: what to look at is what a setting changes. The drawings
are learned from OpenMoji's, CC BY-SA 4.0.

In the commands `BASE` stands for `runs/quickstart/base`, `LARGE` for `runs/quickstart/super_resolution`.
PAGE

# Usage: section TITLE WORDS
section() {
    printf '\n## %s\n\n%s\n' "$1" "$2" >>"$page"
}

# Usage: show NAME COMMAND...   The picture, and the command as one would type it.
show() {
    local name=$1 word line='' told=''
    shift
    for word in "$@"; do
        word=${word//$base,$large/BASE,LARGE}
        word=${word//$large/LARGE}
        word=${word//$run_dir/runs/quickstart}
        word=${word//$out/tour}
        if [[ $word == *[\ \&]* ]]; then
            word="${word%%=*}=\"${word#*=}\""
        fi
        if ((${#line} + ${#word} > 100)); then
            told+="$line \\"$'\n'
            line="   "
        fi
        line+=" $word"
    done
    printf '\n![%s](%s.png)\n\n```sh\n%s\n```\n' "$name" "$name" "${told# }${line/# python/python}" >>"$page"
}

# Usage: draw NAME ARGUMENT...
draw() {
    local name=$1
    shift
    draw_with "$base,$large" "$name" "$@"
}

# Usage: draw_with STAGES NAME ARGUMENT...
draw_with() {
    local stages=$1 name=$2
    shift 2
    say "$name"
    "$python" -m imagen_jax.sample --out="$out/$name" --stages="$stages" "$@"
    cp "$out/$name/grid.png" "$out/$name.png"
    show "$name" python -m imagen_jax.sample --stages="$stages" "$@" --out="$out/$name"
}

words=(--prompt="red apple" --prompt="panda" --prompt="sunflower" --prompt="pizza")

section "Samplers" "Sixteen steps for the base, four to enlarge. The first two with noise at every step are random; the \
others take one path from the same noise, DPM-Solver++ and UniPC along curves instead of lines. How far pictures are from \
the training images, by sampler and number of steps: [the curve](distance_by_steps.png), [the \
table](../../../tests/benchmarks/distance_by_steps.md)."
for sampler in ancestral dpm_solver_2m_sde ddim dpm_solver_2m heun unipc; do
    draw "sampler_$sampler" "${words[@]}" --sampler="$sampler" --steps=16,4
done

section "Guidance" "The weight, in the paper's convention: 1 is none. An interval applies it only between two log-SNRs."
draw guidance_1 "${words[@]}" --guidance=1 --steps=16,4
draw guidance_3 "${words[@]}" --guidance=3,1 --steps=16,4
draw guidance_interval "${words[@]}" --guidance=3,1 --guidance_interval=-5,3 --steps=16,4

section "Negative prompts" "What guidance leads away from, instead of no caption. First without."
draw heart --prompt=heart --samples_per_prompt=4 --guidance=3,1 --steps=16,4
draw negative_prompt --prompt=heart --negative_prompt="red heart" --samples_per_prompt=4 --guidance=3,1 --steps=16,4

section "Thresholding" "At a high weight the estimate leaves the range of pictures. Static thresholding clips it. Dynamic \
thresholding divides by a percentile, which is made for photos: of drawings on pure white it makes drawings on grey."
draw static_threshold "${words[@]}" --guidance=4,1 --steps=16,4
draw dynamic_threshold "${words[@]}" --guidance=4,1 --thresholding=dynamic --steps=16,4

section "Classifier guidance" "Towards a class that a small classifier of noisy pictures knows, here one of Unicode's nine \
groups of emoji. First without."
"$python" -m imagen_jax train_classifier --config=configs/openmoji_classifier.py --workdir="$classifier"
draw red --prompt=red --samples_per_prompt=4 --guidance=1 --steps=16,4
for class in "Flags" "Smileys & Emotion"; do
    draw "towards_${class%% *}" --prompt=red --samples_per_prompt=4 --guidance=1 --steps=16,4 \
        --classifier="$classifier" --classifier_class="$class" --classifier_scale=20
done
# shellcheck disable=SC2016
printf '\nThe classifier was trained by\n\n```sh\n%s \\\n    %s\n```\n' \
    "python -m imagen_jax train_classifier --config=configs/openmoji_classifier.py" \
    "--workdir=runs/quickstart/classifier" >>"$page"

section "Many pictures of one prompt" "Each is a function of the weights, the prompt, the seed and its number."
draw several --prompt="red apple" --samples_per_prompt=4 --steps=16,4
picture=$(echo "$out"/several/red_apple-*-seed0-0.png)
cp "$picture" "$out/apple.png"
picture=$out/apple.png

section "Image to image" "The first of these apples, noised by 0.6 and drawn on with another prompt."
draw image_to_image --prompt="green apple" --image="$picture" --strength=0.6 --steps=32,8 --samples_per_prompt=4

section "Inpainting" "The right half is drawn anew, four times; each stretch of steps is taken four times, so that it fits."
# Its right half is white.
"$python" - "$picture" "$out/mask.png" <<'PYTHON'
import sys
from PIL import Image

width, height = Image.open(sys.argv[1]).size
mask = Image.new("L", (width, height))
mask.paste(255, (width // 2, 0, width, height))
mask.save(sys.argv[2])
PYTHON
draw inpainting --prompt="red apple" --image="$picture" --mask="$out/mask.png" --resample=4 --steps=32,8 \
    --samples_per_prompt=4

section "Inversion" "The noise that DDIM draws the apple from; with its own caption it comes back, with another it changes."
draw inversion --prompt="red apple" --prompt="green apple" --image="$picture" --invert="red apple" --steps=50 \
    --sampler=ddim --guidance=1 --thresholding=none --spacing=karras

section "Between prompts and between seeds" "Six pictures on the way."
draw between_prompts --prompt="red apple" --to_prompt="pizza" --between=6 --steps=16,4
draw between_seeds --prompt="panda" --to_seed=1 --between=6 --steps=16,4

section "Style" "Another prompt for the stage that enlarges, which is told little of the small picture."
draw style --prompt="red apple" --later_prompt="snowman" --augmentation_level=0.3 --steps=16,8 --samples_per_prompt=4

section "Enlarging a picture of one's own" "A stage that enlarges, alone; the picture is brought to its size first."
draw_with "$large" enlarged --image="$picture" --prompt="red apple" --steps=8
say "All pictures are in $out, with a page: $page"
