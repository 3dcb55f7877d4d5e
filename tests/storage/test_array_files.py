"""``.npz`` files: as NumPy writes them they come back, and what else they may hold is refused before it is unpacked."""

import io
import resource
import struct
import zipfile

import numpy as np
import pytest

from imagen_jax.storage.array_files import ArrayFileError, opened_arrays, parse_array
from imagen_jax.storage.zip_members import read_member

ARRAYS = {
    "floats": np.arange(6, dtype=np.float32).reshape(2, 3),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big": np.arange(3, dtype=">i4"),
    "one": np.array(7),
    "text": np.array('{"a": "é"}'),
    "flags": np.array([True, False]),
    "none": np.zeros((0, 4)),
}


def npz(save=np.savez, **arrays):
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back_as_numpy_reads_them(save):
    content = npz(save, **ARRAYS)
    content.seek(0)
    expected = np.load(content, allow_pickle=False)
    with opened_arrays(content) as arrays:
        assert list(arrays) == list(ARRAYS) and "floats" in arrays and "x" not in arrays and arrays.get("x") is None
        for name in ARRAYS:
            np.testing.assert_array_equal(arrays[name], expected[name])
            assert arrays[name].dtype == expected[name].dtype


def npy(header, data=b"", version=b"\1\0"):
    width = "<H" if version == b"\1\0" else "<I"
    return b"\x93NUMPY" + version + struct.pack(width, len(header)) + header.encode() + data


WHOLE = "{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }\n"


def test_other_layouts_of_a_header_are_read():
    for header in (WHOLE, WHOLE.replace(", }", "}"), WHOLE.replace("(2,)", "(2, 1)"), WHOLE.replace(": ", ":")):
        assert parse_array(npy(header, bytes(16))).sum() == 0
    assert parse_array(npy(WHOLE, bytes(16), b"\2\0")).shape == (2,)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        npy(WHOLE, bytes(16), b"\3\0"),
        npy(WHOLE, bytes(15)),
        npy(WHOLE, bytes(17)),
        npy(WHOLE.replace("(2,)", "(999999999999,)")),
        npy(WHOLE.replace("(2,)", "(-2,)"), bytes(16)),
        npy(WHOLE.replace("(2,)", "(-2, -1)"), bytes(16)),
        npy(WHOLE.replace("(2,)", f"({'1,' * 80})"), bytes(8)),
        npy(WHOLE.replace("(2,)", "(" * 3000)),
        npy(WHOLE.replace("(2,)", f"({'9' * 5000},)")),
        npy(WHOLE.replace("(2,)", f"({'1,' * 4000}x)")),
        npy(WHOLE + " " * 20_000, bytes(16)),
        npy(WHOLE.replace("(2,)", "-" * 9000 + "1")),
        npy(WHOLE.replace("'<f8'", "[('a', '<f8')]"), bytes(16)),
        npy(WHOLE.replace("<f8", "<f3"), bytes(6)),
        npy(WHOLE.replace("<f8", "|O"), bytes(16)),
        npy(WHOLE.replace("<f8", "|S0").replace("(2,)", f"({10**15},)")),
        npy(WHOLE.replace("<f8", "<U1"), b"\xff" * 8),
    ],
)
def test_what_is_no_array_is_refused(content):
    with pytest.raises(ValueError):  # noqa: PT011
        parse_array(content)


def test_a_bomb_is_refused_before_it_is_unpacked():
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("mu.npy", "w") as member,
    ):
        for _ in range(150):
            member.write(bytes(2**20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with opened_arrays(buffer, 2**20) as arrays, pytest.raises(ArrayFileError, match=r"\b157286400\b"):
        arrays["mu"]
    # A zip that lies: it says that a kilobyte is in it.
    content = buffer.getvalue().replace(struct.pack("<I", 150 * 2**20), struct.pack("<I", 1000))
    with zipfile.ZipFile(io.BytesIO(content)) as archive, pytest.raises(zipfile.BadZipFile):
        read_member(archive, "mu.npy", 2**20)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 2**10


def test_other_compression_is_an_error():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("mu.npy", b"x")
    with opened_arrays(buffer) as arrays, pytest.raises(ArrayFileError, match=r"mu\.npy"):
        arrays["mu"]
