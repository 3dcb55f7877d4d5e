"""The peer of ``tests.benchmarks.equal_cost``: imagen-pytorch with its defaults, as its README uses it.

python -m tests.benchmarks.equal_cost_torch FOLDER size              -> peer.json: the width that has as many parameters
python -m tests.benchmarks.equal_cost_torch FOLDER train SECONDS     -> trains until the processor has worked so long
python -m tests.benchmarks.equal_cost_torch FOLDER draw              -> peer_train.npy, peer_validation.npy
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.benchmarks.equal_cost_work import (
    BATCH,
    RESOLUTION,
    SAMPLING_STEPS,
    SAVE_SECONDS,
    Progress,
    read_data,
    read_peer,
    write_peer,
)
from tests.benchmarks.peers_torch import README_GUIDANCE, count_parameters, import_imagen_pytorch

DRAWN_AT_ONCE = 32


def make_unet(width: int, text_width: int) -> Any:
    """Its ``Unet`` with every default but the width of the text."""
    torch.manual_seed(0)
    return import_imagen_pytorch().Unet(dim=width, text_embed_dim=text_width)


def find_width(parameters: int, text_width: int) -> tuple[int, int]:
    """The multiple of eight whose network comes nearest to a number of parameters, and that network's."""
    counts: dict[int, int] = {}
    for width in range(8, 513, 8):
        counts[width] = count_parameters(make_unet(width, text_width))
        if counts[width] > parameters:
            break
    width = min(counts, key=lambda one: abs(counts[one] - parameters))
    return width, counts[width]


def make_trainer(folder: Path) -> Any:
    """``ImagenTrainer`` with its defaults, as it was left."""
    library = import_imagen_pytorch()
    peer = read_peer(folder)
    unet = make_unet(peer["width"], peer["text_width"])
    imagen = library.Imagen(
        unets=unet, image_sizes=RESOLUTION, timesteps=SAMPLING_STEPS, text_embed_dim=peer["text_width"]
    )
    trainer = library.ImagenTrainer(imagen, verbose=False)
    if (folder / "peer.pt").exists():
        trainer.load(str(folder / "peer.pt"))
    return trainer


def shuffle_forever(count: int, seed: int) -> Iterator[np.ndarray]:
    """Batches of numbers, each epoch in an order of its own."""
    generator = np.random.default_rng(seed)
    waiting = np.zeros(0, int)
    while True:
        while len(waiting) < BATCH:
            waiting = np.concatenate([waiting, generator.permutation(count)])
        yield waiting[:BATCH]
        waiting = waiting[BATCH:]


def train(folder: Path, seconds: float) -> None:
    """Trains until this and all earlier calls have used so many seconds of the processor."""
    progress = Progress(folder / "peer_progress.json")
    trainer = make_trainer(folder)
    data = read_data(folder)
    images = torch.from_numpy(data["train_images"]).permute(0, 3, 1, 2).float() / 255
    text, mask = torch.from_numpy(data["train_text"]).float(), torch.from_numpy(data["train_mask"])
    saved = time.process_time()
    for chosen in shuffle_forever(len(images), progress.steps):
        loss = trainer(images[chosen], text_embeds=text[chosen], text_masks=mask[chosen], unet_number=1)
        trainer.update(unet_number=1)
        progress.add(time.process_time(), loss)
        ends = progress.seconds >= seconds
        if ends or time.process_time() - saved > SAVE_SECONDS:
            saved = time.process_time()
            trainer.save(str(folder / "peer.pt"), overwrite=True)
            progress.keep()
            print(f"imagen-pytorch: {progress.describe()}", flush=True)
        if ends:
            return


def draw(folder: Path) -> None:
    """The pictures of its averaged parameters."""
    trainer = make_trainer(folder)
    data = read_data(folder)
    for split in ("train", "validation"):
        chosen = data[f"{split}_drawn"]
        text, mask = (torch.from_numpy(data[f"{split}_{kind}"][chosen]) for kind in ("text", "mask"))
        parts = []
        torch.manual_seed(0)
        for start in range(0, len(text), DRAWN_AT_ONCE):
            part = slice(start, start + DRAWN_AT_ONCE)
            images = trainer.sample(
                text_embeds=text[part].float(), text_masks=mask[part], cond_scale=README_GUIDANCE, use_tqdm=False
            )
            parts.append(images.permute(0, 2, 3, 1).numpy())
        np.save(folder / f"peer_{split}.npy", np.rint(np.clip(np.concatenate(parts), 0, 1) * 255).astype(np.uint8))


def main() -> None:
    """Does what the command line says."""
    folder, task = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(os.cpu_count() or 1)
    if task == "size":
        data, parameters = read_data(folder), int(json.loads((folder / "ours.json").read_text())["parameters"])
        text_width = int(data["train_text"].shape[-1])
        width, count = find_width(parameters, text_width)
        write_peer(folder, {"width": width, "parameters": count, "text_width": text_width})
    elif task == "train":
        train(folder, float(sys.argv[3]))
    else:
        draw(folder)


if __name__ == "__main__":
    main()
