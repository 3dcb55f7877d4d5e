"""A state dict like the published one of FID's Inception-v3, with random numbers, and images for it.

The file itself has 96 MB, and the tests do not need it.
"""

import numpy as np

# Name: outputs, inputs, height and width of the kernel, as the tensors of the published file have them.
STEM = {
    "Conv2d_1a_3x3": (32, 3, 3, 3),
    "Conv2d_2a_3x3": (32, 32, 3, 3),
    "Conv2d_2b_3x3": (64, 32, 3, 3),
    "Conv2d_3b_1x1": (80, 64, 1, 1),
    "Conv2d_4a_3x3": (192, 80, 3, 3),
}


def kernel_shapes() -> dict[str, tuple[int, int, int, int]]:
    """Of each convolution, in the file's order."""
    shapes = dict(STEM)
    for letter, inputs, pooled in (("b", 192, 32), ("c", 256, 64), ("d", 288, 64)):
        shapes |= {
            f"Mixed_5{letter}.branch1x1": (64, inputs, 1, 1),
            f"Mixed_5{letter}.branch5x5_1": (48, inputs, 1, 1),
            f"Mixed_5{letter}.branch5x5_2": (64, 48, 5, 5),
            f"Mixed_5{letter}.branch3x3dbl_1": (64, inputs, 1, 1),
            f"Mixed_5{letter}.branch3x3dbl_2": (96, 64, 3, 3),
            f"Mixed_5{letter}.branch3x3dbl_3": (96, 96, 3, 3),
            f"Mixed_5{letter}.branch_pool": (pooled, inputs, 1, 1),
        }
    shapes |= {
        "Mixed_6a.branch3x3": (384, 288, 3, 3),
        "Mixed_6a.branch3x3dbl_1": (64, 288, 1, 1),
        "Mixed_6a.branch3x3dbl_2": (96, 64, 3, 3),
        "Mixed_6a.branch3x3dbl_3": (96, 96, 3, 3),
    }
    for letter, inner in (("b", 128), ("c", 160), ("d", 160), ("e", 192)):
        shapes |= {
            f"Mixed_6{letter}.branch1x1": (192, 768, 1, 1),
            f"Mixed_6{letter}.branch7x7_1": (inner, 768, 1, 1),
            f"Mixed_6{letter}.branch7x7_2": (inner, inner, 1, 7),
            f"Mixed_6{letter}.branch7x7_3": (192, inner, 7, 1),
            f"Mixed_6{letter}.branch7x7dbl_1": (inner, 768, 1, 1),
            f"Mixed_6{letter}.branch7x7dbl_2": (inner, inner, 7, 1),
            f"Mixed_6{letter}.branch7x7dbl_3": (inner, inner, 1, 7),
            f"Mixed_6{letter}.branch7x7dbl_4": (inner, inner, 7, 1),
            f"Mixed_6{letter}.branch7x7dbl_5": (192, inner, 1, 7),
            f"Mixed_6{letter}.branch_pool": (192, 768, 1, 1),
        }
    shapes |= {
        "Mixed_7a.branch3x3_1": (192, 768, 1, 1),
        "Mixed_7a.branch3x3_2": (320, 192, 3, 3),
        "Mixed_7a.branch7x7x3_1": (192, 768, 1, 1),
        "Mixed_7a.branch7x7x3_2": (192, 192, 1, 7),
        "Mixed_7a.branch7x7x3_3": (192, 192, 7, 1),
        "Mixed_7a.branch7x7x3_4": (192, 192, 3, 3),
    }
    for letter, inputs in (("b", 1280), ("c", 2048)):
        shapes |= {
            f"Mixed_7{letter}.branch1x1": (320, inputs, 1, 1),
            f"Mixed_7{letter}.branch3x3_1": (384, inputs, 1, 1),
            f"Mixed_7{letter}.branch3x3_2a": (384, 384, 1, 3),
            f"Mixed_7{letter}.branch3x3_2b": (384, 384, 3, 1),
            f"Mixed_7{letter}.branch3x3dbl_1": (448, inputs, 1, 1),
            f"Mixed_7{letter}.branch3x3dbl_2": (384, 448, 3, 3),
            f"Mixed_7{letter}.branch3x3dbl_3a": (384, 384, 1, 3),
            f"Mixed_7{letter}.branch3x3dbl_3b": (384, 384, 3, 1),
            f"Mixed_7{letter}.branch_pool": (192, inputs, 1, 1),
        }
    return shapes


def random_tensors() -> dict[str, np.ndarray]:
    """Tensors by the published names, with which features are alive and differ from image to image."""
    draws = np.random.default_rng(2015)
    tensors: dict[str, np.ndarray] = {}
    for name, shape in kernel_shapes().items():
        kernel = draws.standard_normal(shape, np.float32)
        # Activations are positive; kernels that answered to their mean would soon answer to nothing else.
        kernel -= kernel.mean(axis=(1, 2, 3), keepdims=True)
        tensors[f"{name}.conv.weight"] = kernel * np.float32(1.2 / np.prod(shape[1:]) ** 0.5)
        tensors |= {
            f"{name}.bn.weight": draws.uniform(0.8, 1.2, shape[0]).astype(np.float32),
            f"{name}.bn.bias": draws.uniform(-0.1, 0.1, shape[0]).astype(np.float32),
            f"{name}.bn.running_mean": draws.uniform(-0.1, 0.1, shape[0]).astype(np.float32),
            f"{name}.bn.running_var": draws.uniform(0.3, 0.7, shape[0]).astype(np.float32),
            f"{name}.bn.num_batches_tracked": np.array(7, np.int64),
        }
    tensors["fc.weight"] = draws.standard_normal((1008, 2048), np.float32) / np.float32(2048**0.5)
    tensors["fc.bias"] = draws.standard_normal(1008, np.float32)
    return tensors


def make_images(height: int = 230, width: int = 310, count: int = 3) -> np.ndarray:
    """Images with much contrast, fine and coarse."""
    draws = np.random.default_rng(299)
    coarse = draws.integers(0, 256, (count, 1 + height // 32, 1 + width // 32, 3))
    coarse = coarse.repeat(32, axis=1).repeat(32, axis=2)[:, :height, :width]
    fine = draws.integers(-96, 97, (count, height, width, 3))
    return np.clip(coarse + fine, 0, 255).astype(np.uint8)
