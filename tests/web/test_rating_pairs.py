"""Pairs of two folders, skipped files, and the order of pairs for each rater."""

import re
import shutil
from collections import Counter

import pytest
from PIL import Image

from imagen_jax.errors import UserError
from imagen_jax.web.blinding import deal, hide, image_name
from imagen_jax.web.pairs import make_comparison, read_key
from tests.web.rating_folders import BLUE, PROMPTS, write_image, write_two_folders

SECRET = b"secret of a test"


def test_images_of_the_same_prompt_and_index_are_paired(tmp_path):
    ours, theirs = write_two_folders(tmp_path, each=2)
    comparison = make_comparison(ours, theirs)
    assert Counter(pair.prompt for pair in comparison.pairs) == dict.fromkeys(PROMPTS, 2)
    for pair in comparison.pairs:
        (a,), (b,) = pair.a, pair.b
        assert a.name == b.name and (a.parent, b.parent) == (ours, theirs) and pair.category == "all"
    assert comparison.names == ("ours", "theirs") and comparison.notes == ()
    assert len({pair.key for pair in comparison.pairs}) == 6


def test_sets_of_images_are_shown_together(tmp_path):
    ours, theirs = write_two_folders(tmp_path, each=5)
    pairs = make_comparison(ours, theirs, together=2).pairs
    assert sorted(len(pair.a) for pair in pairs) == [1] * 3 + [2] * 6
    assert all([file.name for file in pair.a] == [file.name for file in pair.b] for pair in pairs)
    assert len(make_comparison(ours, theirs, together=8).pairs) == 3


@pytest.mark.parametrize("form", ["png", "jpg", "webp"])
def test_every_format_has_its_prompt_and_index(tmp_path, form):
    file = write_image(tmp_path, PROMPTS[1], 3, form=form)
    assert read_key(file.read_bytes()) == (PROMPTS[1], 3)


def test_metadata_after_the_pixels_is_found_too(tmp_path):
    content = write_image(tmp_path, "panda", 1).read_bytes()
    at = {name: content.index(name) - 4 for name in (b"iTXt", b"IDAT", b"IEND")}
    moved = content[: at[b"iTXt"]] + content[at[b"IDAT"] : at[b"IEND"]] + content[at[b"iTXt"] : at[b"IDAT"]]
    assert read_key(moved + content[at[b"IEND"] :]) == ("panda", 1)


def test_two_formats_are_paired_and_other_files_left_alone(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    write_image(ours, "panda", form="png")
    write_image(theirs, "panda", colour=BLUE, form="jpg")
    (ours / "sampling.json").write_text("{}")
    Image.new("RGB", (4, 4)).save(ours / "grid.png")
    comparison = make_comparison(ours, theirs)
    assert len(comparison.pairs) == 1 and comparison.notes == ()


@pytest.mark.parametrize(
    "header", ["Prompts,Category", "prompt,category", "PROMPT, CATEGORY", "\ufeffPrompts,Category"], ids=str.strip
)
def test_categories_come_from_the_table(tmp_path, header):
    ours, theirs = write_two_folders(tmp_path)
    rows = [header, " a red apple ,Colors", '"a pizza, with ""everything""",DALL-E', "a red apple,Counting"]
    (theirs / "prompts.csv").write_text("\n".join(rows))
    found = {pair.prompt: pair.category for pair in make_comparison(ours, theirs).pairs}
    assert found == dict(zip(PROMPTS, ["Colors", "other", "DALL-E"], strict=True))


@pytest.mark.parametrize(
    ("table", "facts"),
    [("caption,kind\nx,y", "prompt and category"), ("prompt,category\na,b,c", r"line 2 of .*prompts\.csv")],
)
def test_an_invalid_table_is_refused(tmp_path, table, facts):
    ours, theirs = write_two_folders(tmp_path)
    (ours / "prompts.csv").write_text(table)
    with pytest.raises(UserError, match=facts):
        make_comparison(ours, theirs)


def test_skipped_files_and_prompts_are_noted(tmp_path):
    ours, theirs = write_two_folders(tmp_path)
    write_image(ours, "only here")
    write_image(theirs, PROMPTS[0], 7, BLUE)
    Image.new("RGB", (4, 4)).save(ours / "silent.png")
    damaged = write_image(theirs, PROMPTS[1], 0, BLUE)
    damaged.write_bytes(damaged.read_bytes()[:-30])
    comparison = make_comparison(ours, theirs)
    assert {pair.prompt for pair in comparison.pairs} == {PROMPTS[0], PROMPTS[2]}
    facts = [[str(damaged)], ["1 of", "silent.png"], ["2 prompt", str(ours), repr(PROMPTS[1])], ["1 image"]]
    assert len(comparison.notes) == len(facts)
    for own in facts:
        assert any(all(fact in note for fact in own) for note in comparison.notes), own


def test_folders_that_can_not_be_compared_are_refused(tmp_path):
    ours, theirs = write_two_folders(tmp_path)
    write_image(tmp_path / "others", "something else")
    (tmp_path / "empty").mkdir()
    shutil.copytree(ours, tmp_path / "copy")
    for a, b, named in (
        (ours, tmp_path / "none", tmp_path / "none"),
        (ours, ours / ".." / "ours", ours),
        (ours, tmp_path / "copy", tmp_path / "copy"),
        (ours, tmp_path / "empty", tmp_path / "empty"),
        (ours, tmp_path / "others", tmp_path / "others"),
    ):
        with pytest.raises(UserError, match=re.escape(str(named))):
            make_comparison(a, b)
    (theirs / "again.png").write_bytes(write_image(theirs, PROMPTS[0], 0, BLUE).read_bytes())
    with pytest.raises(UserError, match=r"again\.png"):
        make_comparison(ours, theirs)


def test_names_are_long_enough_to_differ(tmp_path):
    write_two_folders(tmp_path)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    ours, theirs = (
        (tmp_path / "ours").rename(tmp_path / "one/pictures"),
        (tmp_path / "theirs").rename(tmp_path / "two/pictures"),
    )
    assert make_comparison(ours, theirs).names == ("one/pictures", "two/pictures")


@pytest.fixture
def pairs(tmp_path):
    return make_comparison(*write_two_folders(tmp_path, [f"prompt {number}" for number in range(60)])).pairs


def test_each_rater_has_an_order_and_sides_of_their_own_and_keeps_them(pairs):
    ann, bob = deal(SECRET, "Ann", pairs), deal(SECRET, "Bob", pairs)
    assert ann == deal(SECRET, "Ann", pairs[::-1]), "whatever order they are found in"
    assert {one.pair for one in ann} == {one.pair for one in bob} == set(pairs)
    assert [one.pair for one in ann] != [one.pair for one in bob]
    sides = [{one.pair.key: one.left for one in dealt} for dealt in (ann, bob)]
    assert sides[0] != sides[1] and not {one.name for one in ann} & {one.name for one in bob}
    assert [one.pair for one in deal(b"another", "Ann", pairs)] != [one.pair for one in ann]


def test_sides_and_positions_are_fair(pairs):
    # Of 12,000 throws 5 standard deviations are 274; of a position's mean over 200 raters, 17.3 / √200 each, 6.1.
    dealt = [deal(SECRET, f"rater {number}", pairs) for number in range(200)]
    left = sum(one.left == "a" for of_rater in dealt for one in of_rater)
    assert abs(left - 6000) < 274
    means = dict.fromkeys(pairs, 0.0)
    for of_rater in dealt:
        for position, one in enumerate(of_rater):
            means[one.pair] += position / len(dealt)
    assert max(abs(mean - 29.5) for mean in means.values()) < 6.1


def test_names_are_opaque_and_unique(pairs):
    names = [image_name(SECRET, pair, side, number) for pair in pairs for side in "ab" for number in range(3)]
    assert len(set(names)) == len(names) == 360
    assert all(len(name) == 24 and set(name) <= set("0123456789abcdef") for name in names)
    # Parts can't run into each other.
    assert hide(SECRET, "a", "bc") != hide(SECRET, "ab", "c")
