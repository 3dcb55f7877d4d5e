"""A small Karlo pipeline of diffusers with random weights, and its images from the noises of our sampler."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from tests.reference.clip_folders import END, write_tokenizer
from tests.reference.karlo_models import SCHEDULERS, TOKENS, VECTOR, make_module

PROMPTS = ("the cat", "a panda's cat")
SEED = 3
STEPS = (5, 4, 7)
"""Steps of prior, decoder and super-resolution."""

SHAPES = ((VECTOR,), (16, 16, 3), (32, 32, 3))
TEXT = {"hidden_size": VECTOR, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": TOKENS, "vocab_size": END + 1, "eos_token_id": END, "bos_token_id": END - 1,
        "projection_dim": VECTOR}  # fmt: skip
IMAGE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
         "image_size": 32, "patch_size": 8, "projection_dim": VECTOR}  # fmt: skip


def in_double(scheduler: Any) -> Any:
    """A scheduler whose numbers have double precision; samples keep theirs.

    In single precision, 1 - α̅ of the cleanest step has an error of 5e-4, by which the last step shrinks the sample.
    """
    import torch

    scheduler.betas = scheduler.betas.double()
    scheduler.alphas = 1.0 - scheduler.betas
    scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, dim=0)
    scheduler.one = scheduler.one.double()
    return scheduler


def make_components(folder: Path) -> dict[str, Any]:
    """The components of both pipelines; ``folder`` is for files of the tokenizer."""
    import torch
    from diffusers import UnCLIPScheduler
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

    torch.manual_seed(7)
    write_tokenizer(folder)
    text_encoder = CLIPTextModelWithProjection(CLIPTextConfig(**TEXT)).eval()
    with torch.no_grad():
        for parameter in text_encoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    # Karlo pads with token 0, which is a token of captions too.
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=TOKENS, pad_token="!")
    networks = ("prior", "decoder", "text_proj", "super_res_first", "super_res_last")
    return {
        **{name: make_module(name) for name in networks},
        **{name: in_double(UnCLIPScheduler(**settings)) for name, settings in SCHEDULERS.items()},
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
    }


def make_pipeline(folder: Path) -> Any:
    """The pipeline from prompts to images."""
    from diffusers import UnCLIPPipeline

    return UnCLIPPipeline(**make_components(folder))


def make_variation_pipeline(folder: Path) -> Any:
    """The pipeline from images to variations of them."""
    import torch
    from diffusers import UnCLIPImageVariationPipeline
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    components = make_components(folder)
    for name in ("prior", "prior_scheduler"):
        components.pop(name)
    torch.manual_seed(8)
    image_encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**IMAGE)).eval()
    with torch.no_grad():
        for parameter in image_encoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    size = IMAGE["image_size"]
    extractor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    return UnCLIPImageVariationPipeline(**components, image_encoder=image_encoder, feature_extractor=extractor)


def noises(stages: Sequence[int], prompts: Sequence[str], indices: Sequence[int]) -> Iterator[np.ndarray]:
    """The noises that our sampler draws, channels first, in the order in which diffusers asks for them.

    Args:
        stages: the stages of the cascade, as numbers in ``SHAPES``.
        prompts: the prompts.
        indices: index of each image among those of its prompt.
    """
    from imagen_jax.cascade.stage_inputs import keys_of_prompts
    from imagen_jax.sampling.sampler import fold_into_each, normal_for_each

    for number, stage in enumerate(stages):
        keys = fold_into_each(fold_into_each(keys_of_prompts(SEED, prompts, indices), number), 0)
        # The last step, onto the clean sample, asks for none.
        for step in range(STEPS[stage]):
            drawn = np.array(normal_for_each(fold_into_each(keys, step), SHAPES[stage]))
            yield np.moveaxis(drawn, -1, 1).copy() if drawn.ndim == 4 else drawn


@contextlib.contextmanager
def fed_with(fed: Iterator[np.ndarray]) -> Iterator[None]:
    """Lets diffusers take its noises from an iterator, and checks that it takes all."""
    import torch
    from diffusers.pipelines.deprecated.unclip import pipeline_unclip, pipeline_unclip_image_variation
    from diffusers.schedulers import scheduling_unclip

    def give(shape: Any, **_: Any) -> Any:
        noise = torch.from_numpy(next(fed))
        # The decoder's noise has the shape of its output, without the variance.
        assert noise.shape == tuple(shape)
        return noise

    with contextlib.ExitStack() as stack:
        for module in (pipeline_unclip, pipeline_unclip_image_variation, scheduling_unclip):
            stack.enter_context(mock.patch.object(module, "randn_tensor", give))
        yield
    assert next(fed, None) is None


def draw(pipeline: Any) -> np.ndarray:
    """Draws ``PROMPTS``; images in [0, 1], channels last."""
    pipeline.set_progress_bar_config(disable=True)
    with fed_with(noises((0, 1, 2), PROMPTS, (0, 0))):
        return pipeline(
            list(PROMPTS),
            prior_num_inference_steps=STEPS[0],
            decoder_num_inference_steps=STEPS[1],
            super_res_num_inference_steps=STEPS[2],
            output_type="np",
        ).images


def embed(pipeline: Any, images: Sequence[Any]) -> np.ndarray:
    """The embeddings of images by a pipeline's image encoder."""
    pixels = pipeline.feature_extractor(images=list(images), return_tensors="pt").pixel_values
    return pipeline.image_encoder(pixels).image_embeds.detach().numpy()


def vary(pipeline: Any, images: Sequence[Any]) -> np.ndarray:
    """Draws one variation of each image; images in [0, 1], channels last."""
    pipeline.set_progress_bar_config(disable=True)
    with fed_with(noises((1, 2), [""] * len(images), range(len(images)))):
        return pipeline(
            list(images),
            decoder_num_inference_steps=STEPS[1],
            super_res_num_inference_steps=STEPS[2],
            output_type="np",
        ).images
