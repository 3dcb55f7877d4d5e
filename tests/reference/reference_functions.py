"""Functions of a reference library that imports torchvision, without importing the library.

torch-fidelity, pytorch-fid and clean-fid import torchvision and their networks before the first function; what computes
a metric from features needs none of it, and runs where torchvision has no release for this torch.
"""

import ast
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def functions_of(package: str, module: str, given: Mapping[str, Any]) -> SimpleNamespace:
    """The functions and constants of ``module.py`` of an installed package.

    Args:
        package: its top folder, which is found and not imported.
        module: a file in it.
        given: what the functions find under the names that the file would have imported.
    """
    found = importlib.util.find_spec(package)
    assert found is not None, f"{package} is not installed: bash launch/test.sh --with-references"
    file = Path(found.submodule_search_locations[0]) / f"{module}.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    tree.body = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        or (isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant | ast.Dict))
    ]
    names = dict(given)
    exec(compile(tree, file, "exec"), names)
    return SimpleNamespace(**names)


def torch_fidelity_functions(module: str) -> SimpleNamespace:
    """What torch-fidelity computes from features, with its own defaults."""
    import numpy as np
    import torch
    from tqdm import tqdm

    helpers = functions_of("torch_fidelity", "helpers", vars(functions_of("torch_fidelity", "defaults", {})))
    given = {name: getattr(helpers, name) for name in ("get_kwarg", "vassert", "vprint")}
    return functions_of("torch_fidelity", module, {"np": np, "torch": torch, "tqdm": tqdm, **given})


def pytorch_fid_functions() -> SimpleNamespace:
    """What pytorch-fid computes from statistics."""
    import numpy as np

    return functions_of("pytorch_fid", "fid_score", {"np": np, "linalg": SimpleNamespace(sqrtm=square_root)})


def clean_fid_functions() -> SimpleNamespace:
    """What clean-fid computes from features and statistics."""
    import numpy as np
    import torch

    return functions_of("cleanfid", "fid", {"np": np, "torch": torch, "linalg": SimpleNamespace(sqrtm=square_root)})


def square_root(matrix: Any, disp: bool = True) -> Any:
    """SciPy's, with the argument ``disp`` that pytorch-fid and clean-fid give it and that SciPy 1.18 takes no more."""
    import scipy.linalg

    root = scipy.linalg.sqrtm(matrix)
    return root if disp else (root, None)
