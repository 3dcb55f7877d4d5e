"""Inputs that nobody meant, made of valid ones: bytes, JSON, and what lies in zips, gzips, PNGs and tars.

Random, valid bytes -> a few edits -> bytes; of a container what is inside is edited and packed whole again, so that
no checksum keeps the edit from what comes after it
"""

import gzip
import io
import json
import random
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

Make = Callable[[random.Random], bytes]
"""Makes an input."""

NUMBERS = (0, 1, -1, 2, 127, 128, 255, 256, 32767, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63)
TOKENS = (
    b"\0", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b'"', b"'", b"\\", b"\n", b"\r", b"\r\n", b"\t", b",", b"{", b"}",
    b"[", b"]", b"(" * 500, b"[" * 3000, b"../", b"/", b"%s", b"NaN", b"1e999", b"-0", b"9" * 5000, b"null",
    b"a" * 5000,
)  # fmt: skip
TEXTS = ("", " ", "\0", "\ud800", "\udcff", "../x", "/x", "x" * 10_000, "é\u2028\u202e", "<script>", "1", "nan", "\n")


def edit(rng: random.Random, content: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Edits bytes once."""
    size = len(content)
    # Headers lie at the beginning, directories at the end.
    near = rng.random()
    start = rng.randrange(min(size, 64) + 1) if near < 0.4 else size - rng.randrange(min(size, 64) + 1)
    start = start if near < 0.55 else rng.randrange(size + 1)
    length = rng.choice((1, 1, 2, 4, 8, rng.randrange(size + 1)))
    match rng.randrange(10):
        case 0 | 1:
            flipped = bytearray(content)
            if flipped:
                flipped[start % size] ^= 1 << rng.randrange(8)
            return bytes(flipped)
        case 2:
            return content[:start] + rng.randbytes(length % 16) + content[start + length % 16 :]
        case 3:
            return content[:start]
        case 4:
            return content[:start] + content[start + length :]
        case 5:
            return content[: start + length] + content[start : start + length] + content[start + length :]
        case 6:
            other = rng.choice([content, *others])
            return content[:start] + other[rng.randrange(len(other) + 1) :]
        case 7:
            return content[:start] + rng.choice(TOKENS) + content[start:]
        case 8:
            width = rng.choice((1, 2, 4, 8))
            number = (rng.choice(NUMBERS) % 256**width).to_bytes(width, rng.choice(("little", "big")))
            return content[:start] + number + content[start + width :]
    found = list(re.finditer(rb"\d+", content))
    if not found:
        return content + rng.randbytes(3)
    place = rng.choice(found)
    return content[: place.start()] + str(rng.choice(NUMBERS)).encode() + content[place.end() :]


def edits(rng: random.Random, content: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Edits bytes a few times."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        content = edit(rng, content, others)
    return content


def of_bytes(contents: Sequence[bytes]) -> Make:
    """Edits one of some contents."""
    return lambda rng: edits(rng, rng.choice(contents), contents)


def either(*ways: Make) -> Make:
    """One of several ways."""
    return lambda rng: rng.choice(ways)(rng)


def strange_value(rng: random.Random) -> Any:
    """A value of JSON that is seldom meant."""
    match rng.randrange(9):
        case 0:
            return rng.choice(TEXTS)
        case 1:
            return rng.choice((float("nan"), float("inf"), -0.0, 1e308, 0.5, 10**400, *NUMBERS))
        case 2:
            return rng.choice((None, True, False))
        case 3:
            return []
        case 4:
            return {}
        case 5:
            deep: Any = 1
            for _ in range(rng.choice((5, 90, 500))):
                deep = [deep] if rng.random() < 0.5 else {"a": deep}
            return deep
        case 6:
            return [strange_value(rng) for _ in range(rng.randrange(4))]
        case 7:
            return {rng.choice(TEXTS): strange_value(rng)}
    return [0] * rng.choice((1, 40, 3000))


def edit_value(rng: random.Random, value: Any) -> Any:
    """Edits a value of JSON at a random place in it."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.15:
        return strange_value(rng)
    copy = value.copy()
    place = rng.choice(list(copy)) if isinstance(copy, dict) else rng.randrange(len(copy))
    match rng.randrange(8):
        case 0:
            del copy[place]
        case 1 if isinstance(copy, dict):
            copy[rng.choice(TEXTS)] = copy[place]
        case 1:
            copy.append(copy[place])
        case 2:
            copy[place] = copy[rng.choice(list(copy)) if isinstance(copy, dict) else rng.randrange(len(copy))]
        case _:
            copy[place] = edit_value(rng, copy[place])
    return copy


def edit_json(rng: random.Random, value: Any) -> bytes:
    """Edits a value of JSON a few times, and maybe its text."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        value = edit_value(rng, value)
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    return edits(rng, text) if rng.random() < 0.2 else text


def of_json(values: Sequence[Any]) -> Make:
    """Edits one of some values of JSON."""
    return lambda rng: edit_json(rng, rng.choice(values))


def of_json_lines(values: Sequence[Any]) -> Make:
    """Lines of JSON, some of them edited."""

    def make(rng: random.Random) -> bytes:
        lines = [edit_json(rng, value) if rng.random() < 0.4 else json.dumps(value).encode() for value in values]
        return b"\n".join(lines) + b"\n" * rng.randrange(3)

    return make


def of_safetensors(contents: Sequence[bytes]) -> Make:
    """Edits the header of one of some safetensors files, whose length stays right."""

    def make(rng: random.Random) -> bytes:
        content = rng.choice(contents)
        (size,) = struct.unpack("<Q", content[:8])
        header = edit_json(rng, json.loads(content[8 : 8 + size]))
        return struct.pack("<Q", len(header)) + header + content[8 + size :]

    return make


def of_zip(contents: Sequence[bytes]) -> Make:
    """Edits a file in one of some zips; its size and checksum are right again."""

    def make(rng: random.Random) -> bytes:
        with zipfile.ZipFile(io.BytesIO(rng.choice(contents))) as archive:
            members = {info: archive.read(info) for info in archive.infolist()}
        edited = rng.choice(list(members))
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for info, member in members.items():
                kind = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED)) if rng.random() < 0.05 else None
                content = edits(rng, member, list(members.values())) if info is edited else member
                archive.writestr(info.filename, content, info.compress_type if kind is None else kind)
        return buffer.getvalue()

    return make


def of_gzip(texts: Sequence[bytes]) -> Make:
    """Edits one of some texts and packs it."""
    return lambda rng: gzip.compress(edits(rng, rng.choice(texts), texts), 1)


def of_png(contents: Sequence[bytes]) -> Make:
    """Edits a chunk of one of some PNGs; its length and checksum are right again. What is packed may be edited too."""

    def make(rng: random.Random) -> bytes:
        content = rng.choice(contents)
        chunks, place = [], 8
        while place < len(content):
            (size,) = struct.unpack(">I", content[place : place + 4])
            chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + size]))
            place += 12 + size
        for _ in range(rng.choice((1, 1, 2))):
            number = rng.randrange(len(chunks))
            kind, data = chunks[number]
            if rng.random() < 0.2:
                kind = rng.choice(
                    (b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP", b"acTL", b"fcTL", b"tRNS", b"PLTE", b"cHRM")
                )
                chunks.insert(number, (kind, edits(rng, data)))
            elif kind == b"IDAT" and rng.random() < 0.5:
                with suppress(zlib.error):  # it may be edited already
                    chunks[number] = (kind, zlib.compress(edits(rng, zlib.decompressobj().decompress(data)), 1))
            else:
                chunks[number] = (kind, edits(rng, data))
        return content[:8] + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )

    return make


def of_tar(contents: Sequence[bytes]) -> Make:
    """Edits a header of one of some tars, whose checksum is right again."""

    def make(rng: random.Random) -> bytes:
        content = bytearray(rng.choice(contents))
        for _ in range(rng.choice((1, 1, 2))):
            start = 512 * rng.randrange(len(content) // 512)
            block = edits(rng, bytes(content[start : start + 512]))[:512].ljust(512, b"\0")
            block = block[:148] + b" " * 8 + block[156:]
            total = sum(block)
            content[start : start + 512] = block[:148] + b"%06o\0 " % total + block[156:]
        return bytes(content)

    return make


def tar_of(members: Mapping[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of some files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return buffer.getvalue()
