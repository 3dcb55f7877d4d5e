"""Writes tests/golden/deepfloyd_reference.npz: what diffusers' UNet2DConditionModel makes of small seeded IF U-Nets.

Run it from the repository's root, after ``bash launch/test.sh --with-references``::

    .venv/bin/python -m tests.reference.make_deepfloyd_reference

For each of ``deepfloyd_models.SETTINGS`` the file holds the output, and of each tensor its name and shape, and the norm
and one seeded projection of its gradient. For the cascade of ``deepfloyd_folders`` it holds the pictures of each stage,
drawn by diffusers' pipelines from the noise that our sampler draws (the one thing here that is ours).

A network with random weights is touchy: what changes in stage I's picture comes out of stage II 300 times larger. So
stage II is compared on one and the same small image.
"""

import contextlib
import json
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np

from tests.reference.deepfloyd_folders import SIZES, write_stage
from tests.reference.deepfloyd_models import SETTINGS, make_inputs, make_tensors

GOLDEN = Path(__file__).parents[1] / "golden" / "deepfloyd_reference.npz"


def project(name: str, gradient: np.ndarray) -> np.ndarray:
    """Norm of a gradient, and its product with seeded signs."""
    signs = np.random.default_rng(zlib.crc32(name.encode()) + 1).choice([-1.0, 1.0], gradient.shape)
    return np.array([np.linalg.norm(gradient), np.sum(gradient * signs) / np.sqrt(gradient.size)])


def compute(name: str) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, np.ndarray]]:
    """The seeded tensors of a model by diffusers' names, its output (channels last), and each tensor's gradient."""
    import torch
    from diffusers import UNet2DConditionModel

    settings = {key: value for key, value in SETTINGS[name].items() if not key.startswith("_")}
    network = UNet2DConditionModel(**settings)
    tensors = make_tensors({name: tuple(tensor.shape) for name, tensor in network.state_dict().items()})
    network.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()})
    inputs = {key: torch.from_numpy(array) for key, array in make_inputs(name).items()}

    def channels_first(array):
        return array.permute(0, 3, 1, 2)

    image, labels = channels_first(inputs["noisy"]), None
    if settings["in_channels"] == 6:
        image = torch.cat([image, channels_first(inputs["condition"])], dim=1)
        labels = inputs["augmentation_steps"]
    output = network(image, inputs["steps"], inputs["text"], class_labels=labels).sample
    (output * channels_first(inputs["cotangent"])).sum().backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in network.named_parameters()}
    return tensors, output.detach().permute(0, 2, 3, 1).numpy(), gradients


PROMPTS = ("Red apple", "a panda eating bamboo in the rain")
SEED = 3
STEPS = {"stage_1": 12, "stage_2": 6}


def noises(stage: str) -> Iterator[np.ndarray]:
    """The noises that our sampler draws for a stage, channels first, in the order in which diffusers asks for them."""
    from imagen_jax.cascade.stage_inputs import keys_of_prompts
    from imagen_jax.sampling.sampler import fold_into_each, normal_for_each

    number, size = list(SIZES).index(stage), SIZES[stage]
    keys = fold_into_each(keys_of_prompts(SEED, PROMPTS, [0] * len(PROMPTS)), number)
    trajectory_keys = fold_into_each(keys, 0)
    for one in [fold_into_each(trajectory_keys, 0), *([fold_into_each(keys, 1)] if number else [])]:
        yield np.array(normal_for_each(one, (size, size, 3))).transpose(0, 3, 1, 2)
    for step in range(STEPS[stage]):
        yield np.array(normal_for_each(fold_into_each(trajectory_keys, step + 1), (size, size, 3))).transpose(
            0, 3, 1, 2
        )


def draw(stage: str, pipeline, small: np.ndarray | None = None) -> np.ndarray:
    """Draws ``PROMPTS`` with a pipeline of diffusers fed with ``noises``.

    Args:
        stage: "stage_1" or "stage_2".
        pipeline: of that stage.
        small: the images that stage II enlarges, in [-1, 1], channels last.

    Returns:
        Images in [-1, 1], channels last.
    """
    import torch
    from diffusers.pipelines.deepfloyd_if import pipeline_if, pipeline_if_superresolution
    from diffusers.schedulers import scheduling_ddpm

    fed = noises(stage)

    def give(shape, **_):
        noise = torch.from_numpy(next(fed))
        assert noise.shape == shape
        return noise

    condition = {} if small is None else {"image": torch.from_numpy(small.copy()).permute(0, 3, 1, 2)}
    modules = (pipeline_if, pipeline_if_superresolution, scheduling_ddpm)
    with contextlib.ExitStack() as stack:
        for module in modules:
            stack.enter_context(mock.patch.object(module, "randn_tensor", give))
        pipeline.set_progress_bar_config(disable=True)
        images = pipeline(list(PROMPTS), num_inference_steps=STEPS[stage], output_type="pt", **condition).images
    return images.clamp(-1, 1).permute(0, 2, 3, 1).numpy()


def load_pipelines(folder: Path) -> tuple:
    """Both pipelines from a folder with ``stage_1`` and ``stage_2`` in it."""
    from diffusers import DDPMScheduler, IFPipeline, IFSuperResolutionPipeline, UNet2DConditionModel
    from transformers import T5EncoderModel, T5Tokenizer

    pipelines = []
    for stage, kind in (("stage_1", IFPipeline), ("stage_2", IFSuperResolutionPipeline)):
        target = folder / stage
        noising = {}
        if stage == "stage_2":
            noising = {"image_noising_scheduler": DDPMScheduler.from_pretrained(target / "image_noising_scheduler")}
        pipelines.append(
            kind(
                unet=UNet2DConditionModel.from_pretrained(target / "unet"),
                scheduler=DDPMScheduler.from_pretrained(target / "scheduler"),
                tokenizer=T5Tokenizer.from_pretrained(target / "tokenizer", extra_ids=0),
                text_encoder=T5EncoderModel.from_pretrained(target / "text_encoder"),
                safety_checker=None,
                feature_extractor=None,
                watermarker=None,
                requires_safety_checker=False,
                **noising,
            )
        )
    return tuple(pipelines)


def main() -> None:
    arrays = {}
    for name in SETTINGS:
        tensors, output, gradients = compute(name)
        shapes = {key: tensor.shape for key, tensor in tensors.items()}
        arrays[f"{name}/shapes"] = np.array(json.dumps(shapes))
        arrays[f"{name}/output"] = output
        arrays[f"{name}/gradients"] = np.stack([project(key, gradients[key]) for key in tensors])
    with tempfile.TemporaryDirectory() as folder:
        for stage in SIZES:
            write_stage(Path(folder) / stage, stage, json.loads(str(arrays[f"{stage}/shapes"])))
        base, large = load_pipelines(Path(folder))
    small = draw("stage_1", base)
    arrays["stage_1/images"] = small
    arrays["stage_2/images"] = draw("stage_2", large, small).astype(np.float16)
    np.savez_compressed(GOLDEN, **arrays)
    print(f"{GOLDEN}: {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
