"""The reader of PyTorch files: against what torch itself wrote and read, and against files that mean harm."""

import hashlib
import io
import os
import pickle
import random
import struct
import time
import warnings
import zipfile

import numpy as np
import pytest

from imagen_jax.encoders.efficientnet_lite0 import find_weights
from imagen_jax.errors import UserError
from imagen_jax.weights.torch_file import MAGIC_NUMBER, read_torch_file
from tests.reference.make_torch_files import GOLDEN, LAYOUTS
from tests.reference.torch_programs import BUILD, named, write_archive

# From torch 2.13.0: of the names and bytes of all tensors, in the order of their names.
DIGEST_BY_TORCH = "005bdebd355e2b7f8f306bd4d3e0452d87921d44b3e5eb83430a6b076fca9a3e"


class Call:
    """Pickled, it is a program that calls a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def legacy(state: bytes) -> bytes:
    """A legacy file whose state dict is a pickle of ours, up to the storage keys."""
    before = [MAGIC_NUMBER, 1001, {"little_endian": True}]
    return b"".join(pickle.dumps(part, protocol=2) for part in before) + state + pickle.dumps([], protocol=2)


def zipped(state: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A file of the zip layout whose state dict is a pickle of ours."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("archive/data.pkl", state)
    return buffer.getvalue()


def tensor_program(storage: str, key: str, size: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    """The pickle of ``{"x": a view of a storage}``, written by hand as torch writes it."""

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    place = b"(" + text("storage") + f"ctorch\n{storage}\n".encode() + text(key) + text("cpu") + number(size) + b"NtQ"
    view = place + number(0) + numbers(shape) + numbers(strides) + b"\x89ccollections\nOrderedDict\n)R"
    return b"\x80\x02}" + text("x") + b"ctorch._utils\n_rebuild_tensor_v2\n(" + view + b"tRs."


def file_with(tmp_path, content: bytes):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_torch_saves_is_read_as_torch_reads_it(layout):
    state = read_torch_file(GOLDEN / f"torch_{layout}.pth")
    with np.load(GOLDEN / "torch_expected.npz") as expected:
        assert list(state) == list(expected)
        for name, tensor in state.items():
            assert tensor.dtype == expected[name].dtype
            np.testing.assert_array_equal(tensor, expected[name], strict=True)


def test_the_packaged_weights_are_read_as_torch_reads_them():
    state = read_torch_file(find_weights())
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + np.ascontiguousarray(state[name]).tobytes())
    assert len(state) == 296 and digest.hexdigest() == DIGEST_BY_TORCH


def test_a_program_written_by_hand_is_read(tmp_path):
    program = tensor_program("FloatStorage", "0", 6, (2, 2), (1, 3))
    numbers = np.arange(6, dtype="<f4")
    keys = pickle.dumps(["0"], protocol=2) + struct.pack("<q", 6)
    content = legacy(program).removesuffix(pickle.dumps([], protocol=2)) + keys + numbers.tobytes()
    state = read_torch_file(file_with(tmp_path, content))
    np.testing.assert_array_equal(state["x"], np.asarray([[0, 3], [1, 4]], np.float32), strict=True)


@pytest.mark.parametrize("layout", [legacy, zipped])
@pytest.mark.parametrize("protocol", range(6))
def test_a_program_that_calls_the_system_is_refused_and_not_run(tmp_path, layout, protocol):
    trace = tmp_path / "trace"
    program = pickle.dumps({"x": Call(os.system, f"touch '{trace}'")}, protocol=protocol)
    path = file_with(tmp_path, layout(program))
    with pytest.raises(UserError, match=rf"{path.name}.*(\w+\.system|the instruction \w+)"):
        read_torch_file(path)
    assert not trace.exists()
    pickle.loads(program)
    assert trace.exists(), "Python's own reader does run it, so the test means something"


def test_the_name_that_a_program_asks_for_is_named(tmp_path):
    path = file_with(tmp_path, legacy(b"\x80\x02cbuiltins\neval\n."))
    with pytest.raises(UserError, match=r"builtins\.eval"):
        read_torch_file(path)


@pytest.mark.parametrize(
    ("program", "complaint"),
    [
        (b"(ios\nsystem\n.", "instruction INST"),
        (b"\x80\x02\x82\x01.", "instruction EXT1"),
        (b"\x80\x02(\x91.", "instruction FROZENSET"),
        (b"\x80\x02\x96\0\0\0\0\0\0\0\x7f.", "damaged"),
        (pickle.dumps({"x": 0.5}, protocol=2), "'x'"),
        (pickle.dumps({"x": 1}, protocol=2), "'x'"),
        (pickle.dumps(["x"], protocol=2), "state_dict"),
        (b"\x80\x02\xff.", r"opcode b'\\xff' unknown"),
        (b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.", "damaged"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "damaged"),
        (b"\x80\x02ccollections\nOrderedDict\n)R}X\1\0\0\0xK\1sb.", "damaged"),
        (b"\x80\x02}}b.", "damaged"),
        (b"\x80\x02}Nr\xff\xff\xff\x7f.", "damaged"),
        (b"\x80\x02h\x07.", "damaged"),
        (b"\x80\x02\x86.", "damaged"),
        (b"\x80\x02u.", "damaged"),
        (b"\x80\x02.", "damaged"),
    ],
)
@pytest.mark.parametrize("layout", [legacy, zipped])
def test_what_no_state_dict_needs_is_refused(tmp_path, layout, program, complaint):
    with pytest.raises(UserError, match=complaint):
        read_torch_file(file_with(tmp_path, layout(program)))


DEEP = b"K\1" + 150_000 * b"\x85"


@pytest.mark.parametrize(
    "program",
    [b"}" + DEEP + b"Ns", b"}(X\1\0\0\0aN" + DEEP + b"Nu", b"}" + DEEP + b"(eNs", DEEP + b"q\0}h\0Ns"],
    ids=["only key", "second key", "after a list's instruction", "recalled"],
)
def test_a_nest_that_would_overflow_the_stack_is_refused(tmp_path, program):
    with pytest.raises(UserError, match="a key of a dict"):
        read_torch_file(file_with(tmp_path, legacy(b"\x80\x02" + program + b".")))


@pytest.mark.parametrize("key", [b"K\1", b"N", b")", b"ctorch\nFloatStorage\n", b"X\1\0\0\0x\x85"])
@pytest.mark.parametrize("layout", [legacy, zipped])
def test_the_keys_of_a_dict_are_text(tmp_path, layout, key):
    """Others can be made such that all have the same hash, or that a hash takes forever."""
    with pytest.raises(UserError, match="a key of a dict"):
        read_torch_file(file_with(tmp_path, layout(b"\x80\x02}" + key + b"Ns.")))


@pytest.mark.parametrize(
    "state", [b"}X\x08\0\0\0functionNs", b"N}X\x08\0\0\0functionNs\x86", b"}X\x09\0\0\0_metadataNs", b"(K\1NN}t"]
)
@pytest.mark.parametrize(
    "name", ["torch FloatStorage", "torch._utils _rebuild_tensor_v2", "collections OrderedDict", "__torch__ Net"]
)
def test_what_a_name_stands_for_can_not_be_changed(tmp_path, name, state):
    """Else one file could change how the next is read."""
    with pytest.raises(UserError, match="damaged"):
        read_torch_file(write_archive(tmp_path / "evil.pt", named(name) + state + BUILD, {}, script=True))
    for golden in ("torch_zip.pth", "torch_script.pt"):
        assert read_torch_file(GOLDEN / golden)


@pytest.mark.parametrize(
    ("shape", "strides"),
    [((2, 2), (1, 5)), ((7,), (1,)), ((4,), (-1,)), ((-1,), (1,)), ((2,), (1, 1)), ((9, 9), (0, 0))],
)
def test_a_view_beyond_its_storage_is_refused(tmp_path, shape, strides):
    content = io.BytesIO(zipped(tensor_program("FloatStorage", "0", 6, shape, strides).replace(b"NtQ", b"tQ")))
    with zipfile.ZipFile(content, "a") as archive:
        archive.writestr("archive/data/0", bytes(24))
    with pytest.raises(UserError, match="a tensor"):
        read_torch_file(file_with(tmp_path, content.getvalue()))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path, layout):
    content = (GOLDEN / f"torch_{layout}.pth").read_bytes()
    for length in range(0, len(content), 7 if layout == "legacy" else 43):
        with pytest.raises(UserError, match=r"\.pth"):
            read_torch_file(file_with(tmp_path, content[:length]))


def test_a_damaged_file_is_read_or_refused_and_nothing_else_happens(tmp_path):
    content = (GOLDEN / "torch_legacy.pth").read_bytes()
    generator = random.Random(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        # Python's walker warns of odd escapes in names.
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            try:
                read_torch_file(file_with(tmp_path, bytes(damaged)))
            except UserError:
                refused += 1
    assert 150 < refused < 300


@pytest.mark.parametrize(
    "content", [b"", b"<!DOCTYPE html>", pickle.dumps({"x": 1}, protocol=2), b"PK\x03\x04 and more"]
)
def test_what_is_no_pytorch_file_is_refused(tmp_path, content):
    with pytest.raises(UserError, match="damaged"):
        read_torch_file(file_with(tmp_path, content))


def test_a_file_with_another_magic_number_is_refused(tmp_path):
    content = (GOLDEN / "torch_legacy.pth").read_bytes()
    magic = pickle.dumps(MAGIC_NUMBER, protocol=2)
    assert content.startswith(magic)
    with pytest.raises(UserError, match="magic number"):
        read_torch_file(file_with(tmp_path, pickle.dumps(MAGIC_NUMBER + 1, protocol=2) + content[len(magic) :]))


def test_a_compressed_archive_is_refused(tmp_path):
    with pytest.raises(UserError, match="compressed"):
        read_torch_file(file_with(tmp_path, zipped(b"\x80\x02}.", zipfile.ZIP_DEFLATED)))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.pth"):
        read_torch_file(tmp_path / "none.pth")


def doubled(depth: int) -> bytes:
    """A program for a tuple of twice the same tuple of twice the same …: few bytes, and 2 ** depth items."""
    return b")" + b"".join(b"q" + bytes([place]) + b"h" + bytes([place]) + b"\x86" for place in range(depth))


@pytest.mark.parametrize("layout", [legacy, zipped], ids=["legacy", "zip"])
@pytest.mark.parametrize("where", ["offset", "shape", "strides", "axes", "key"])
def test_few_bytes_that_would_take_forever_are_refused_at_once(tmp_path, layout, where):
    number, endless = b"K\0", doubled(60)
    parts = {"offset": number, "shape": b")", "strides": b")"}
    if where == "axes":
        parts["shape"] = b"(" + b"K\1" * 100_000 + b"t"
    elif where != "key":
        parts[where] = endless if where == "offset" else b"(" + endless + b"t"
        parts["shape" if where == "offset" else "offset"] = b"(" + doubled(60) + b"t"
    place = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0000X\3\0\0\0cpuK\1tQ"
    if where == "key":
        place = place.replace(b"X\1\0\0\0000", endless)
    view = place + parts["offset"] + parts["shape"] + parts["strides"] + b"\x89ccollections\nOrderedDict\n)R"
    program = b"\x80\x02}X\1\0\0\0xctorch._utils\n_rebuild_tensor_v2\n(" + view + b"tRs."
    with pytest.raises(UserError, match="damaged"):
        read_torch_file(file_with(tmp_path, layout(program)))


def test_storages_with_endless_names_are_refused_at_once(tmp_path):
    content = legacy(pickle.dumps({}, protocol=2)).removesuffix(pickle.dumps([], protocol=2))
    with pytest.raises(UserError, match="storages"):
        read_torch_file(file_with(tmp_path, content + b"\x80\x02](" + doubled(60) + b"e."))


def test_a_storage_that_a_thousand_tensors_share_is_refused(tmp_path):
    """Each would be an array of its own, and a small file any number of gigabytes."""
    one = (
        tensor_program("FloatStorage", "0", 1000, (1000,), (1,))
        .removeprefix(b"\x80\x02}X\1\0\0\0x")
        .removesuffix(b"s.")
    )
    names = [f"{number:04d}" for number in range(1000)]
    first, *rest = (b"X\4\0\0\0" + name.encode() for name in names)
    program = b"\x80\x02}" + first + one + b"q\0s" + b"".join(name + b"h\0s" for name in rest) + b"."
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/data/0", bytes(4000))
    with pytest.raises(UserError, match="4000000"):
        read_torch_file(file_with(tmp_path, buffer.getvalue()))


def fill_the_stack() -> bytes:
    """A program of marks, each of which a tuple ends, above many things."""
    return b"N" * 10_000 + b"(t" * 10_000


def call_with_a_long_list() -> bytes:
    """A program that makes a tensor of the same long list again and again."""
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0000NK\0tQ"
    arguments = b"(" + storage + b"K\0))" + b"N" * 200_000 + b"tq\2"
    return b"ctorch._utils\n_rebuild_tensor_v2\nq\1" + arguments + b"h\1h\2R" * 10_000


@pytest.mark.parametrize("make", [fill_the_stack, call_with_a_long_list])
def test_time_does_not_grow_with_the_square_of_the_file(tmp_path, make):
    path = file_with(tmp_path, legacy(b"\x80\x02" + make() + b"."))
    started = time.process_time()
    with pytest.raises(UserError, match=path.name):
        read_torch_file(path)
    assert time.process_time() - started < 2


@pytest.mark.parametrize("layout", [legacy, zipped])
def test_a_storage_with_a_long_key_is_refused(tmp_path, layout):
    """Two of a megabyte, which many tensors have in turns, would be compared for each."""
    program = tensor_program("FloatStorage", "0" * 101, 6, (2, 2), (1, 3))
    with pytest.raises(UserError, match="persistent id"):
        read_torch_file(file_with(tmp_path, layout(program)))


def test_a_storage_of_an_unknown_type_is_refused_in_few_words(tmp_path):
    program = tensor_program("FloatStorage", "0", 6, (2, 2), (1, 3))
    kind = b"X" + struct.pack("<I", 10**6) + b"x" * 10**6
    with pytest.raises(UserError, match=r"weights\.pth is damaged") as refused:
        read_torch_file(file_with(tmp_path, zipped(program.replace(b"ctorch\nFloatStorage\n", kind))))
    assert len(str(refused.value)) < 1000


def test_a_program_has_only_so_many_instructions(tmp_path, monkeypatch):
    monkeypatch.setattr("imagen_jax.weights.torch_pickle.MAX_INSTRUCTIONS", 1000)
    with pytest.raises(UserError, match="1000"):
        read_torch_file(file_with(tmp_path, legacy(b"\x80\x02" + b"}" * 1000 + b".")))


def test_long_keys_are_refused(tmp_path):
    """Equal ones are compared to their end, each time."""
    with pytest.raises(UserError, match="500"):
        read_torch_file(file_with(tmp_path, zipped(pickle.dumps({"x" * 501: 1}, protocol=2))))


def test_a_negative_size_is_refused(tmp_path):
    program = tensor_program("FloatStorage", "0", 4, (-(2**30),), (1,)).replace(b"NtQ", b"tQ")
    with pytest.raises(UserError, match="a tensor"):
        read_torch_file(file_with(tmp_path, zipped(program)))
