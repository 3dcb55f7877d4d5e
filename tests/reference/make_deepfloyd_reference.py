"""Writes tests/golden/deepfloyd_reference.npz: what diffusers' UNet2DConditionModel makes of small seeded IF U-Nets.

Run it from the repository's root, in any environment with torch and diffusers::

    pip install torch diffusers
    python -m tests.reference.make_deepfloyd_reference

For each of ``deepfloyd_models.SETTINGS`` the file holds the output, and of each tensor its name and shape, and the norm
and one seeded projection of its gradient.
"""

import json
import zlib
from pathlib import Path

import numpy as np

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


def main() -> None:
    arrays = {}
    for name in SETTINGS:
        tensors, output, gradients = compute(name)
        shapes = {key: tensor.shape for key, tensor in tensors.items()}
        arrays[f"{name}/shapes"] = np.array(json.dumps(shapes))
        arrays[f"{name}/output"] = output
        arrays[f"{name}/gradients"] = np.stack([project(key, gradients[key]) for key in tensors])
    np.savez_compressed(GOLDEN, **arrays)
    print(f"{GOLDEN}: {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
