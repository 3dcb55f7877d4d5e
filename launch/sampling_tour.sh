#!/usr/bin/env bash
# Samples and edits with the quickstart's cascade in every way that the sampler supports, and writes a page of it: each
# image with its command. Existing images are kept. Twenty minutes the first time: it trains a classifier too.
#
#     bash launch/sampling_tour.sh
#     RUN_DIR=/elsewhere OUT=pictures bash launch/sampling_tour.sh
set -euo pipefail
# shellcheck source=launch/set_up.sh
source "$(dirname "${BASH_SOURCE[0]}")/set_up.sh"
take_no_arguments "$@"
run_dir=${RUN_DIR:+$(cd "$RUN_DIR" && pwd)}
set_up
run_dir=${run_dir:-$checkout/runs/quickstart}
out=${OUT:-$run_dir/tour}
base=$run_dir/base
large=$run_dir/super_resolution
classifier=$run_dir/classifier
[[ -d $base && -d $large ]] || fail "$run_dir has no trained cascade: run launch/quickstart.sh first."
mkdir -p "$out"
page=$out/README.md
cat >"$page" <<'PAGE'
# Every way to sample

Written by `bash launch/sampling_tour.sh` after `bash launch/quickstart.sh`: the command under each image made it.
The cascade is small, trained for twenty minutes on two CPU cores: look at what a setting changes. The drawings are
learned from OpenMoji's, CC BY-SA 4.0.

In the commands `BASE` stands for `runs/quickstart/base`, `LARGE` for `runs/quickstart/super_resolution`.
PAGE

# Usage: section TITLE WORDS
section() {
    printf '\n## %s\n\n%s\n' "$1" "$2" >>"$page"
}

# Usage: show NAME COMMAND...   The image, and the command as one would type it.
show() {
    local name=$1 word line='' lines=''
    shift
    for word in "$@"; do
        word=${word//$base,$large/BASE,LARGE}
        word=${word//$large/LARGE}
        word=${word//$base/BASE}
        word=${word//$run_dir/runs/quickstart}
        word=${word//$out/tour}
        if [[ $word == *[\ \&]* ]]; then
            word="${word%%=*}=\"${word#*=}\""
        fi
        if ((${#line} + ${#word} > 100)); then
            lines+="$line \\"$'\n'
            line="   "
        fi
        line+=" $word"
    done
    printf '\n![%s](%s.png)\n\n```sh\n%s\n```\n' "$name" "$name" "${lines# }${line/# python/python}" >>"$page"
}

# Usage: sample NAME ARGUMENT...
sample() {
    local name=$1
    shift
    sample_from "$base,$large" "$name" "$@"
}

# Usage: sample_from STAGES NAME ARGUMENT...
sample_from() {
    local stages=$1 name=$2
    shift 2
    say "$name"
    "$python" -m imagen_jax.sample --out="$out/$name" --stages="$stages" "$@"
    cp "$out/$name/grid.png" "$out/$name.png"
    show "$name" python -m imagen_jax.sample --stages="$stages" "$@" --out="$out/$name"
}

# Usage: grid NAME GRID   A grid of settings, sampled by the base alone.
grid() {
    say "$1"
    [[ -f $out/$1.png ]] || "$python" launch/sampling_grids.py "$2" --base="$base" --out="$out/$1.png"
    show "$1" python launch/sampling_grids.py "$2" --base="$base" --out="$out/$1.png"
}

words=(--prompt="red apple" --prompt="panda" --prompt="sunflower" --prompt="pizza")

section "Samplers" "Sixteen steps for the base, four for super-resolution. The first two add noise at every step; the \
others follow one path from the same noise, DPM-Solver++ and UniPC along curves instead of lines. The distance of \
images to the training images, by sampler and number of steps: [the curve](distance_by_steps.png), [the \
table](../../../tests/benchmarks/distance_by_steps.md)."
grid samplers_and_steps samplers
for sampler in ancestral dpm_solver_2m_sde ddim dpm_solver_2m heun unipc; do
    sample "sampler_$sampler" "${words[@]}" --sampler="$sampler" --steps=16,4
done

section "Guidance" "The weight, in the paper's convention: 1 is no guidance. An interval applies it only between two \
log-SNRs."
grid guidance_weights guidance
sample guidance_1 "${words[@]}" --guidance=1 --steps=16,4
sample guidance_3 "${words[@]}" --guidance=3,1 --steps=16,4
sample guidance_interval "${words[@]}" --guidance=3,1 --guidance_interval=-5,3 --steps=16,4

section "Negative prompts" "A prompt that guidance uses instead of the null prompt. First without."
sample heart --prompt=heart --samples_per_prompt=4 --guidance=3,1 --steps=16,4
sample negative_prompt --prompt=heart --negative_prompt="red heart" --samples_per_prompt=4 --guidance=3,1 --steps=16,4

section "Thresholding" "At a high weight the estimate leaves the range of images. Static thresholding clips it. \
Dynamic thresholding divides by a percentile. It is made for photos and turns drawings on pure \
white into drawings on grey."
grid thresholds thresholds
sample static_threshold "${words[@]}" --guidance=4,1 --steps=16,4
sample dynamic_threshold "${words[@]}" --guidance=4,1 --thresholding=dynamic --steps=16,4

section "Classifier guidance" "Towards a class of a small classifier of noisy images, here one of Unicode's nine \
groups of emoji. First without."
"$python" -m imagen_jax train_classifier --config=configs/openmoji_classifier.py --workdir="$classifier"
sample red --prompt=red --samples_per_prompt=4 --guidance=1 --steps=16,4
for class in "Flags" "Smileys & Emotion"; do
    sample "towards_${class%% *}" --prompt=red --samples_per_prompt=4 --guidance=1 --steps=16,4 \
        --classifier="$classifier" --classifier_class="$class" --classifier_scale=20
done
# shellcheck disable=SC2016
printf '\nThe classifier was trained by\n\n```sh\n%s \\\n    %s\n```\n' \
    "python -m imagen_jax train_classifier --config=configs/openmoji_classifier.py" \
    "--workdir=runs/quickstart/classifier" >>"$page"

section "Many images of one prompt" "Each is a function of the weights, the prompt, the seed and its index."
sample several --prompt="red apple" --samples_per_prompt=4 --steps=16,4
image=$(echo "$out"/several/red_apple-*-seed0-0.png)
cp "$image" "$out/apple.png"
image=$out/apple.png

section "Image to image" "The first of these apples, noised by 0.6 and denoised with another prompt."
sample image_to_image --prompt="green apple" --image="$image" --strength=0.6 --steps=32,8 --samples_per_prompt=4

section "Inpainting" "The right half is sampled again, four times; each stretch of steps is taken four times, so that \
it fits."
# Its right half is white.
"$python" - "$image" "$out/mask.png" <<'PYTHON'
import sys
from PIL import Image

width, height = Image.open(sys.argv[1]).size
mask = Image.new("L", (width, height))
mask.paste(255, (width // 2, 0, width, height))
mask.save(sys.argv[2])
PYTHON
sample inpainting --prompt="red apple" --image="$image" --mask="$out/mask.png" --resample=4 --steps=32,8 \
    --samples_per_prompt=4

section "Inversion" "The noise from which DDIM samples the apple: its own caption gives it back, another changes it."
sample inversion --prompt="red apple" --prompt="green apple" --image="$image" --invert="red apple" --steps=50 \
    --sampler=ddim --guidance=1 --thresholding=none --spacing=karras

section "Between prompts and between seeds" "Six images along the interpolation."
sample between_prompts --prompt="red apple" --to_prompt="pizza" --between=6 --steps=16,4
sample between_seeds --prompt="panda" --to_seed=1 --between=6 --steps=16,4

section "Style" "Another prompt for the super-resolution stage, with a strongly noised low-resolution image."
sample style --prompt="red apple" --later_prompt="snowman" --augmentation_level=0.3 --steps=16,8 --samples_per_prompt=4

section "Enlarging an image of one's own" "A super-resolution stage alone; the image is resized for it first."
sample_from "$large" enlarged --image="$image" --prompt="red apple" --steps=8
say "All images are in $out, with a page: $page"
