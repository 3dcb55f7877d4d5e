"""Nothing in a file is executed: neither here nor in the libraries that read files for us.

The second half runs every reader while Python reports, through its audit events, all code that is executed, imported,
unpickled or started (https://docs.python.org/3/library/audit_events.html).
"""

import ast
import io
import json
import pickle
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imagen_jax.data.opened_images import FORMATS, DamagedImageError
from imagen_jax.data.preparation.image_files import ImageRules, check_image
from imagen_jax.data.sources.parquet_rows import read_parquet
from imagen_jax.data.stored_images import StoredImages, load_split
from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.reference_statistics import read_published_statistics
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.workdir import read_config
from imagen_jax.weights.torch_pickle import TensorUnpickler
from imagen_jax.weights.torch_script import ModuleUnpickler
from tests.torture.fuzz import input_of
from tests.torture.parsers import PARSERS
from tests.torture.readers import OUR_ERRORS

PACKAGE = Path(__file__).parents[2] / "imagen_jax"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Of what executes files, or trusts them. `pickletools` only lists what a pickle says.
LIBRARIES = {"_pickle", "cloudpickle", "code", "cPickle", "dill", "joblib", "jsonpickle", "marshal", "pickle", "runpy",
             "shelve", "yaml"}  # fmt: skip
CALLS = {"__import__", "compile", "eval", "exec", "execfile"}
JSON_HOME = "storage/json_text.py"


def find_trust(source: str) -> list[str]:
    """What in a module executes or trusts what it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        found += [name for name in names if name.split(".")[0] in LIBRARIES]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in CALLS or called in ("torch.load", "numpy.load", "pandas.read_pickle"):
                found.append(called)
            found += [keyword.arg for keyword in node.keywords if keyword.arg == "allow_pickle"
                      and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)]  # fmt: skip
    return found


def test_no_module_trusts_a_file():
    sources = {file.relative_to(PACKAGE).as_posix(): file.read_text(encoding="utf-8") for file in MODULES}
    trust = {name: found for name, source in sources.items() if (found := find_trust(source))}
    # The list of commands runs modules of this package, by names that are written in it, and so do the old names of two
    # commands. The help of a command evaluates the flags in the source of its module.
    runs_modules = {key: ["runpy"] for key in ("__main__.py", "train.py", "evaluate.py")}
    reads_source = {"runtime/command_help.py": ["eval", "compile"]}
    assert trust == runs_modules | reads_source | {"weights/torch_pickle.py": ["pickle"]}

    def users(text: str) -> list[str]:
        return [name for name, source in sources.items() if text in source]

    assert set(users("json.load")) <= {JSON_HOME}, "storage.json_text has limits"
    assert set(users("Image.open(")) <= {"data/opened_images.py"}, "data.opened_images has limits"
    assert users(".extractall(") == users(".extract(") == []


def test_unpicklers_look_names_up_in_our_own_table():
    tree = ast.parse((PACKAGE / "weights/torch_pickle.py").read_text(encoding="utf-8"))
    used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {name for name in used if name.startswith("pickle.")} == {"pickle.Unpickler", "pickle.UnpicklingError"}
    for unpickler in (TensorUnpickler, ModuleUnpickler):
        unpickler = unpickler(io.BytesIO(), Path("file.pt"))
        for module, name in (("os", "system"), ("builtins", "eval"), ("numpy", "load"), ("torch", "load")):
            with pytest.raises(UserError, match=rf"{module}\.{name}"):
                unpickler.find_class(module, name)


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from marshal import loads", "import yaml.loader", "eval(text)", "np.load(f, allow_pickle=True)",
     "np.load(f, allow_pickle=flag)", "torch.load(f)", "x = __import__(name)"],
)  # fmt: skip
def test_trust_is_recognised(source):
    assert find_trust(source)


@pytest.mark.parametrize(
    "source", ["import pickletools", "np.load(f, allow_pickle=False)", "re.compile(x)", "m.eval()"]
)
def test_what_is_no_trust_is_not(source):
    assert not find_trust(source)


UNPICKLE = pickle.loads
EXECUTED = {"code.__new__", "ctypes.dlopen", "exec", "import", "marshal.load", "marshal.loads", "os.exec", "os.fork",
            "os.posix_spawn", "os.spawn", "os.startfile", "os.system", "pickle.find_class", "subprocess.Popen",
            "webbrowser.open"}  # fmt: skip


def caller():
    """The module whose code raises an audit event."""
    return sys._getframe(2).f_globals.get("__name__", "")


class Guard:
    """Keeps the audit events that Python raises while it is armed. A hook can't be removed, so there is one."""

    def __init__(self):
        self.armed = False
        self.events = []

    def record(self, event, arguments):
        # The checks of types, which only tests have, execute what they have written themselves.
        if self.armed and event in EXECUTED and caller().split(".")[0] not in ("beartype", "jaxtyping"):
            self.events.append((event, repr(arguments)[:200]))


GUARD = Guard()


@pytest.fixture(scope="module", autouse=True)
def armed_guard():
    sys.addaudithook(GUARD.record)


@contextmanager
def guarded(monkeypatch):
    """Fails if the block executes anything, or unpickles anything, even plain data."""

    def refuse(*_, **__):
        GUARD.events.append(("pickle", "a pickle was read"))
        raise AssertionError("a pickle was read")

    with monkeypatch.context() as patch:
        for name in ("load", "loads", "Unpickler"):
            patch.setattr(pickle, name, refuse)
        GUARD.events.clear()
        GUARD.armed = True
        try:
            yield
        finally:
            GUARD.armed = False
    assert GUARD.events == []


@pytest.mark.parametrize("content", [pickle.dumps(OSError), b"import os"], ids=["pickle", "code"])
def test_the_guard_records(content, monkeypatch):
    act = exec if content.startswith(b"import") else UNPICKLE
    with pytest.raises(AssertionError), guarded(monkeypatch):
        act(content)


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.filterwarnings("ignore")
def test_a_reader_executes_nothing(name, tmp_path, monkeypatch):
    parser = PARSERS[name](tmp_path)
    inputs = [input_of(parser, name, 2, number) for number in range(25)]

    def read_all():
        for content in inputs:
            with suppress(*OUR_ERRORS):
                parser.read(content)

    # Once before, for what is imported when it is needed, and for the checks of types that tests add.
    read_all()
    with guarded(monkeypatch):
        read_all()
    parser.close()


def test_a_prepared_data_set_executes_nothing(tmp_path, monkeypatch):
    from imagen_jax.data.preparation.conversion import Conversion
    from imagen_jax.data.preparation.preparation import Preparation, prepare
    from tests.data.part_sources import listed, record

    records = [record(number) for number in range(3)]
    prepare(Preparation("any", {}, "Ours", [listed(records)], Conversion(validation_fraction=0.0)), tmp_path, 0)
    assert len(list(load_split(tmp_path, "train"))) == 3
    with guarded(monkeypatch):
        assert len(list(load_split(tmp_path, "train"))) == 3


def test_a_module_that_a_data_set_names_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "evil_features.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    package = "tensorflow_datasets.core.features"
    features = {
        "pythonClassName": f"{package}.features_dict.FeaturesDict",
        "featuresDict": {"features": {"key": {"pythonClassName": "evil_features.Text", "pythonObject": {}}}},
    }
    (tmp_path / "features.json").write_text(json.dumps(features))
    (tmp_path / "dataset_info.json").write_text(json.dumps({"name": "captioned_images", "version": "1.0.0"}))
    with pytest.raises(UserError, match=r"evil_features\.Text"):
        StoredImages(tmp_path, "train", {})
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_executes_nothing(tmp_path, monkeypatch):
    params = {"layer": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}
    with CheckpointStore(tmp_path / "checkpoints") as store:
        import jax

        store.save_weights(3, jax.tree.map(jax.numpy.asarray, params))
        shapes = jax.eval_shape(lambda: jax.tree.map(jax.numpy.asarray, params))
        store.restore_ema(shapes)
        with guarded(monkeypatch):
            restored, step = store.restore_ema(shapes)
    assert step == 3 and np.array_equal(restored["layer"]["kernel"], params["layer"]["kernel"])


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


def test_a_pickle_in_statistics_is_refused(tmp_path):
    np.savez(tmp_path / "evil.npz", mu=np.array([Evil(tmp_path / "ran")], object), sigma=np.zeros((1, 1)))
    with pytest.raises(UserError, match=r"evil\.npz .*pickle"):
        read_published_statistics(tmp_path / "evil.npz")
    assert not (tmp_path / "ran").exists()


def test_a_pickle_in_a_parquet_table_is_not_opened(tmp_path, monkeypatch):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    metadata = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Evil(tmp_path / "ran")),
    }
    schema = arrow.schema([arrow.field("image", arrow.string(), metadata=metadata)])
    parquet.write_table(arrow.table([["0.png"]], schema=schema), tmp_path / "table.parquet")
    with guarded(monkeypatch):
        (row,) = read_parquet(tmp_path / "table.parquet", None, ("image",))
    assert row.values == {"image": "0.png"} and not (tmp_path / "ran").exists()


def test_an_image_that_is_a_program_is_not_opened():
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(ran) (w) file\n%%EOF\n"
    Image.init()
    assert Image.open(io.BytesIO(content)).format == "EPS", "Pillow would take it"
    with pytest.raises(DamagedImageError):
        check_image(content, ImageRules())
    assert "EPS" not in FORMATS


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system ['x']", "__import__('os')", "{'a': 1}", "(1, 2)"])
def test_a_config_in_a_workdir_is_data(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        read_config(tmp_path)
