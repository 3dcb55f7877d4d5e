"""Shards written by the plain tarfile of Python: whole, cut, changed and gone."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import random
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from imagen_jax.data.sources import tar_members, tar_shards
from imagen_jax.data.sources.records import Damage, Record
from imagen_jax.data.sources.tar_shards import tar_shard_parts
from imagen_jax.errors import UserError
from tests.storage.uploads import upload

BLOCK = 512
IMAGES = [np.random.default_rng(seed).bytes(300 + 211 * seed) for seed in range(8)]


def write_tar(file, members, **options):
    """Writes (name, content) pairs as a tar, and returns where each content begins."""
    with tarfile.open(file, "w", **options) as archive:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    with tarfile.open(file) as archive:
        return [member.offset_data for member in archive]


def sample_of(number, **fields):
    key = f"{number:09d}"
    metadata = {"url": f"https://example.org/{number}.jpg", "width": 64 + number} | fields
    return [
        (f"{key}.jpg", IMAGES[number]),
        (f"{key}.json", json.dumps(metadata).encode()),
        (f"{key}.txt", f"picture {number}".encode()),
    ]


def read_part(part):
    """What a part gives, by the names in its tar; before them stands the shard's."""
    prefix, found = part.name.removesuffix(".tar") + "/", []
    for one in part.read():
        assert one.key.startswith(prefix) or one.key == part.name
        shorter = {"key": one.key.removeprefix(prefix)}
        if isinstance(one, Record):
            assert one.concept == one.key
            shorter["concept"] = shorter["key"]
        found.append(replace(one, **shorter))
    return found


def read_all(parts):
    return [found for part in parts for found in read_part(part)]


def read_tar(folder, members, **options):
    write_tar(folder / "00000.tar", members)
    return read_all(tar_shard_parts(folder, **options))


def reasons(found):
    return [(one.key, one.reason) for one in found if isinstance(one, Damage)]


def keys(found):
    return [one.key for one in found if isinstance(one, Record)]


@pytest.fixture
def shards(tmp_path):
    """Two shards of four records, and what img2dataset writes beside them."""
    for shard in (1, 0):
        members = [member for number in range(4) for member in sample_of(4 * shard + number)]
        write_tar(tmp_path / f"{shard:05d}.tar", members)
        (tmp_path / f"{shard:05d}_stats.json").write_text("{}")
        (tmp_path / f"{shard:05d}.parquet").write_bytes(b"PAR1")
    return tmp_path


def test_records_come_with_all_that_the_shards_contain(shards):
    parts = tar_shard_parts(shards)
    assert [part.name for part in parts] == ["00000.tar", "00001.tar"]
    records = read_all(parts)
    assert [record.encoded for record in records] == IMAGES
    assert [record.captions for record in records] == [(f"picture {number}",) for number in range(8)]
    assert [record.key for record in records] == [record.concept for record in records]
    assert records[5].key == "000000005"
    assert records[5].metadata == {"url": "https://example.org/5.jpg", "width": 69}


@pytest.mark.parametrize("options", [{"format": tarfile.USTAR_FORMAT}, {"format": tarfile.GNU_FORMAT}, {}])
def test_every_kind_of_tar_is_read_with_names_of_any_length(tmp_path, options):
    name = "folder.with.dots/" * 6 + "äpfel" * 10
    write_tar(tmp_path / "a.tar", [(f"{name}.PNG", b"pixels"), (f"{name}.txt", "äpfel\n".encode())], **options)
    (record,) = read_all(tar_shard_parts(tmp_path))
    assert (record.key, record.captions, record.encoded) == (name, ("äpfel",), b"pixels")


def test_a_part_reads_the_same_in_another_process(shards):
    parts = tar_shard_parts(shards)
    assert read_all(pickle.loads(pickle.dumps(parts))) == read_all(parts)


def test_shards_in_a_bucket_are_those_of_the_folder(shards, bucket):
    folder = upload(shards, bucket / "shards")
    parts = pickle.loads(pickle.dumps(tar_shard_parts(str(folder))))
    assert read_all(parts) == read_all(tar_shard_parts(shards))
    (folder / "00001.tar").write_bytes((shards / "00001.tar").read_bytes()[:1000])
    after = tar_shard_parts(folder)
    assert [one.fingerprint == other.fingerprint for one, other in zip(parts, after, strict=True)] == [True, False]
    (folder / "00000.tar").unlink()
    assert reasons(read_all(after)) == [("00000.tar", "shard is gone"), ("00001.tar", "shard is damaged")]


def test_a_pattern_chooses_shards(shards):
    (shards / "more").mkdir()
    write_tar(shards / "more" / "00000.tar", sample_of(0))
    assert [part.name for part in tar_shard_parts(shards)] == ["00000.tar", "00001.tar", "more/00000.tar"]
    assert [part.name for part in tar_shard_parts(shards, pattern="more/*.tar")] == ["more/00000.tar"]


def test_a_missing_folder_and_one_without_shards_are_named(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}/nowhere"):
        tar_shard_parts(tmp_path / "nowhere")
    with pytest.raises(UserError, match=rf"{tmp_path} .*\*\.tar"):
        tar_shard_parts(tmp_path)
    with pytest.raises(UserError, match="--option=folder="):
        tar_shard_parts("")


def test_a_caption_may_be_a_field_of_the_metadata(tmp_path):
    members = [
        *sample_of(0, caption=" from the alt text "),
        *sample_of(1, caption=["one", "", "two"]),
        *sample_of(2, caption=7),
        *sample_of(3, caption=[]),
        *sample_of(4, caption="\ud800"),
        *sample_of(5, caption=[" "]),
        *sample_of(6),
        ("7.jpg", IMAGES[7]),
    ]
    found = read_tar(tmp_path, members, caption="caption")
    assert [one.captions for one in found if isinstance(one, Record)] == [("from the alt text",), ("one", "two")]
    assert reasons(found) == [
        ("000000002", "no caption"),
        ("000000003", "no caption"),
        ("000000004", "caption is not UTF-8"),
        ("000000005", "caption is empty"),
        ("000000006", "no caption"),
        ("7", "no caption"),
    ]


def test_only_scalars_are_metadata_and_all_of_them_can_be_written(tmp_path):
    text = '{"a": 1, "b": 0.5, "c": true, "d": null, "e": [1], "f": {"g": 1}, "h": NaN, "i": 1e999, "j": "x\\ud800"}'
    (record,) = read_tar(tmp_path, [("1.jpg", b"x"), ("1.txt", b"one"), ("1.json", text.encode())])
    metadata = {"a": 1, "b": 0.5, "c": True, "d": None, "h": None, "i": None, "j": "x\\ud800"}
    assert record.metadata == metadata
    assert json.loads(json.dumps(dict(record.metadata), allow_nan=False, ensure_ascii=False).encode()) == metadata


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("1.txt", b"one")], "no image"),
        ([("1.gif", b"x"), ("1.txt", b"one")], "no image"),
        ([("1.jpg", b""), ("1.txt", b"one")], "image is empty"),
        ([("1.jpg", b"x")], "no caption"),
        ([("1.jpg", b"x"), ("1.txt", b" \n")], "caption is empty"),
        ([("1.jpg", b"x"), ("1.txt", b"caf\xe9")], "caption is not UTF-8"),
        ([("1.jpg", b"x"), ("1.txt", b"one"), ("1.json", b"{")], "metadata is not JSON"),
        ([("1.jpg", b"x"), ("1.txt", b"one"), ("1.json", b"[1]")], "metadata is not JSON"),
        ([("1.jpg", b"x"), ("1.txt", b"one"), ("1.json", b"\xff\xfe{}")], "metadata is not JSON"),
        ([("1.jpg", b"x"), ("1.txt", b"one"), ("1.json", b'{"a":' * 100_000)], "metadata is not JSON"),
        ([("1.jpg", b"x"), ("1.txt", b"one"), ("1.json", b'{"a":' + b"9" * 5000 + b"}")], "metadata is not JSON"),
    ],
)
def test_a_damaged_record_is_named_and_its_neighbours_are_read(tmp_path, members, reason):
    found = read_tar(tmp_path, [*sample_of(0), *members, *sample_of(2)])
    assert keys(found) == ["000000000", "000000002"]
    assert reasons(found) == [("1", reason)]


def test_a_key_counts_once(tmp_path):
    other = [("000000000.jpg", b"another"), ("000000000.txt", b"another")]
    found = read_tar(tmp_path, [*sample_of(0), *other, *sample_of(1), *other])
    assert [one.encoded for one in found if isinstance(one, Record)] == IMAGES[:2]
    assert reasons(found) == [("000000000", "key appears twice")] * 2


def test_other_members_are_left_out(tmp_path):
    members = [
        ("1.cls", b"7"),
        ("1.seg.png", b"segments"),
        ("1.png", b"second"),
        ("1.jpg", b"first"),
        ("1.txt", b"one"),
        ("._1.jpg", b"of macOS"),
        ("README", b"read me"),
    ]
    write_tar(tmp_path / "0.tar", members)
    with tarfile.open(tmp_path / "0.tar", "a") as archive:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            header = tarfile.TarInfo("2.jpg")
            header.type, header.linkname = kind, "1.jpg"
            archive.addfile(header)
    (record,) = read_all(tar_shard_parts(tmp_path))
    assert (record.key, record.encoded) == ("1", b"first")


def test_a_member_that_is_too_large_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_shards, "MAX_MEMBER_BYTES", 2000)
    large = [
        ("1.jpg", bytes(2001)),
        ("1.txt", b"one"),
        ("2.jpg", bytes(2000)),
        ("2.txt", b"two"),
        ("2.npy", bytes(9999)),
    ]
    found = read_tar(tmp_path, [*sample_of(0), *large, *sample_of(3)])
    assert keys(found) == ["000000000", "2", "000000003"]
    assert reasons(found) == [("1", "member is too large")]


def test_a_name_that_is_not_utf8_is_a_key_that_is(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        for name, content in (("caf\xe9.jpg", b"x"), ("caf\xe9.txt", b"coffee")):
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    (record,) = read_all(tar_shard_parts(tmp_path))
    assert record.key == r"caf\xe9" and record.captions == ("coffee",)


def test_a_shard_that_is_gone_is_damage_and_a_folder_that_is_gone_is_an_error(shards, tmp_path):
    parts = tar_shard_parts(shards)
    (shards / "00000.tar").unlink()
    found = read_all(parts)
    assert reasons(found) == [("00000.tar", "shard is gone")] and len(keys(found)) == 4
    shards.rename(tmp_path.parent / "elsewhere")
    with pytest.raises(UserError, match=str(shards)):
        read_all(parts)


def test_a_shard_that_was_written_again_has_another_fingerprint(shards):
    before = tar_shard_parts(shards)
    write_tar(shards / "00000.tar", sample_of(0))
    after = tar_shard_parts(shards)
    assert [one.fingerprint == other.fingerprint for one, other in zip(before, after, strict=True)] == [False, True]


def test_a_shard_cut_anywhere_gives_the_records_before_the_cut(tmp_path):
    file = tmp_path / "0.tar"
    starts = write_tar(file, [member for number in range(4) for member in sample_of(number)])
    whole = file.read_bytes()
    (part,) = tar_shard_parts(tmp_path)
    records = read_part(part)
    # A record is whole once the header of the next one is; the last one once the end mark is.
    ends = [starts[3 * number] for number in range(1, 4)] + [whole.index(bytes(BLOCK), starts[-1] + BLOCK) + BLOCK]
    cuts = {
        *range(0, ends[-1] + BLOCK, 97),
        *(offset + step for offset in [*starts, *ends] for step in (-BLOCK, -1, 0, 1)),
    }
    for cut in sorted(cuts):
        file.write_bytes(whole[:cut])
        found = read_part(part)
        whole_ones = sum(end <= cut for end in ends)
        assert found[:whole_ones] == records[:whole_ones]
        assert reasons(found[whole_ones:]) == ([] if cut >= ends[-1] else [("0.tar", "shard is damaged")])
        assert len(found) - whole_ones == (cut < ends[-1])
    file.write_bytes(whole[: ends[1]])
    assert read_part(part)[-1].detail.startswith("unexpected end of data; 000000002 ")


def test_no_change_of_a_shard_raises_or_makes_up_an_image(tmp_path):
    file = tmp_path / "0.tar"
    members = [member for number in range(4) for member in sample_of(number)]
    starts = write_tar(file, members, format=tarfile.PAX_FORMAT)
    whole = file.read_bytes()
    (part,) = tar_shard_parts(tmp_path)
    offset_of = {
        key: start for start, (name, _) in zip(starts, members, strict=True) for key in [name] if "jpg" in name
    }
    generator = random.Random(0)
    seen = set()
    for trial in range(400):
        changed = bytearray(whole)
        kind = trial % 4
        offset = generator.randrange(len(whole))
        if kind == 0:  # One byte, anywhere.
            changed[offset] ^= generator.randrange(1, 256)
        elif kind == 1:  # A block of zeros, which looks like the end.
            offset -= offset % BLOCK
            changed[offset : offset + BLOCK] = bytes(BLOCK)
        elif kind == 2:  # Blocks are missing.
            offset -= offset % BLOCK
            del changed[offset : offset + BLOCK * generator.randrange(1, 4)]
        else:  # A header of noise.
            header = generator.choice(starts) - BLOCK
            changed[header : header + BLOCK] = generator.randbytes(BLOCK)
        file.write_bytes(changed)
        found = read_part(part)
        assert all(isinstance(one, Record | Damage) for one in found)
        if kind == 3 or (kind == 1 and offset + BLOCK in starts):
            assert reasons(found)[-1] == ("0.tar", "shard is damaged"), "no header is taken for the end"
        records = [one for one in found if isinstance(one, Record)]
        assert len({record.key for record in records}) == len(records) <= 4
        seen.update(damage.reason for damage in found if isinstance(damage, Damage))
        for record in records:
            assert record.encoded in changed
            if kind in (0, 1) and f"{record.key}.jpg" in offset_of:
                # What lies where the image lay: tar has no checksum of contents.
                start = offset_of[f"{record.key}.jpg"]
                assert record.encoded == changed[start : start + len(record.encoded)]
                assert len(record.encoded) == len(IMAGES[int(record.key)])
            elif kind == 3:
                assert record.encoded in IMAGES
    assert {"shard is damaged", "no image", "no caption"} <= seen


def test_headers_that_lie_with_a_good_checksum_raise_nothing(tmp_path):
    file = tmp_path / "0.tar"
    starts = write_tar(file, [member for number in range(3) for member in sample_of(number)])
    whole = file.read_bytes()
    (part,) = tar_shard_parts(tmp_path)
    generator = random.Random(1)
    kinds = b"0125LKxgXSV\0"
    for trial in range(400):
        changed = bytearray(whole)
        header = generator.choice(starts) - BLOCK
        size = generator.choice([0, 1, 511, 10**5, 2**33, 2**60, 2**70, -1, -BLOCK, -(2**40), -(2**70)])
        changed[header + 124 : header + 136] = (size % 2**96).to_bytes(12, "big")
        changed[header + 124] = 0o377 if size < 0 else 0o200
        changed[header + 156] = generator.choice(kinds)
        changed[header + 148 : header + 156] = b" " * 8
        checksum = sum(changed[header : header + BLOCK])
        changed[header + 148 : header + 156] = f"{checksum:06o}\0 ".encode()
        file.write_bytes(changed)
        found = read_part(part)
        assert all(isinstance(one, Record | Damage) for one in found), trial


@pytest.mark.parametrize("size", ["-512", "-1", "1" + "0" * 30, "x", "1" * 5000])
@pytest.mark.parametrize("field", ["size", "GNU.sparse.size", "GNU.sparse.map", "GNU.sparse.realsize"])
def test_extended_headers_that_lie_raise_nothing(tmp_path, field, size):
    with tarfile.open(tmp_path / "0.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in sample_of(0) + sample_of(1) + sample_of(2):
            header = tarfile.TarInfo(name)
            header.size = len(content)
            if name == "000000002.jpg":
                header.pax_headers = {field: size}
            archive.addfile(header, io.BytesIO(content))
    found = read_all(tar_shard_parts(tmp_path))
    assert found[0].encoded == IMAGES[0]
    assert all(one.key != "000000002" or one.encoded in IMAGES for one in found if isinstance(one, Record))


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"no tar" * 1000, b"\x1f\x8b" * 1000])
def test_what_is_no_tar_is_damage(tmp_path, content):
    (tmp_path / "0.tar").write_bytes(content)
    assert reasons(read_all(tar_shard_parts(tmp_path))) == [("0.tar", "shard is damaged")]


def test_a_tar_of_nothing_is_no_damage(tmp_path):
    assert read_tar(tmp_path, []) == []


def test_a_caption_without_end_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_shards, "MAX_TEXT_BYTES", 100)
    found = read_tar(tmp_path, [("0.png", b"x" * 500), ("0.txt", b"x" * 101)])
    assert reasons(found) == [("0", "member is too large")]


PAIRS = [[(f"{n}.{ending}", content) for ending, content in (("jpg", IMAGES[n]), ("txt", b"%d" % n))] for n in range(4)]
NAMED_OTHERWISE = {
    "an image with an ending of two parts": (
        [("7.input.jpg", b"x"), ("7.txt", b"seven"), ("8.input.jpg", b"y"), ("8.txt", b"eight")],
        {"7": (b"x", "seven"), "8": (b"y", "eight")},
    ),
    "a caption with an ending of two parts": ([("7.jpg", b"x"), ("7.caption.txt", b"seven")], {"7": (b"x", "seven")}),
    "dots in the name": ([("photo.v2.final.jpg", b"x"), ("photo.v2.final.txt", b"two")], {"photo": (b"x", "two")}),
    "several that share all up to the first dot": (
        [(f"v1.0_{n}.{ending}", b"%d" % n) for n in range(40) for ending in ("jpg", "json", "txt")],
        {},
    ),
    "a version of each": (
        [
            ("a.V1.jpg", b"x"),
            ("a.V1.txt", b"one"),
            ("a.v2.JPG", b"y"),
            ("a.v2.txt", b"two"),
            ("b.jpg", b"z"),
            ("b.txt", b"b"),
        ],
        {"a.V1": (b"x", "one"), "a.v2": (b"y", "two"), "b": (b"z", "b")},
    ),
    "a mask beside it": ([("1.jpg", b"x"), ("1.mask.png", b"m"), ("1.txt", b"one")], {"1": (b"x", "one")}),
}


@pytest.mark.parametrize("case", NAMED_OTHERWISE)
def test_names_with_more_dots_are_images_and_captions(tmp_path, case):
    members, wanted = NAMED_OTHERWISE[case]
    if case.startswith("several"):
        members = [(name, b"{}" if name.endswith("json") else content) for name, content in members]
        wanted = {f"v1.0_{n}": (b"%d" % n, str(n)) for n in range(40)}
    found = read_tar(tmp_path, members)
    assert reasons(found) == []
    assert {one.key.replace("photo.v2.final", "photo"): (one.encoded, one.captions[0]) for one in found} == wanted


def test_of_several_images_of_a_key_one_is_chosen(tmp_path):
    members = [
        ("7.input.jpg", b"x"),
        ("7.Output.jpg", b"y"),
        ("7.txt", b"seven"),
        ("8.input.jpg", b"z"),
        ("8.txt", b"8"),
    ]
    found = read_tar(tmp_path, members)
    assert reasons(found) == [("7", "several images")] and keys(found) == ["8"]
    assert "--option=image=7" not in found[0].detail and "--option=image=Output.jpg" in found[0].detail
    (record, damage) = read_all(tar_shard_parts(tmp_path, image="output.jpg"))
    assert (record.key, record.encoded, record.captions) == ("7", b"y", ("seven",))
    assert damage.reason == "no image" and ".input.jpg" in damage.detail


@pytest.mark.parametrize("order", ["by ending", "captions first", "shuffled", "metadata last"])
def test_files_that_are_not_adjacent_are_named_with_the_fix(tmp_path, order):
    members = [member for pair in PAIRS for member in pair]
    if order == "metadata last":
        members += [(f"{n}.json", b"{}") for n in range(4)]
    elif order == "shuffled":
        members = [members[offset] for offset in (0, 2, 5, 1, 7, 4, 3, 6)]
    else:
        members.sort(key=lambda member: member[0][::-1], reverse=order == "captions first")
    found = read_tar(tmp_path, members)
    assert sorted(reasons(found)) == [(str(n), "files of one key are not adjacent") for n in range(4)]
    assert all("tar --sort=name" in one.detail for one in found if isinstance(one, Damage))
    assert len(keys(found)) == (4 if order == "metadata last" else 0)


@pytest.mark.parametrize("name", ["0.tar", "0.tar.gz", "0.tgz"])
def test_gzip_is_read_whatever_the_file_is_called(shards, name):
    records = read_all(tar_shard_parts(shards))[:4]
    (shards / name).write_bytes(gzip.compress((shards / "00000.tar").read_bytes()))
    for file in shards.glob("0000*.tar"):
        file.unlink()
    (part,) = tar_shard_parts(shards)
    found = list(part.read())
    assert [
        replace(one, key=one.key.removeprefix("0/"), concept=one.concept.removeprefix("0/")) for one in found
    ] == records


def test_a_packed_shard_cut_anywhere_gives_records_and_damage(shards):
    whole = gzip.compress((shards / "00000.tar").read_bytes())
    for file in shards.glob("0000*.tar"):
        file.unlink()
    for cut in range(0, len(whole), 101):
        (shards / "0.tar").write_bytes(whole[:cut])
        found = read_all(tar_shard_parts(shards))
        assert reasons(found) == [("0.tar", "shard is damaged")]
        assert [one.encoded for one in found[:-1]] == IMAGES[: len(found) - 1]


def test_a_bomb_of_gzip_ends_soon(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_members, "MAX_UNPACKED_RATIO", 0)
    with tarfile.open(tmp_path / "0.tar", "w:gz") as archive:
        for name, size in (("1.npy", 2**27), ("2.jpg", 3), ("2.txt", 3)):
            header = tarfile.TarInfo(name)
            header.size = size
            archive.addfile(header, io.BytesIO(bytes(size)))
    (damage,) = read_all(tar_shard_parts(tmp_path))
    assert damage.reason == "shard is damaged" and "unpacks to more than" in damage.detail


@pytest.mark.parametrize(
    ("pack", "name"), [(bz2.compress, "bzip2"), (lzma.compress, "xz"), (lambda content: b"PK\x03\x04" + content, "zip")]
)
def test_other_compression_is_named(shards, pack, name):
    (shards / "00000.tar").write_bytes(pack((shards / "00000.tar").read_bytes()))
    with pytest.raises(UserError, match=rf"00000\.tar .*{name}"):
        read_all(tar_shard_parts(shards))
    (shards / "00000.tar").rename(shards / "00000.tar.xz")
    with pytest.raises(UserError, match=r"00000\.tar\.xz .*--option=pattern=\*\.tar"):
        tar_shard_parts(shards)
    assert len(read_all(tar_shard_parts(shards, pattern="*.tar"))) == 4
