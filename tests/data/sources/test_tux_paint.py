import errno
import os
import pickle
from pathlib import Path

import pytest

from imagen_jax.data.preparation.conversion import read_part
from imagen_jax.data.sources.records import Damage, Record
from imagen_jax.data.sources.tux_paint import tux_paint_parts
from imagen_jax.errors import UserError
from tests.data.conftest import noise, png_of

TEXTS = {
    "animals/birds/owl": b"An owl. \nde.utf8=Eine Eule.\n",
    "animals/bear": b"\xef\xbb\xbfA  bear.\r\nfr.utf8=Un ours.\r\n",
    "animals/old bear": b"a BEAR.\nfr.utf8=Un vieil ours \xe9.\n",
    "food/apple": b"",
    "food/bread": b" \nde.utf8=Brot.\n",
    "food/cheese": b"pt_BR.utf8=Queijo.\n",
    "food/jelly": b"Gel\xe9e.\n",
}


@pytest.fixture
def stamps(tmp_path):
    for seed, (name, text) in enumerate(TEXTS.items()):
        image = tmp_path / f"{name}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(png_of(noise(seed, 8)))
        image.with_suffix(".txt").write_bytes(text)
    (tmp_path / "food" / "fig.png").write_bytes(png_of(noise(20, 8)))
    for name in ("animals/bear_mirror.png", "animals/bear_flip.png", "animals/bear_mirror_flip.png"):
        (tmp_path / name).write_bytes(b"a variant")
    for name in ("animals/bear.dat", "animals/bear.ogg", "animals/cow.svg", "animals/cow.txt"):
        (tmp_path / name).write_bytes(b"something else")
    return tmp_path


def read_all(folder, images_per_part=200):
    return [record for part in tux_paint_parts(folder, images_per_part) for record in part.read()]


def test_stamps_have_the_first_lines_of_their_texts(stamps):
    bear, owl, old_bear = read_all(stamps)[:3]
    assert bear == Record("animals/bear", ("A bear.",), png_of(noise(1, 8)), concept="a bear.")
    assert owl == Record("animals/birds/owl", ("An owl.",), png_of(noise(0, 8)), concept="an owl.")
    assert old_bear.captions == ("a BEAR.",) and old_bear.concept == bear.concept, "what follows need not be UTF-8"


def test_what_has_no_caption_is_damage(stamps):
    rest = read_all(stamps)[3:]
    assert all(isinstance(record, Damage) for record in rest)
    assert [(record.key, record.reason) for record in rest] == [
        ("food/apple", "no caption"),
        ("food/bread", "no caption"),
        ("food/cheese", "no caption"),
        ("food/fig", "no caption"),
        ("food/jelly", "caption is not UTF-8"),
    ]


def test_parts_of_any_size_travel_and_give_the_same(stamps):
    parts = pickle.loads(pickle.dumps(tux_paint_parts(str(stamps), images_per_part=3)))
    assert [part.name for part in parts] == ["stamps-00000", "stamps-00001", "stamps-00002"]
    assert [len(list(part.read())) for part in parts] == [3, 3, 2]
    assert [record for part in parts for record in part.read()] == read_all(stamps)


def test_a_fingerprint_follows_images_and_texts(stamps):
    def differing(name):
        before = tux_paint_parts(stamps, images_per_part=3)
        os.utime(stamps / name, ns=(1, 1))
        after = tux_paint_parts(stamps, images_per_part=3)
        return [old.name for old, new in zip(before, after, strict=True) if old.fingerprint != new.fingerprint]

    assert differing("animals/birds/owl.png") == ["stamps-00000"]
    assert differing("food/bread.txt") == ["stamps-00001"]
    assert differing("animals/cow.svg") == []


def test_a_file_that_went_away_is_damage(stamps):
    (part,) = tux_paint_parts(stamps)
    (stamps / "animals" / "bear.png").unlink()
    damage, owl, *_ = part.read()
    assert (damage.key, damage.reason) == ("animals/bear", "file can't be read")
    assert owl.captions == ("An owl.",)


def test_a_disk_that_fails_ends_the_reading_and_one_file_does_not(stamps, monkeypatch):
    (part,) = tux_paint_parts(stamps)

    def fail_with(number):
        def read_bytes(path):
            raise OSError(number, os.strerror(number), str(path))

        monkeypatch.setattr(Path, "read_bytes", read_bytes)

    for number in (errno.EACCES, errno.EIO, errno.ELOOP):
        fail_with(number)
        assert next(part.read()) == Damage("animals/bear", "file can't be read", os.strerror(number))
    for number in (errno.EMFILE, errno.ESTALE, errno.ENOSPC):
        fail_with(number)
        with pytest.raises(UserError, match=rf"stamps-00000 .*{os.strerror(number)}"):
            next(read_part(part))


def test_no_stamps_are_named(tmp_path):
    with pytest.raises(UserError, match=rf"{tmp_path}/nowhere .*apt install tuxpaint-stamps-default"):
        tux_paint_parts(tmp_path / "nowhere")
    with pytest.raises(UserError, match=rf"{tmp_path} .*apt install"):
        tux_paint_parts(tmp_path)
    with pytest.raises(UserError, match=r"images_per_part.*0"):
        tux_paint_parts(tmp_path, images_per_part=0)
