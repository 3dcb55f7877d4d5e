"""Compares a training step of ViT-B/32 with open_clip's, in turns on one machine.

    python tests/benchmarks/clip_step.py [--batch=16] [--steps=3] [--rounds=3]

Both train the same network (151.3M parameters, float32) on the same shapes: forward, contrastive loss, gradient, AdamW.
Each side runs in a process of its own, one after the other, in each round. The table has the median of the rounds, in
pairs per second, and the peak memory. Run it alone on the machine, with the environment of the parity tests, which has
torch and open_clip_torch.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
sys.path.insert(0, str(CHECKOUT))

MODEL = {
    "embed_dim": 512,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
}


def time_ours(batch: int, steps: int) -> float:
    """Returns pairs per second of our step."""
    import jax
    import numpy as np

    from configs.clip import published
    from imagen_jax.tasks.clip import clip_task
    from imagen_jax.training.compiled_training import make_training

    config = published.get_config("b32")
    config.training.batch_size = batch
    for tower in (config.image_tower, config.text_tower):
        tower.update({"remat": "none", "scan": False, "dtype": "float32"})
    training = make_training(clip_task(config))
    step, state = training.compile(), training.make_state()
    generator = np.random.default_rng(0)

    def draw(shape):
        if shape.dtype == np.int32:
            return generator.integers(1, 49_000, shape.shape, np.int32)
        return generator.uniform(-1, 1, shape.shape).astype(np.float32)

    pairs = jax.tree.map(draw, training.batch)
    seconds = []
    for _ in range(steps + 1):
        began = time.perf_counter()
        state, metrics = step(state, pairs)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - began)
    return batch / statistics.median(seconds[1:])


def time_open_clip(batch: int, steps: int) -> float:
    """Returns pairs per second of open_clip's step."""
    import torch

    from tests.reference.open_clip_modules import load_open_clip

    model = load_open_clip("model").CLIP(**MODEL)
    loss_of = load_open_clip("loss").ClipLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2)
    images, texts = torch.rand(batch, 3, 224, 224) * 2 - 1, torch.randint(1, 49_000, (batch, 77))
    seconds = []
    for _ in range(steps + 1):
        began = time.perf_counter()
        optimizer.zero_grad()
        image_features, text_features, scale = model(images, texts)
        loss_of(image_features, text_features, scale).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - began)
    return batch / statistics.median(seconds[1:])


SIDES = {"imagen_jax": time_ours, "open_clip": time_open_clip}


def main() -> None:
    """Times one side, or both in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=list(SIDES))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.side:
        rate = SIDES[arguments.side](arguments.batch, arguments.steps)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"rate": rate, "peak_gib": peak}))
        return
    rows: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(arguments.rounds):
        for side in SIDES:
            command = [
                sys.executable,
                __file__,
                f"--side={side}",
                f"--batch={arguments.batch}",
                f"--steps={arguments.steps}",
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
            rows[side].append(json.loads(done.stdout.splitlines()[-1]))
            print(side, rows[side][-1], flush=True)
    print(f"\n| ViT-B/32, batch {arguments.batch} | pairs per second | peak memory, GiB |\n|---|---|---|")
    medians = {
        side: [statistics.median(row[key] for row in found) for key in ("rate", "peak_gib")]
        for side, found in rows.items()
    }
    for side, (rate, peak) in medians.items():
        print(f"| {side} | {rate:.2f} | {peak:.2f} |")
    print(f"\nratio imagen_jax / open_clip: {medians['imagen_jax'][0] / medians['open_clip'][0]:.2f}")


if __name__ == "__main__":
    main()
