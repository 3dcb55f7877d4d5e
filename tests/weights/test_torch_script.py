"""Tensors of TorchScript archives: against what torch itself wrote, and against archives that mean harm."""

import os
import pickle
import struct

import numpy as np
import pytest

from imagen_jax.errors import UserError
from imagen_jax.weights.torch_file import read_torch_file
from tests.reference.make_torch_files import GOLDEN
from tests.reference.torch_programs import (
    BUILD,
    EMPTY_TUPLE,
    NEW,
    dictionary,
    module,
    named,
    tensor,
    text,
    write_archive,
)


def archive_with(tmp_path, program: bytes, storages: dict[str, np.ndarray] | None = None, script: bool = True):
    return write_archive(tmp_path / "network.pt", program, storages or {}, script)


def test_what_torch_traces_is_read_as_torch_reads_it():
    state = read_torch_file(GOLDEN / "torch_script.pt")
    with np.load(GOLDEN / "torch_script_expected.npz") as expected:
        assert sorted(state) == sorted(expected)
        for name, found in state.items():
            np.testing.assert_array_equal(found, expected[name], strict=True)
    assert state["first.layers.2.weight"].dtype == np.float16 and state["second.size"].shape == ()


def test_an_archive_written_by_hand_is_read(tmp_path):
    storages = {"0": np.arange(3, dtype="<f4"), "1": np.asarray([0.5, 1.5], "<f2")}
    eps = b"G" + struct.pack(">d", 1e-5)
    inner = module({"weight": tensor("0", storages["0"]), "eps": eps}, "__torch__.nn.___mangle_3 Norm")
    integers = named("torch.jit._pickle build_intlist") + b"](K\x01K\x02e\x85R"
    bias = tensor("1", storages["1"])
    program = module({"training": b"\x89", "hook": b"N", "norm": inner, "sizes": integers, "bias": bias})
    state = read_torch_file(archive_with(tmp_path, program, storages))
    assert list(state) == ["norm.weight", "bias"]
    np.testing.assert_array_equal(state["norm.weight"], np.arange(3, dtype=np.float32), strict=True)
    np.testing.assert_array_equal(state["bias"], np.asarray([0.5, 1.5], np.float16), strict=True)


@pytest.mark.parametrize("protocol", range(6))
def test_a_program_that_calls_the_system_is_refused_and_not_run(tmp_path, protocol):
    class Call:
        def __reduce__(self):
            return os.system, (f"touch '{tmp_path / 'trace'}'",)

    program = pickle.dumps({"x": Call()}, protocol=protocol)
    with pytest.raises(UserError, match=r"network.pt .*(\w+\.system|[A-Z]{3,})"):
        read_torch_file(archive_with(tmp_path, program))
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("program", "fact"),
    [
        (named("builtins eval"), r"builtins\.eval"),
        (named("__torch__x Net"), r"__torch__x\.Net"),
        (named("torch.jit._pickle restore_type_tag"), r"torch\.jit\._pickle\.restore_type_tag"),
        (named("__torch__ Net") + b"K\x01\x85" + NEW, r"network\.pt"),
        (named("collections OrderedDict") + EMPTY_TUPLE + NEW, r"network\.pt"),
        (named("__torch__.os system") + text("ls") + b"\x85R", r"network\.pt"),
        (module({}) + b"]" + BUILD, r"network\.pt"),
        (b"}}" + BUILD, r"network\.pt"),
        (b"}" + text("x") + module({}) + b"s", "'x'"),
        (text("x"), "state_dict"),
        (NEW, r"network\.pt"),
        (named("torch.jit._pickle build_intlist") + b")R", r"network\.pt"),
        (named("torch.jit._pickle build_intlist") + b")\x85R", r"network\.pt"),
    ],
)
def test_what_no_tree_of_modules_needs_is_refused(tmp_path, program, fact):
    with pytest.raises(UserError, match=fact):
        read_torch_file(archive_with(tmp_path, program))


def test_a_tree_without_tensors_is_empty(tmp_path):
    assert read_torch_file(archive_with(tmp_path, module({"x": module({}), "training": b"\x88"}))) == {}


def test_a_state_dict_may_not_have_modules(tmp_path):
    with pytest.raises(UserError, match=r"__torch__\.Net"):
        read_torch_file(archive_with(tmp_path, module({}), script=False))


def test_modules_that_hold_each_other_are_refused(tmp_path):
    shared = module({}) + b"q\x00"
    with pytest.raises(UserError, match=r"\bright\b"):
        read_torch_file(archive_with(tmp_path, module({"left": shared, "right": b"h\x00"})))
    itself = named("__torch__ Net") + EMPTY_TUPLE + NEW + b"q\x00}" + text("x") + b"h\x00s" + BUILD
    with pytest.raises(UserError, match=r"\bx\b"):
        read_torch_file(archive_with(tmp_path, itself))


def test_a_tree_as_deep_as_no_network_is_refused(tmp_path):
    begin = named("__torch__ Net") + EMPTY_TUPLE + NEW + b"}" + text("x")
    with pytest.raises(UserError, match=r"network\.pt"):
        read_torch_file(archive_with(tmp_path, 5000 * begin + b"N" + 5000 * (b"s" + BUILD)))


def test_names_that_grow_with_each_module_are_refused_before_they_fill_the_memory(tmp_path):
    begin = named("__torch__ Net") + EMPTY_TUPLE + NEW + b"}"
    program = begin + text("x" * 200) + b"q\x00" + 3 * (begin + b"h\x00") + b"N" + 4 * (b"s" + BUILD)
    with pytest.raises(UserError, match=r"x{60}.*\b500\b"):
        read_torch_file(archive_with(tmp_path, program))


def test_modules_cannot_all_have_the_same_attributes(tmp_path):
    """A thousand modules with the same thousand attributes would have a million."""
    storages = {"0": np.zeros(3, "<f4")}
    new = named("__torch__ Net") + EMPTY_TUPLE + NEW
    shared = dictionary({"w": tensor("0", storages["0"])}) + b"q\x00"
    program = new + b"}(" + text("d") + shared + text("left") + new + b"h\x00" + BUILD
    program += text("right") + new + b"h\x00" + BUILD + b"u" + BUILD
    assert list(read_torch_file(archive_with(tmp_path, program, storages))) == ["left.w"]


def test_a_truncated_archive_is_refused_wherever_it_ends(tmp_path):
    content = (GOLDEN / "torch_script.pt").read_bytes()
    path = tmp_path / "network.pt"
    for length in range(0, len(content), 199):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"network\.pt"):
            read_torch_file(path)
