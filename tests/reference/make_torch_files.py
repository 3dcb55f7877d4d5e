"""Writes tests/golden/torch_{legacy,zip}.pth, as torch saves one state dict, and torch_expected.npz, as torch reads it.

torch_script.pt is another network as TorchScript, in half precision, and torch_script_expected.npz its tensors.

Run it from the repository's root, in any environment with torch::

    pip install torch==2.13.0
    python -m tests.reference.make_torch_files
"""

import zipfile
from io import BytesIO
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


def make_script():
    """Returns a traced network of nested modules, with a parameter of its own and a buffer without axes."""
    import torch

    torch.manual_seed(1)

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.LayerNorm(4)
            self.layers = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 4))
            self.scale = torch.nn.Parameter(torch.tensor(2.5))
            self.register_buffer("size", torch.tensor(77))

        def forward(self, x):
            return x + self.scale * self.layers(self.norm(x))

    network = torch.nn.Sequential()
    network.add_module("first", Block())
    network.add_module("second", Block())
    return torch.jit.trace(network.eval(), torch.randn(2, 4)).half()


def drop_debug_files(content: BytesIO, path: Path) -> None:
    """Writes an archive without the files that say on which machine, in which folder its code was."""
    with zipfile.ZipFile(content) as archive, zipfile.ZipFile(path, "w") as smaller:
        for info in archive.infolist():
            if not info.filename.endswith(".debug_pkl"):
                smaller.writestr(info, archive.read(info))


def main() -> None:
    """Writes the files."""
    import torch

    state = make_state()
    for layout in LAYOUTS:
        path = GOLDEN / f"torch_{layout}.pth"
        torch.save(state, path, _use_new_zipfile_serialization=layout == "zip")
        assert all(torch.equal(tensor, state[name]) for name, tensor in torch.load(path, weights_only=True).items())
    np.savez_compressed(GOLDEN / "torch_expected.npz", **{name: tensor.numpy() for name, tensor in state.items()})
    script = make_script()
    buffer = BytesIO()
    torch.jit.save(script, buffer)
    drop_debug_files(buffer, GOLDEN / "torch_script.pt")
    torch.jit.load(GOLDEN / "torch_script.pt")
    tensors = {name: tensor.numpy() for name, tensor in script.state_dict().items()}
    np.savez_compressed(GOLDEN / "torch_script_expected.npz", **tensors)


if __name__ == "__main__":
    main()
