"""A COCO of seven images, written by hand: the same records from zips, from folders and from a bucket."""

import io
import json
import os
import pickle
import re
import zipfile

import pytest
from PIL import Image

from imagen_jax.data.sources.coco import coco_parts
from imagen_jax.data.sources.records import Damage, Record
from imagen_jax.errors import UserError
from tests.storage.uploads import upload

TRAIN = (9, 25, 30, 34)
VALIDATION = (42, 73, 74)
LICENCES = [{"id": 1, "url": "http://by-nc-sa", "name": "A"}, {"id": 4, "url": "http://by", "name": "B"}]


def file_name(official, number):
    return f"COCO_{official}_{number:012d}.jpg"


def jpeg_of(number):
    buffer = io.BytesIO()
    Image.new("RGB", (12, 8), (number, 0, 255 - number)).save(buffer, format="JPEG")
    return buffer.getvalue()


def captions_file(official, numbers):
    images = [
        {
            "id": number,
            "file_name": file_name(official, number),
            "width": 12,
            "height": 8,
            "license": 4,
            "flickr_url": "x",
        }
        for number in numbers
    ]
    annotations = [
        {"id": 10 * number + which, "image_id": number, "caption": f"{word} of  {number}\n"}
        for number in numbers
        for which, word in enumerate(("first", " second", "third"))
    ]
    # In no order, as in the official files.
    return {"info": {}, "images": images[::-1], "licenses": LICENCES, "annotations": annotations[::-1]}


def write_json(file, content):
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def zip_folder(root, name, archive):
    with zipfile.ZipFile(root / archive, "w", zipfile.ZIP_STORED) as stream:
        for file in sorted((root / name).iterdir()):
            stream.write(file, f"{name}/{file.name}")
            file.unlink()
    (root / name).rmdir()


@pytest.fixture
def coco(tmp_path):
    """All of it extracted."""
    for official, numbers in (("train2014", TRAIN), ("val2014", VALIDATION)):
        write_json(tmp_path / "annotations" / f"captions_{official}.json", captions_file(official, numbers))
        (tmp_path / official).mkdir()
        for number in numbers:
            (tmp_path / official / file_name(official, number)).write_bytes(jpeg_of(number))
    return tmp_path


@pytest.fixture
def zipped(coco):
    """All of it as downloaded."""
    zip_folder(coco, "annotations", "annotations_trainval2014.zip")
    zip_folder(coco, "train2014", "train2014.zip")
    zip_folder(coco, "val2014", "val2014.zip")
    return coco


@pytest.fixture
def karpathy(coco):
    """With Karpathy's splits, whose captions differ."""
    roles = {9: "train", 25: "train", 30: "train", 34: "train", 42: "restval", 73: "val", 74: "test"}
    images = []
    for number, role in reversed(roles.items()):
        official = "train2014" if number in TRAIN else "val2014"
        sentences = [{"raw": f" raw of {number} ", "tokens": ["raw"]}, {"raw": " "}]
        names = {"filepath": official, "filename": file_name(official, number)}
        images.append({**names, "cocoid": number, "split": role, "sentences": sentences})
    write_json(coco / "dataset_coco.json", {"dataset": "coco", "images": images})
    return coco


def read_all(parts):
    return [record for part in parts for record in part.read()]


def edit_captions(coco, change, official="train2014"):
    file = coco / "annotations" / f"captions_{official}.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    write_json(file, content)


def expected_records():
    return [
        Record(
            key=f"COCO_{official}_{number:012d}",
            captions=(f"first of {number}", f"second of {number}", f"third of {number}"),
            encoded=jpeg_of(number),
            metadata={"coco_id": number, "width": 12, "height": 8, "license": "http://by"},
            split=split,
        )
        for official, numbers, split in (("train2014", TRAIN, "train"), ("val2014", VALIDATION, "validation"))
        for number in numbers
    ]


def test_records_are_those_of_the_folder(coco):
    parts = coco_parts(coco, images_per_part=3)
    assert [part.name for part in parts] == ["train2014-00000", "train2014-00001", "val2014-00000"]
    assert [len(list(part.read())) for part in parts] == [3, 1, 3]
    assert read_all(parts) == expected_records()


def test_zips_give_the_same_and_win_over_a_folder_that_is_not_whole(zipped):
    (zipped / "train2014").mkdir()
    assert read_all(coco_parts(str(zipped), "plain", 2)) == expected_records()


def test_a_bucket_gives_the_same(coco, bucket):
    upload(coco, bucket / "extracted")
    assert read_all(coco_parts(str(bucket / "extracted"))) == expected_records()
    for name in ("train2014", "val2014"):
        zip_folder(coco, name, f"{name}.zip")
    upload(coco, bucket / "zipped")
    parts = coco_parts(bucket / "zipped")
    assert read_all(parts) == expected_records()
    (bucket / "zipped" / "train2014.zip").write_bytes((coco / "train2014.zip").read_bytes())
    written_again = coco_parts(bucket / "zipped")
    assert [old.fingerprint == new.fingerprint for old, new in zip(parts, written_again, strict=True)] == [False, True]


def test_parts_travel_and_are_read_side_by_side(zipped):
    travelled = pickle.loads(pickle.dumps(coco_parts(zipped, images_per_part=2)))
    readers = [part.read() for part in travelled]
    firsts = [next(reader) for reader in readers]
    assert [record.metadata["coco_id"] for record in firsts] == [9, 30, 42, 74]
    rest = [record.metadata["coco_id"] for reader in readers for record in reader]
    assert rest == [25, 34, 73]


def test_a_part_carries_its_own_images_only(coco):
    first, *_ = coco_parts(coco, images_per_part=1)
    carried = pickle.dumps(first)
    assert b"000000000009" in carried and b"000000000025" not in carried


def test_what_says_nothing_is_no_caption(coco):
    def empty(content):
        for annotation in content["annotations"]:
            if annotation["id"] in (90, 250, 251, 252):
                annotation["caption"] = " \n"

    edit_captions(coco, empty)
    apple, nothing, *_ = read_all(coco_parts(coco))
    assert apple.captions == ("second of 9", "third of 9")
    assert nothing == Damage("COCO_train2014_000000000025", "no caption")


def test_metadata_holds_only_what_is_known(coco):
    def forget(content):
        for image in content["images"]:
            del image["height"], image["license"]

    edit_captions(coco, forget)
    assert read_all(coco_parts(coco))[0].metadata == {"coco_id": 9, "width": 12}


def test_a_missing_image_is_damage(coco):
    (coco / "train2014" / file_name("train2014", 25)).unlink()
    for _ in range(2):
        records = read_all(coco_parts(coco))
        assert [(record.key[-2:], record.reason) for record in records if isinstance(record, Damage)] == [
            ("25", "no image file")
        ]
        assert len(records) == 7
        if (coco / "train2014").exists():
            zip_folder(coco, "train2014", "train2014.zip")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_is_damage_and_the_others_are_read(coco, compression):
    with zipfile.ZipFile(coco / "train2014.zip", "w", compression) as stream:
        for number in TRAIN:
            stream.writestr(f"train2014/{file_name('train2014', number)}", jpeg_of(number))
    with zipfile.ZipFile(coco / "train2014.zip") as stream:
        member = stream.getinfo(f"train2014/{file_name('train2014', 30)}")
    content = bytearray((coco / "train2014.zip").read_bytes())
    middle = member.header_offset + 30 + len(member.filename) + member.compress_size // 2
    content[middle : middle + 4] = bytes(255 - byte for byte in content[middle : middle + 4])
    (coco / "train2014.zip").write_bytes(content)
    records = read_all(coco_parts(coco))
    (damage,) = [record for record in records if isinstance(record, Damage)]
    assert (damage.key, damage.reason) == ("COCO_train2014_000000000030", "damaged image file") and damage.detail
    assert [record for record in records if isinstance(record, Record)] == [
        record for record in expected_records() if record.key != damage.key
    ]


def test_a_zip_that_cannot_be_opened_is_named(zipped):
    whole = (zipped / "val2014.zip").read_bytes()
    (zipped / "val2014.zip").write_bytes(whole[: len(whole) // 2])
    parts = coco_parts(zipped)
    assert len(list(parts[0].read())) == 4
    with pytest.raises(UserError, match=r"\bval2014\.zip"):
        next(parts[1].read())
    (zipped / "annotations_trainval2014.zip").write_bytes(b"half a download")
    with pytest.raises(UserError, match=r"annotations_trainval2014\.zip"):
        coco_parts(zipped)


def test_images_that_went_away_are_named(coco):
    train, validation = coco_parts(coco)
    reader = train.read()
    next(reader)
    os.rename(coco / "train2014", coco / "elsewhere")
    with pytest.raises(UserError, match="train2014"):
        next(reader)
    os.rename(coco / "val2014", coco / "elsewhere too")
    with pytest.raises(UserError, match="val2014"):
        next(validation.read())


def fingerprints(folder, **options):
    return {part.name: part.fingerprint for part in coco_parts(folder, images_per_part=2, **options)}


def differing(before, after):
    return [name for name in before if before[name] != after[name]]


def test_fingerprints_follow_captions_and_zips(zipped):
    before = fingerprints(zipped)
    assert fingerprints(zipped) == before
    os.utime(zipped / "val2014.zip", ns=(1, 1))
    assert differing(before, fingerprints(zipped)) == ["val2014-00000", "val2014-00001"]
    before = fingerprints(zipped)
    write_json(zipped / "annotations" / "captions_val2014.json", captions_file("val2014", VALIDATION))
    write_json(zipped / "annotations" / "captions_train2014.json", captions_file("train2014", TRAIN))
    assert fingerprints(zipped) == before, "it is the same text"
    edit_captions(zipped, lambda content: content["annotations"][0].update(caption="another"))
    assert differing(before, fingerprints(zipped)) == ["train2014-00001"]


@pytest.mark.parametrize(("validation", "validates"), [("val", 73), ("test", 74)])
@pytest.mark.parametrize("subfolder", ["", "annotations"])
def test_karpathy_splits(karpathy, validation, validates, subfolder):
    (karpathy / "dataset_coco.json").rename(karpathy / subfolder / "dataset_coco.json")
    records = read_all(coco_parts(karpathy, splits="karpathy", validation=validation))
    assert [(record.metadata["coco_id"], record.split) for record in records] == [
        *[(number, "train") for number in (9, 25, 30, 34, 42)],
        (validates, "validation"),
    ]
    assert records[4] == Record(
        "COCO_val2014_000000000042", ("raw of 42",), jpeg_of(42), {"coco_id": 42}, split="train"
    )


def test_karpathy_parts_are_of_one_split_and_one_folder(karpathy):
    parts = coco_parts(karpathy, splits="karpathy", images_per_part=3)
    assert [part.name for part in parts] == [
        "karpathy-train-train2014-00000",
        "karpathy-train-train2014-00001",
        "karpathy-restval-val2014-00000",
        "karpathy-val-val2014-00000",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splits": "karpaty"}, "'karpaty'.*'karpathy'"),
        ({"splits": "karpathy", "validation": "restval"}, "validation.*'restval'"),
        ({"validation": "test"}, "validation=test .*splits=karpathy"),
        ({"images_per_part": 0}, "images_per_part.*0"),
        ({"splits": "karpathy"}, r"dataset_coco\.json.*caption_datasets\.zip"),
    ],
)
def test_options_that_mean_nothing_are_named(coco, options, message):
    with pytest.raises(UserError, match=message):
        coco_parts(coco, **options)


def test_what_was_not_downloaded_is_named(coco):
    with pytest.raises(UserError, match="--option=folder="):
        coco_parts("")
    with pytest.raises(UserError, match=r"nowhere: .*train2014\.zip"):
        coco_parts(coco / "nowhere")
    os.rename(coco / "val2014", coco / "elsewhere")
    with pytest.raises(UserError, match=r"\bval2014\.zip"):
        coco_parts(coco)
    (coco / "annotations" / "captions_val2014.json").unlink()
    with pytest.raises(UserError, match=r"annotations/captions_val2014\.json.*annotations_trainval2014\.zip"):
        coco_parts(coco)
    with zipfile.ZipFile(coco / "annotations_trainval2014.zip", "w") as stream:
        stream.writestr("annotations/instances_val2014.json", "{}")
    with pytest.raises(UserError, match=r"annotations_trainval2014\.zip .*annotations/captions_val2014\.json"):
        coco_parts(coco)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "it has no list 'images'"),
        ("{}", "it has no list 'images'"),
        ('{"images": [], "annotations": 3}', "it has no list 'annotations'"),
        # Boxes, as in instances_train2014.json.
        (
            '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": 1, "image_id": 1, "bbox": []}]}',
            "train2014 annotation 0: caption is no text, caption is None",
        ),
        (
            '{"images": [{"file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "a"}]}',
            "train2014 image 0: image without id",
        ),
    ],
)
def test_json_of_something_else_is_refused_with_the_reason(coco, content, reason):
    (coco / "annotations" / "captions_train2014.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=rf"captions_train2014\.json .*{re.escape(reason)}"):
        coco_parts(coco)


def with_entry(kind, number, **change):
    """A change of one entry of a captions file; what becomes None is removed."""

    def edit(content):
        content[kind][number].update(change)
        for name, value in change.items():
            if value is ...:
                del content[kind][number][name]

    return edit


ODD_ENTRIES = {
    "an orphan annotation": (
        with_entry("annotations", 0, image_id=5),
        [("train2014 annotation 0", "annotation of an image that is not listed", "image_id 5")],
    ),
    "a null caption": (
        with_entry("annotations", 0, caption=None),
        [("train2014 annotation 0", "caption is no text", "caption is None")],
    ),
    "a caption of boxes": (
        with_entry("annotations", 0, caption=..., bbox=[1]),
        [("train2014 annotation 0", "caption is no text", "caption is None")],
    ),
    "an annotation that is a number": (
        lambda content: content["annotations"].append(7),
        [("train2014 annotation 12", "annotation without image_id", "")],
    ),
    "an annotation of no image": (
        with_entry("annotations", 0, image_id=...),
        [("train2014 annotation 0", "annotation without image_id", "")],
    ),
    "an id that is a list": (
        with_entry("annotations", 0, image_id=[1]),
        [("train2014 annotation 0", "annotation without image_id", "it is [1]")],
    ),
    "a second image of an id": (
        lambda content: content["images"].append({"id": 9, "file_name": "x.jpg"}),
        [("train2014 image 4", "id appears twice", "9")],
    ),
    "an image that is text": (
        lambda content: content["images"].append("x.jpg"),
        [("train2014 image 4", "image without id", "")],
    ),
    "an image without a file": (
        lambda content: content["images"].append({"id": 77}),
        [("train2014 image 4", "file_name leads to no file of the folder", "None")],
    ),
    "an image elsewhere": (
        lambda content: content["images"].append({"id": 77, "file_name": "../val2014/x.jpg"}),
        [("train2014 image 4", "file_name leads to no file of the folder", "'../val2014/x.jpg'")],
    ),
    "licences of nothing": (lambda content: content["licenses"].extend([None, {"id": 3}, {"url": "x"}, 7]), []),
    "an annotation without its own id": (with_entry("annotations", 2, id=...), []),
}


@pytest.mark.parametrize("case", ODD_ENTRIES)
def test_one_odd_entry_is_named_and_the_others_are_read(coco, case):
    edit, damaged = ODD_ENTRIES[case]
    before = {part.name: part.fingerprint for part in coco_parts(coco)}
    edit_captions(coco, edit)
    parts = coco_parts(coco)
    found = read_all(parts)
    assert [(one.key, one.reason, one.detail) for one in found if isinstance(one, Damage)] == damaged
    records = [one for one in found if isinstance(one, Record)]
    assert [record.key for record in records] == [record.key for record in expected_records()]
    lost = {caption for record in expected_records() for caption in record.captions}
    lost -= {caption for record in records for caption in record.captions}
    assert len(lost) == sum("annotation" in key and not key.endswith("12") for key, _, _ in damaged)
    if not lost and case != "an annotation without its own id":  # which stands last
        assert {part.name: part.fingerprint for part in parts if part.name in before} == before
    assert read_all(pickle.loads(pickle.dumps(parts))) == found


@pytest.mark.parametrize("ids", ["text", "text of images alone", "words", "floats", "no ids of annotations"])
def test_ids_may_be_text_or_lack(coco, ids):
    def change(content):
        for image in content["images"]:
            image["id"] = {"text": str, "text of images alone": str, "words": "id {}".format, "floats": float}.get(
                ids, int
            )(image["id"])
        for annotation in content["annotations"]:
            annotation["image_id"] = {"text": str, "words": "id {}".format}.get(ids, int)(annotation["image_id"])
            if ids == "no ids of annotations":
                del annotation["id"]
            elif ids == "text":
                annotation["id"] = str(annotation["id"])
        if ids == "no ids of annotations":
            content["licenses"] = None

    for official in ("train2014", "val2014"):
        edit_captions(coco, change, official)
    found = sorted(read_all(coco_parts(coco)), key=lambda record: record.key)
    wanted = sorted(expected_records(), key=lambda record: record.key)
    assert [(record.key, sorted(record.captions)) for record in found] == [
        (record.key, sorted(record.captions)) for record in wanted
    ]
    if ids != "words":
        assert [record.metadata["coco_id"] for record in found] == [record.metadata["coco_id"] for record in wanted]


def test_images_in_subfolders_are_read(coco):
    name = file_name("train2014", 9)
    (coco / "train2014" / "more").mkdir()
    (coco / "train2014" / name).rename(coco / "train2014" / "more" / name)
    edit_captions(coco, lambda content: [i.update(file_name=f"more/{name}") for i in content["images"] if i["id"] == 9])
    assert "more/COCO_train2014_000000000009" in [record.key for record in read_all(coco_parts(coco))]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"filepath": "train2017"}, "image of an unknown folder"),
        ({"split": "extra"}, "image of an unknown split"),
        ({"split": []}, "image of an unknown split"),
        ({"sentences": [{}]}, "caption is no text"),
        ({"sentences": None}, "it has no list 'sentences'"),
        ({"cocoid": None}, "image without cocoid"),
        ({"filename": "../x.jpg"}, "filename leads to no file of the folder"),
    ],
)
def test_an_odd_entry_of_other_splits_is_named_and_a_file_of_such_is_refused(karpathy, change, reason):
    before = len(read_all(coco_parts(karpathy, splits="karpathy")))
    content = json.loads((karpathy / "dataset_coco.json").read_text(encoding="utf-8"))
    content["images"][-1].update(change)
    write_json(karpathy / "dataset_coco.json", content)
    found = read_all(coco_parts(karpathy, splits="karpathy"))
    damaged = [one for one in found if isinstance(one, Damage) and one.reason != "no caption"]
    assert [(one.key, one.reason) for one in damaged] == [("karpathy image 6", reason)]
    assert len([one for one in found if isinstance(one, Record)]) == before - 1
    for image in content["images"]:
        image.update(change)
    write_json(karpathy / "dataset_coco.json", content)
    with pytest.raises(UserError, match=rf"dataset_coco\.json .*\(karpathy image 0: {re.escape(reason)}"):
        coco_parts(karpathy, splits="karpathy")


@pytest.mark.parametrize("name", ["../../secret.jpg", "/etc/passwd", "..", "", "a/../b.jpg", "..\\x", 3])
def test_a_photograph_that_lies_elsewhere_is_not_read(tmp_path, name):
    root = tmp_path / "coco"
    for official in ("train2014", "val2014"):
        (root / official).mkdir(parents=True)
        write_json(root / "annotations" / f"captions_{official}.json", captions_file(official, (9,)))
    (tmp_path / "secret.jpg").write_bytes(jpeg_of(1))
    content = captions_file("train2014", (9,))
    content["images"][0]["file_name"] = name
    write_json(root / "annotations" / "captions_train2014.json", content)
    with pytest.raises(UserError, match=r"captions_train2014\.json .*file_name"):
        coco_parts(root)
    content["images"] += captions_file("train2014", (10,))["images"]
    content["annotations"] += captions_file("train2014", (10,))["annotations"]
    write_json(root / "annotations" / "captions_train2014.json", content)
    found = read_all(coco_parts(root))
    assert not any(isinstance(one, Record) for one in found)


def test_a_bomb_in_a_zip_is_no_photograph(tmp_path, monkeypatch):
    monkeypatch.setattr("imagen_jax.data.sources.coco.MAX_MEMBER_BYTES", 2**20)
    for official in ("train2014", "val2014"):
        write_json(tmp_path / "annotations" / f"captions_{official}.json", captions_file(official, (9,)))
        with zipfile.ZipFile(tmp_path / f"{official}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            with archive.open(f"{official}/{file_name(official, 9)}", "w") as member:
                for _ in range(2):
                    member.write(bytes(2**20))
    found = [item for part in coco_parts(tmp_path) for item in part.read()]
    assert [(type(item), item.reason) for item in found] == [(Damage, "damaged image file")] * 2
    assert "more than" in found[0].detail
