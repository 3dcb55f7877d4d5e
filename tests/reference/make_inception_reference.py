"""Writes tests/golden/inception_reference.npz: what torch-fidelity makes of pictures, with random weights.

Run it from the repository's root, in any environment with torch; the libraries are pure Python, and their
requirements are not needed here::

    pip install torch==2.13.0
    pip install --no-deps pytorch-fid==0.3.0 torch-fidelity==0.4.0
    python -m tests.reference.make_inception_reference
"""

import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np

from tests.reference.inception_weights import make_images, random_tensors

GOLDEN = Path(__file__).parents[1] / "golden" / "inception_reference.npz"


def write_state(path: Path, tensors: dict[str, np.ndarray], legacy: bool = True) -> None:
    """Writes tensors as ``torch.save`` writes a state dict, in the layout before PyTorch 1.6 or in that since."""
    import torch

    state = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)


@contextmanager
def modules_replaced(modules: dict[str, ModuleType]) -> Iterator[None]:
    """Inside, these modules are imported; afterwards, those that were, and what was imported inside is forgotten."""
    before = dict(sys.modules)
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in set(sys.modules) - set(before):
            if name.split(".")[0] in {each.split(".")[0] for each in modules}:
                del sys.modules[name]
        sys.modules.update({name: module for name, module in before.items() if name in modules})


def without_running(package: str) -> ModuleType:
    """A package whose own modules can be imported, and whose ``__init__``, which wants more libraries, is not run."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations is not None, f"{package} is not installed"
    module = ModuleType(package)
    module.__path__ = list(spec.submodule_search_locations)
    return module


def load_torch_fidelity(path: Path):
    """torch-fidelity's network: uint8 NCHW to features and scores without bias."""
    with modules_replaced({"torch_fidelity": without_running("torch_fidelity")}):
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        return FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(path))


def load_pytorch_fid(path: Path, **settings):
    """pytorch-fid's network: NCHW in [0, 1] to a list of one, the features; ``settings`` are its own.

    It patches torchvision's, which must be of one build with torch, and which few have. All that is wanted of it here
    is convolutions of the right shapes; torch-fidelity's blocks have them too.
    """
    import torch

    with modules_replaced({"torch_fidelity": without_running("torch_fidelity")}):
        from torch_fidelity import feature_extractor_inceptionv3 as blocks

    def unpatched(**of_torchvision) -> torch.nn.Module:
        whole = blocks.FeatureExtractorInceptionV3("inception", ["2048"], str(path))
        return whole.eval()

    torchvision, models, inception = (
        ModuleType(name) for name in ("torchvision", "torchvision.models", "torchvision.models.inception")
    )
    for letter in "ABCDE":
        name = f"Inception{letter}"
        setattr(inception, name, getattr(blocks, name if letter != "E" else "InceptionE_1"))
    models.inception, models.inception_v3 = inception, unpatched
    torchvision.models, torchvision.__version__ = models, "0.28"
    stubs = {each.__name__: each for each in (torchvision, models, inception)}
    with modules_replaced(stubs | {"pytorch_fid": without_running("pytorch_fid")}):
        from pytorch_fid import inception as theirs

        theirs.load_state_dict_from_url = lambda url, progress: torch.load(path, weights_only=True)
        return theirs.InceptionV3(**settings).eval()


def to_torch(images: np.ndarray):
    """NHWC to NCHW."""
    import torch

    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def compute_reference(path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """torch-fidelity's features and scores, and pytorch-fid's features, of uint8 images."""
    import torch

    inputs = to_torch(images)
    with torch.inference_mode():
        features, scores = load_torch_fidelity(path)(inputs)
        (others,) = load_pytorch_fid(path)(inputs.float() / 255)
    return {"features": features.numpy(), "scores": scores.numpy(), "pytorch_fid": others.numpy()[:, :, 0, 0]}


def main() -> None:
    """Computes the reference and writes the golden file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inception.pth"
        write_state(path, random_tensors())
        np.savez_compressed(GOLDEN, **compute_reference(path, make_images()))
    print(f"wrote {GOLDEN} ({GOLDEN.stat().st_size} bytes)")


if __name__ == "__main__":
    main()
