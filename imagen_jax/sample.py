"""Draws pictures for prompts with a trained cascade.

    python -m imagen_jax.sample --stages=runs/base,runs/super_resolution --prompt="panda" --out=pictures

Writes one PNG a picture, with its prompt, seed and settings in the file's metadata, and ``grid.png`` of all.
Settings that are not given are those of each stage's config.
"""

import contextlib
import time
from collections.abc import Sequence

import numpy as np
from absl import flags
from tqdm import tqdm

from imagen_jax.cascades import Cascade, load_cascade
from imagen_jax.command_line import run_main
from imagen_jax.errors import UserError
from imagen_jax.sampling.pictures import file_name, labelled_grid, make_folder, save_png, to_pixels
from imagen_jax.storage.paths import Path, to_path

STAGES = flags.DEFINE_list("stages", [], "Workdirs of the stages, base first, with commas between.")
PROMPTS = flags.DEFINE_multi_string("prompt", [], "What to draw; give it again for more pictures.")
NEGATIVE_PROMPT = flags.DEFINE_string("negative_prompt", None, "What guidance leads away from, instead of no caption.")
OUT = flags.DEFINE_string("out", None, "Folder for the pictures.", required=True)
GUIDANCE = flags.DEFINE_list("guidance", None, "Guidance weight w; 1 is none. One, or one for each stage.")
STEPS = flags.DEFINE_list("steps", None, "Denoising steps. One, or one for each stage.")
SAMPLER = flags.DEFINE_list("sampler", None, "ancestral or ddim. One, or one for each stage.")
THRESHOLDING = flags.DEFINE_list("thresholding", None, "none, static or dynamic. One, or one for each stage.")
AUGMENTATION = flags.DEFINE_list("augmentation_level", None, "Noise on the low-resolution image, 0 to 1.")
SEED = flags.DEFINE_integer("seed", 0, "The same seed, prompt and weights give the same picture.")
SAMPLES = flags.DEFINE_integer("samples_per_prompt", 1, "Pictures for each prompt.", lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Pictures drawn at once.", lower_bound=1)


def main(arguments: Sequence[str]) -> None:
    """Draws and writes."""
    if arguments[1:]:
        raise UserError(f"{arguments[1]!r} is no flag: give each prompt as --prompt='…'")
    prompts = [prompt.strip() for prompt in PROMPTS.value if prompt.strip()]
    if not prompts:
        raise UserError("there is nothing to draw: give at least one prompt, as in --prompt='red apple'")
    if not STAGES.value:
        raise UserError(
            "no stages are named: give the workdirs of a trained cascade, as in --stages=runs/base,runs/large"
        )
    out = to_path(OUT.value)
    make_folder(out)
    check_readable([*prompts, *filter(None, [NEGATIVE_PROMPT.value])])

    overrides = read_overrides()
    wanted = [(prompt, index) for prompt in prompts for index in range(SAMPLES.value)]
    with contextlib.ExitStack() as stack:
        cascade = load_cascade(STAGES.value, overrides, min(BATCH_SIZE.value, len(wanted)), lambda step: bar.update())
        steps = cascade.total_steps * -(-len(wanted) // cascade.batch_size)
        bar = stack.enter_context(tqdm(desc="Sampling", total=steps, unit="step", dynamic_ncols=True))
        started = time.perf_counter()
        images = draw_and_write(cascade, wanted, out)
    seconds = time.perf_counter() - started
    labels = [prompt for prompt, _ in wanted]
    columns = SAMPLES.value if SAMPLES.value > 1 else min(4, len(wanted))
    save_png(out / "grid.png", labelled_grid(to_pixels(images), labels, columns), {"prompt": "; ".join(prompts)})
    print(f"{len(wanted)} picture(s) in {seconds:.1f} s, and grid.png, in {out}")


def check_readable(prompts: Sequence[str]) -> None:
    """Checks that every prompt is text.

    Raises:
        UserError: one holds bytes that are no UTF-8.
    """
    for prompt in prompts:
        if any("\ud800" <= character <= "\udfff" for character in prompt):
            raise UserError(f"the prompt {prompt!a} is not UTF-8 text: give it in a terminal that speaks UTF-8")


def read_overrides() -> dict[str, list]:
    """The keys of ``config.sampling`` that flags set, each a list of values.

    Raises:
        UserError: a value that is no number where one is wanted.
    """
    readers = {
        "guidance": (GUIDANCE, float),
        "steps": (STEPS, int),
        "sampler": (SAMPLER, str),
        "thresholding": (THRESHOLDING, str),
        "augmentation_level": (AUGMENTATION, float),
    }
    overrides = {}
    for key, (flag, read) in readers.items():
        if flag.value is not None:
            try:
                overrides[key] = [read(value) for value in flag.value]
            except ValueError:
                raise UserError(f"--{key}={','.join(flag.value)} is not a number: give for example --{key}=3") from None
    return overrides


def draw_and_write(cascade: Cascade, wanted: Sequence[tuple[str, int]], out: Path) -> np.ndarray:
    """Draws every picture, writes each as soon as its batch is done, and returns the last stage's, in order."""
    drawn = []
    prompts, indices = [prompt for prompt, _ in wanted], [index for _, index in wanted]
    batches = cascade.draw(prompts, indices, SEED.value, NEGATIVE_PROMPT.value)
    for number, stages in enumerate(batches):
        for place, image in enumerate(stages[-1]):
            prompt, index = wanted[number * cascade.batch_size + place]
            metadata = {"prompt": prompt, "seed": str(SEED.value), "index": str(index), **cascade.describe()}
            if NEGATIVE_PROMPT.value is not None:
                metadata["negative_prompt"] = NEGATIVE_PROMPT.value
            save_png(out / file_name(prompt, SEED.value, index), to_pixels(image[None])[0], metadata)
        drawn.append(stages[-1])
    return np.concatenate(drawn)


if __name__ == "__main__":
    run_main(main)
