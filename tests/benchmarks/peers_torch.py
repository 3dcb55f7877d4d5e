"""The peers of ``tests.benchmarks.peers``, in PyTorch: each used as its own documentation uses it.

python -m tests.benchmarks.peers_torch FOLDER {diffusers, imagen_pytorch} {prepare, train, sample} BEGAN

Prepared are the networks' files, their operations and, of the one that is imported, what it answers.
"""

import importlib.machinery
import importlib.util
import os
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.peers_work import Work, note, read_work, repeat, report

LEARNING_RATE = 1e-4
IF_TOKENS = 77
IF_GUIDANCE = 7.0
README_GUIDANCE = 3.0


def count_parameters(module: torch.nn.Module) -> int:
    """Numbers that are trained."""
    return sum(tensor.numel() for tensor in module.parameters())


def count_operations(call: Callable[[], Any]) -> int:
    """Operations of matrix products and convolutions, a multiplication and an addition being two."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return counter.get_total_flops()


def prepare_diffusers(folder: Path, work: Work) -> None:
    """Writes the network that is trained, what it answers, and the pipeline that draws with its like.

    They are two: the loss of one that learns its variance, as IF's does, is not in diffusers' training examples.
    """
    import numpy as np
    from diffusers import UNet2DConditionModel

    from tests.reference.deepfloyd_pipelines import write_if_pipeline

    settings = {key: value for key, value in work.deepfloyd.items() if not key.startswith("_")}
    settings["sample_size"] = work.resolution
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**settings | {"out_channels": 3}).eval()
    unet.save_pretrained(folder / "training" / "unet")
    noisy = torch.randn(1, 3, work.resolution, work.resolution)
    text = torch.randn(1, IF_TOKENS, settings["encoder_hid_dim"])

    def run_network() -> torch.Tensor:
        return unet(noisy, torch.tensor([500]), encoder_hidden_states=text).sample

    with torch.no_grad():
        output = run_network()
    np.savez(folder / "training" / "answer.npz", noisy=noisy, text=text, answer=output)
    note(folder, "diffusers", operations=count_operations(run_network), parameters=count_parameters(unet))

    pipeline = write_if_pipeline(settings, folder / "t5", folder / "pipeline")
    torch.save(pipeline.encode_prompt(work.prompts, device="cpu"), folder / "prompts.pt")


def train_diffusers(folder: Path, work: Work) -> Callable[[], Any]:
    """A step as in diffusers' examples of training: AdamW, gradients clipped, an average kept."""
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from diffusers.training_utils import EMAModel

    unet = UNet2DConditionModel.from_pretrained(folder / "training" / "unet").train()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=LEARNING_RATE)
    average = EMAModel(unet.parameters(), decay=0.9999, foreach=True)
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    images = torch.rand(work.batch_size, 3, work.resolution, work.resolution) * 2 - 1
    text = torch.randn(work.batch_size, IF_TOKENS, unet.config.encoder_hid_dim)

    def step() -> float:
        noise = torch.randn_like(images)
        times = torch.randint(0, 1000, (work.batch_size,))
        noisy = scheduler.add_noise(images, noise, times)
        loss = torch.nn.functional.mse_loss(unet(noisy, times, encoder_hidden_states=text).sample, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.step(unet.parameters())
        return loss.item()

    return step


def sample_diffusers(folder: Path, work: Work) -> Callable[[], Any]:
    """Pictures as in the documentation of IF: the text encoded beforehand, and its encoder not loaded."""
    from diffusers import IFPipeline

    pipeline = IFPipeline.from_pretrained(
        folder / "pipeline", text_encoder=None, tokenizer=None, safety_checker=None, feature_extractor=None,
        watermarker=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    positive, negative = torch.load(folder / "prompts.pt")
    return lambda: pipeline(
        prompt_embeds=positive, negative_prompt_embeds=negative, num_inference_steps=work.sample_steps,
        guidance_scale=IF_GUIDANCE, output_type="np",
    )  # fmt: skip


def import_imagen_pytorch() -> Any:
    """The library, on a machine without torchvision, whose parts it imports and which nothing here uses; and offline.

    A torchvision that is there but of another build of PyTorch than this one's must not be.
    """
    import kornia.augmentation  # noqa: F401
    from transformers import T5Config, T5EncoderModel, T5Tokenizer  # noqa: F401

    if importlib.util.find_spec("torchvision") is None:
        for name in ("torchvision", "torchvision.transforms"):
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
        sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]
    # While it is imported it asks the hub for the width of a text encoder, for a default that is not used here.
    T5Config.from_pretrained = classmethod(lambda kind, name: kind(d_model=768))
    import imagen_pytorch

    return imagen_pytorch


def make_imagen(work: Work) -> Any:
    """``Imagen`` with one U-Net."""
    library = import_imagen_pytorch()
    torch.manual_seed(0)
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in work.imagen_pytorch.items()}
    unet = library.Unet(text_embed_dim=work.text_width, **given)
    return library.Imagen(
        unets=unet, image_sizes=work.resolution, timesteps=work.sample_steps, text_embed_dim=work.text_width
    )


def prepare_imagen_pytorch(folder: Path, work: Work) -> None:
    """Counts the operations that ours are sized by."""
    unet = make_imagen(work).unets[0]
    noisy = torch.randn(1, 3, work.resolution, work.resolution)
    text = torch.randn(1, work.text_length, work.text_width)
    operations = count_operations(lambda: unet(noisy, torch.zeros(1), text_embeds=text))
    note(folder, "imagen_pytorch", operations=operations, parameters=count_parameters(unet))


def train_imagen_pytorch(folder: Path, work: Work) -> Callable[[], Any]:
    """A step as in its README: Adam, gradients as they are, an average kept of every tenth step."""
    imagen = make_imagen(work)
    trainer = import_imagen_pytorch().ImagenTrainer(imagen, lr=LEARNING_RATE)
    images = torch.rand(work.batch_size, 3, work.resolution, work.resolution)
    text = torch.randn(work.batch_size, work.text_length, work.text_width)

    def step() -> float:
        loss = trainer(images, text_embeds=text, unet_number=1)
        trainer.update(unet_number=1)
        return loss

    return step


def sample_imagen_pytorch(folder: Path, work: Work) -> Callable[[], Any]:
    """Pictures as in its README."""
    imagen = make_imagen(work)
    text = torch.randn(work.pictures, work.text_length, work.text_width)
    return lambda: imagen.sample(text_embeds=text, cond_scale=README_GUIDANCE, use_tqdm=False)


PREPARE = {"diffusers": prepare_diffusers, "imagen_pytorch": prepare_imagen_pytorch}
TRAIN = {"diffusers": train_diffusers, "imagen_pytorch": train_imagen_pytorch}
SAMPLE = {"diffusers": sample_diffusers, "imagen_pytorch": sample_imagen_pytorch}


def run(folder: Path, contender: str, task: str, work: Work, began: float) -> str:
    """Does a task and returns the line about it."""
    if task == "train":
        return report(contender, task, work.batch_size, repeat(TRAIN[contender](folder, work), work.train_steps, began))
    return report(contender, task, work.pictures, repeat(SAMPLE[contender](folder, work), 1 + work.draws, began))


def main() -> None:
    """Does what the command line says."""
    began = time.time() if len(sys.argv) < 5 else float(sys.argv[4])
    folder, contender, task = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    torch.set_num_threads(os.cpu_count() or 1)
    work = read_work(folder)
    if task == "prepare":
        PREPARE[contender](folder, work)
    else:
        print(run(folder, contender, task, work, began))


if __name__ == "__main__":
    main()
