"""Writes tests/golden/torch_{legacy,zip}.pth, as torch saves one state dict, and torch_expected.npz, as torch reads it.

Run it from the repository's root, in any environment with torch::

    pip install torch==2.13.0
    python -m tests.reference.make_torch_files
"""

from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden"
LAYOUTS = ("legacy", "zip")


def make_state():
    """Returns a module's state dict, which carries metadata, with views and types that a small network lacks."""
    import torch

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    state = network.state_dict()
    shared = torch.randn(5, 6)
    state["transposed"] = shared.T
    state["part"] = shared[1:4, ::2]
    state["half"] = torch.randn(3).half()
    state["double"] = torch.randn(2, 2, dtype=torch.float64)
    state["flags"] = torch.tensor([True, False, True])
    state["small integers"] = torch.arange(-3, 3, dtype=torch.int16)
    state["empty"] = torch.zeros(0, 4)
    return state


def main() -> None:
    """Writes the files."""
    import torch

    state = make_state()
    for layout in LAYOUTS:
        path = GOLDEN / f"torch_{layout}.pth"
        torch.save(state, path, _use_new_zipfile_serialization=layout == "zip")
        assert all(torch.equal(tensor, state[name]) for name, tensor in torch.load(path, weights_only=True).items())
    np.savez_compressed(GOLDEN / "torch_expected.npz", **{name: tensor.numpy() for name, tensor in state.items()})


if __name__ == "__main__":
    main()
