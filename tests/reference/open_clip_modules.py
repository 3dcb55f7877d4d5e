"""The modules of the package open_clip_torch without its ``__init__``, which imports torchvision.

Torchvision has no release for the torch of the parity tests. What open_clip needs of it here is a class that none of
the plain models uses, so an empty module takes its place while the modules are loaded.
"""

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from types import ModuleType

import pytest

PACKAGE = "open_clip_alone"
STUBS = {"torchvision.ops.misc": ("FrozenBatchNorm2d",)}


def open_clip_folder() -> Path:
    """The folder of the package; the test is skipped where there is none."""
    found = importlib.util.find_spec("open_clip")
    if found is None or found.origin is None:
        pytest.skip("the package open_clip_torch is not installed")
    return Path(found.origin).parent


def load_open_clip(name: str) -> ModuleType:
    """A module of open_clip, such as "model" or "loss"."""
    if PACKAGE not in sys.modules:
        package = types.ModuleType(PACKAGE)
        package.__path__ = [str(open_clip_folder())]
        sys.modules[PACKAGE] = package
        # It imports most of transformers, which looks for torchvision, and no plain model uses it.
        towers = types.ModuleType(f"{PACKAGE}.hf_model")
        towers.HFTextEncoder = None  # type: ignore[attr-defined]
        sys.modules[towers.__name__] = towers
    stubs = make_stubs()
    sys.modules.update(stubs)
    try:
        return importlib.import_module(f"{PACKAGE}.{name}")
    finally:
        for stub in stubs:
            del sys.modules[stub]


def make_stubs() -> dict[str, ModuleType]:
    """Modules with the names that open_clip imports from torchvision, and the packages above them."""
    stubs: dict[str, ModuleType] = {}
    for name, attributes in STUBS.items():
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            above = ".".join(parts[:end])
            if above not in sys.modules:
                stubs.setdefault(above, types.ModuleType(above)).__path__ = []
        for attribute in attributes:
            setattr(stubs[name], attribute, type(attribute, (), {}))
    return stubs


def make_clip(config: dict, seed: int = 0):
    """A CLIP of open_clip with seeded parameters that all matter.

    Args:
        config: the contents of ``open_clip_config.json``.
        seed: the seed of its parameters.
    """
    import torch

    model = load_open_clip("model")
    settings = dict(config["model_cfg"])
    kind = model.CustomTextCLIP if settings.pop("custom_text", False) else model.CLIP
    torch.manual_seed(seed)
    clip = kind(**settings).eval()
    with torch.no_grad():
        for name, parameter in clip.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif "token_embedding" in name or "positional_embedding" in name:
                parameter.mul_(10)
            elif parameter.ndim == 4:
                # So large that the variance survives the rectifiers after PyTorch's first kernels.
                parameter.mul_(6**0.5)
        for module in clip.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    return clip
