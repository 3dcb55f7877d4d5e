#!/usr/bin/env bash
# Samples and edits with the bundled cascade in every way that the sampler supports, and writes a page of it: each image
# with its command. Existing images are kept. About twenty minutes on two CPU cores the first time: it trains a
# classifier too.
#
#     bash launch/sampling_tour.sh
#     OUT=pictures STAGES=runs/quickstart/base,runs/quickstart/super_resolution bash launch/sampling_tour.sh
#
# OUT is the folder of the images (runs/tour), and STAGES another cascade of two stages, without spaces in its names.
set -euo pipefail
# shellcheck source=launch/set_up.sh
source "$(dirname "${BASH_SOURCE[0]}")/set_up.sh"
take_no_arguments "$@"
run_dir=${RUN_DIR:+$(cd "$RUN_DIR" && pwd)}
set_up
out=${OUT:-runs/tour}
base=imagen_jax/pretrained/openmoji/base
large=imagen_jax/pretrained/openmoji/super_resolution
stages=()
if [[ -n ${STAGES:-} ]]; then
    base=${STAGES%%,*}
    large=${STAGES#*,}
    stages=(--stages="$STAGES")
    [[ -d $base && -d $large ]] || fail "STAGES=$STAGES is not a base and a super-resolution stage: give two folders."
fi
classifier=$out/classifier
mkdir -p "$out"
page=$out/README.md
cat >"$page" <<'PAGE'
# Every way to sample

Written by `bash launch/sampling_tour.sh`: the command under each image made it. The cascade is the bundled one: a base of
64 px and a stage to 256 px. It learned OpenMoji's drawings, which are CC BY-SA 4.0, and so are these images.

A setting such as `--steps=16,2` has one value for the base and one for the super-resolution stage.
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
    lines+=$line
    printf '\n![%s](%s.png)\n\n```sh\n%s\n```\n' "$name" "$name" "${lines# }" >>"$page"
}

# Usage: copy FILE NAME   A copy with 256 colours, for the page.
copy() {
    "$python" -c 'import sys
from PIL import Image
Image.open(sys.argv[1]).convert("RGB").quantize(256).save(sys.argv[2], optimize=True)' "$1" "$out/$2.png"
}

# Usage: sample NAME ARGUMENT...
sample() {
    local name=$1
    shift
    say "$name"
    "$python" -m imagen_jax sample --out="$out/$name" ${stages[@]+"${stages[@]}"} "$@"
    copy "$out/$name/grid.png" "$name"
    show "$name" imagen-jax sample ${stages[@]+"${stages[@]}"} "$@" --out="$out/$name"
}

# Usage: grid NAME ARGUMENT...   A grid of settings, sampled by the base alone.
grid() {
    local name=$1
    shift
    say "$name"
    [[ -f $out/$name.png ]] || "$python" launch/sampling_grids.py "$@" --base="$base" --out="$out/$name.png"
    show "$name" python launch/sampling_grids.py "$@" --base="$base" --out="$out/$name.png"
}

words=(--prompt="red apple" --prompt=panda --prompt=sunflower --prompt=pizza)

section "Samplers and steps" "One image of the base for each sampler and number of steps, from the same noise. Heun calls \
the network twice in a step. Those without new noise (DDIM, DPM-Solver++, Heun, UniPC) come to nearly the same image \
with more steps. The distance of images to the training images, by sampler and number of steps, for the quickstart's \
cascade: [the curve](distance_by_steps.png), [the table](../../../tests/benchmarks/distance_by_steps.md)."
grid samplers_and_steps samplers

section "Samplers" "The whole cascade with sixteen steps of the base. The first two add noise at every step; the others \
follow one path from the same noise, DPM-Solver++ and UniPC along curves instead of lines."
for sampler in ancestral dpm_solver_2m_sde ddim dpm_solver_2m heun unipc; do
    sample "sampler_$sampler" "${words[@]}" --sampler="$sampler,ddim" --steps=16,2
done

section "Guidance" "The weight, in the paper's convention: 1 is no guidance. Each row is a prompt, sampled by the base."
grid guidance_weights guidance
sample guidance_1 "${words[@]}" --guidance=1
sample guidance_3 "${words[@]}" --guidance=3,1

section "Guidance in an interval" "Guidance only between two log-SNRs. Outside them the network is called once."
sample guidance_interval "${words[@]}" --guidance=3,1 --guidance_interval=-5,3

section "Negative prompts" "A prompt that guidance uses instead of the null prompt. First without."
sample heart --prompt=heart --samples_per_prompt=4 --guidance=3,1
sample negative_prompt --prompt=heart --negative_prompt="red heart" --samples_per_prompt=4 --guidance=3,1

section "Thresholding" "At a high weight the estimate leaves the range of images. Static thresholding clips it. \
Dynamic thresholding divides by a percentile. It is made for photos and turns drawings on pure \
white into drawings on grey."
grid thresholds thresholds
sample static_threshold "${words[@]}" --guidance=4,1
sample dynamic_threshold "${words[@]}" --guidance=4,1 --thresholding=dynamic,static

section "Classifier guidance" "Towards a class of a small classifier of noisy images, here one of Unicode's nine \
groups of emoji. First without."
train_classifier=(train_classifier --config=configs/openmoji_classifier.py --config.classifier.resolution=64
    --config.classifier.patch=4 --config.training.steps=500 --config.optimizer.decay_steps=500)
"$python" -m imagen_jax "${train_classifier[@]}" --workdir="$classifier"
sample red --prompt=red --samples_per_prompt=4 --guidance=1
for class in "Flags" "Smileys & Emotion"; do
    sample "towards_${class%% *}" --prompt=red --samples_per_prompt=4 --guidance=1 \
        --classifier="$classifier" --classifier_class="$class" --classifier_scale=20
done
# shellcheck disable=SC2016
printf '\nThe classifier was trained by\n\n```sh\n%s \\\n    %s \\\n    %s\n```\n' \
    "imagen-jax ${train_classifier[*]:0:2}" "${train_classifier[*]:2}" "--workdir=tour/classifier" >>"$page"

section "Many images of one prompt" "Each is a function of the weights, the prompt, the seed and its index."
sample several --prompt="red apple" --samples_per_prompt=4
image=$(echo "$out"/several/red_apple-*-seed0-0.png)
copy "$image" apple
image=$out/apple.png

section "Image to image" "The first of these apples, noised by 0.6 and denoised with another prompt."
sample image_to_image --prompt="green apple" --image="$image" --strength=0.6 --steps=32,4 --samples_per_prompt=4

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
sample inpainting --prompt="red apple" --image="$image" --mask="$out/mask.png" --resample=4 --steps=32,4 \
    --samples_per_prompt=4

section "Inversion" "The noise from which DDIM samples the apple: its own caption gives it back, another changes it."
sample inversion --prompt="red apple" --prompt="green apple" --image="$image" --invert="red apple" --steps=50,10 \
    --guidance=1 --thresholding=none --spacing=karras

section "Between prompts and between seeds" "Six images along the interpolation."
sample between_prompts --prompt="red apple" --to_prompt=pizza --between=6
sample between_seeds --prompt=panda --to_seed=1 --between=6

section "Style" "Another prompt for the super-resolution stage, with a strongly noised low-resolution image."
sample style --prompt="red apple" --later_prompt=snowman --augmentation_level=0.3 --steps=16,8 --samples_per_prompt=4

section "Enlarging an image of one's own" "A super-resolution stage alone; the image is resized for it first."
stages=(--stages="$large")
sample enlarged --image="$image" --prompt="red apple" --steps=8
say "All images are in $out, with a page: $page"
