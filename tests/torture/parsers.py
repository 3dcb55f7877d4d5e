"""What reads files and requests that strangers made, each with ways to make them inputs that nobody meant."""

import base64
import io
import json
import pickle
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from flax.serialization import msgpack_serialize
from PIL import Image
from safetensors.numpy import save

from imagen_jax.cascade.edits import decode_mask
from imagen_jax.cascade.image_files import encode_picture, read_png_metadata
from imagen_jax.clip.description import read_description
from imagen_jax.clip.hugging_face_folder import read_config as read_clip_config
from imagen_jax.clip.open_clip_folder import read_open_clip_config
from imagen_jax.clip.tokenizer import list_bytes, load_folder_tokenizer, load_openai_vocabulary
from imagen_jax.data.opened_images import DamagedImageError
from imagen_jax.data.pixels import decode_pixels, encode_png
from imagen_jax.data.preparation.image_files import ImageRules, check_image
from imagen_jax.data.prompts import read_prompts
from imagen_jax.data.sources.coco import coco_parts
from imagen_jax.data.sources.tables import table_parts
from imagen_jax.data.sources.tar_shards import read_shard
from imagen_jax.data.stored_images import check_features, read_manifest
from imagen_jax.data.tokenizer import load_sentencepiece
from imagen_jax.encoders.published_clips import SIZES
from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.reference_statistics import load_statistics, read_published_statistics
from imagen_jax.evaluation.reports.side_by_side import images_by_prompt
from imagen_jax.training.monitoring.metrics import read_metrics
from imagen_jax.training.workdir import check_same_run, read_config, require_sections
from imagen_jax.web.pairs import look_into
from imagen_jax.weights.json_settings import read_settings
from imagen_jax.weights.safetensors_folder import SafetensorsFolder
from imagen_jax.weights.t5x_folder import read_leaves
from imagen_jax.weights.torch_file import MAGIC_NUMBER, read_torch_file
from tests.reference.clip_folders import CONFIG, MERGES, make_open_clip_config
from tests.reference.t5_folders import write_tokenizer
from tests.reference.torch_programs import write_tensors
from tests.torture.mutations import (
    either,
    of_bytes,
    of_gzip,
    of_json,
    of_json_lines,
    of_png,
    of_safetensors,
    of_tar,
    of_zip,
    tar_of,
)
from tests.torture.readers import Parser, reading
from tests.torture.requests import order_requests, rating_requests
from tests.torture.stored_parsers import STORED_PARSERS

GOLDEN = Path(__file__).parents[1] / "golden"


def picture(form: str = "PNG", mode: str = "RGB", **options: object) -> bytes:
    """A small picture."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 4), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format=form, **options)
    return buffer.getvalue()


def pictures() -> list[bytes]:
    """Small pictures of every format."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, json.dumps({"prompt": "a cat", "index": "0"})
    return [
        picture("JPEG", exif=exif),
        picture("JPEG", "L", progressive=True),
        picture("JPEG", "CMYK"),
        picture(),
        picture(mode="RGBA", exif=exif),
        picture(mode="P", transparency=3),
        picture("WEBP", lossless=True, exif=exif),
        picture("WEBP", "RGBA"),
        picture("GIF", "P"),
        picture("TIFF", compression="tiff_lzw"),
        picture("TIFF", "L"),
        picture("BMP"),
        picture("PPM"),
        picture("JPEG2000"),
    ]


def safetensors(folder: Path) -> Parser:
    tensors = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b.bias": np.arange(5, dtype=np.float16)}
    contents = [save(tensors), save({"x": np.zeros((0, 3)), **tensors}, {"format": "pt"})]
    single = folder / "model.safetensors"

    def read(content: bytes) -> None:
        single.write_bytes(content)
        for tensor in SafetensorsFolder(folder).values():
            np.array(tensor)

    return Parser(either(of_bytes(contents), of_safetensors(contents)), read)


def safetensors_index(folder: Path) -> Parser:
    (folder / "one.safetensors").write_bytes(save({"a": np.zeros(3)}))
    index = {"metadata": {"total_size": 24}, "weight_map": {"a": "one.safetensors"}}
    file = folder / "model.safetensors.index.json"
    return Parser(of_json([index]), reading(file, lambda _: list(SafetensorsFolder(folder))))


def torch_file(folder: Path) -> Parser:
    tensors = {"conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "bias": np.arange(3, dtype=np.int64)}
    names = ("torch_legacy.pth", "torch_zip.pth", "torch_script.pt")
    golden = [(GOLDEN / name).read_bytes() for name in names]
    written = [write_tensors(folder / "w.pt", tensors, script).read_bytes() for script in (False, True)]
    begin = b"".join(pickle.dumps(part, protocol=2) for part in (MAGIC_NUMBER, 1001, {"little_endian": True}))
    marks = begin + b"\x80\x02" + b"N" * 6000 + b"(t" * 6000 + b"."
    return Parser(
        either(of_bytes([*golden, *written, marks]), of_zip([*written, golden[1]]), of_zip(written)),
        reading(folder / "file.pt", read_torch_file),
    )


def tar_shard(folder: Path) -> Parser:
    image = picture("JPEG")
    members = {"0.jpg": image, "0.txt": "a cat é".encode(), "0.json": b'{"score": 1}', f"{'a' * 150}/1.png": picture()}
    contents = [tar_of(members), tar_of(members, tarfile.GNU_FORMAT), tar_of(members, tarfile.USTAR_FORMAT)]

    def read(path: Path) -> None:
        list(read_shard(folder, path.name))
        list(read_shard(folder, path.name, "name"))

    return Parser(either(of_bytes(contents), of_tar(contents)), reading(folder / "0.tar", read))


def table(folder: Path, ending: str, delimiter: str) -> Parser:
    (folder / "0.png").write_bytes(picture())
    rows = ["image,caption,score", '0.png,"a ""cat"", é",1', "1.png,b,2", '0.png,"two\r\nlines",', "../x.png,a,b"]
    contents = ["\r\n".join(rows).replace(",", delimiter).encode(), b"\xef\xbb\xbf" + "\n".join(rows).encode()]

    def read(path: Path) -> None:
        for part in table_parts(path, images_per_part=2):
            list(part.read())

    return Parser(of_bytes(contents), reading(folder / f"table.{ending}", read))


def prompts_jsonl(folder: Path) -> Parser:
    rows = [{"prompt": "a cat"}, {"Prompt": "a dog é", "seed": 3}, {"caption": "x", "tags": ["a"]}]
    text = "\n".join(map(json.dumps, rows)).encode()
    return Parser(either(of_json_lines(rows), of_bytes([text])), reading(folder / "prompts.jsonl", read_prompts))


def prompts_json(folder: Path) -> Parser:
    documents = [["a cat", {"prompt": "a dog"}], {"prompts": ["a cat"], "n": 1}, {"text": "a cat"}]
    texts = [json.dumps(document).encode() for document in documents]
    lines = [b'{"prompt": "a cat"}\n{"prompt": "a dog"}\n']
    return Parser(either(of_json(documents), of_bytes([*texts, *lines])), reading(folder / "p.json", read_prompts))


def prompts_text(folder: Path) -> Parser:
    return Parser(of_bytes([b"a cat\r\na dog\n\n", "é\n猫\n".encode()]), reading(folder / "p.txt", read_prompts))


def picture_metadata(folder: Path) -> Parser:
    said = {"prompt": "a cat é", "index": "3", "seed": "0"}
    pixels = np.zeros((8, 8, 3), np.uint8)
    png, jpg, webp = (encode_picture(pixels, form, said) for form in ("png", "jpg", "webp"))

    def read(file: Path) -> None:
        found = look_into(file)
        (found if isinstance(found, str) else json.dumps(found.key)).encode()
        read_png_metadata(file)
        images_by_prompt(folder)

    return Parser(either(of_png([png]), of_png([png]), of_bytes([png, jpg, webp])), reading(folder / "a.png", read))


def image(folder: Path) -> Parser:
    contents = pictures()

    def read(content: bytes) -> None:
        damaged = []
        for way in (
            lambda: check_image(content, ImageRules(8)),
            lambda: decode_pixels(content, 8),
            lambda: decode_mask(content),
        ):
            try:
                way()
            except DamagedImageError as error:
                damaged.append(error)
        if damaged:
            raise damaged[0]

    pngs = [content for content in contents if content.startswith(b"\x89PNG")]
    # Three readings, of 64 million pixels at most, which a few bytes can say.
    return Parser(either(of_bytes(contents), of_bytes(contents), of_png(pngs)), read, seconds=5.0)


def coco_captions(folder: Path) -> Parser:
    document = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 8, "height": 8, "license": 1} for n in range(2)],
        "annotations": [{"id": n, "image_id": n % 2, "caption": f"picture {n}"} for n in range(3)],
        "licenses": [{"id": 1, "url": "CC0"}],
    }
    split = {
        "images": [
            {"filepath": "train2014", "split": "train", "filename": "0.jpg", "cocoid": 0, "sentences": [{"raw": "a"}]},
            {"filepath": "val2014", "split": "val", "filename": "0.jpg", "cocoid": 1, "sentences": [{"raw": "b"}]},
        ]
    }
    for name in ("train2014", "val2014", "annotations"):
        (folder / name).mkdir()
    (folder / "train2014" / "0.jpg").write_bytes(picture("JPEG"))
    (folder / "annotations" / "captions_val2014.json").write_text(json.dumps(document))

    def read(content: bytes) -> None:
        is_split = b"cocoid" in content
        (folder / ("dataset_coco.json" if is_split else "annotations/captions_train2014.json")).write_bytes(content)
        for part in coco_parts(folder, "karpathy" if is_split else "plain"):
            list(part.read())

    return Parser(of_json([document, split]), read)


def workdir_config(folder: Path) -> Parser:
    config = {
        "data": {"source": "folder", "resolution": 64, "options": {"folder": "x"}, "crop": "centre"},
        "network": {"name": "unet", "channels": 32, "attention": [16, 8], "dtype": "float32"},
        "sampling": {"steps": 10, "guidance": 1.5},
        "stage": {"low_resolution": None},
        "text": {"name": "minilm", "options": {}},
        "training": {"steps": 10, "seed": 0},
    }

    def read(_: Path) -> None:
        found = read_config(folder)
        require_sections(found, ("network", "sampling", "stage", "text"), folder, "a stage")
        check_same_run(found, config, folder)

    return Parser(of_json([config]), reading(folder / "config.json", read))


def metrics(folder: Path) -> Parser:
    rows = [{"step": 10, "loss": 0.5, "seconds": 1.0}, {"step": 20, "loss": 0.25, "seconds": 2.0}]
    return Parser(of_json_lines(rows), reading(folder / "metrics.jsonl", lambda file: read_metrics(file.parent)))


def clip_config(folder: Path) -> Parser:
    return Parser(of_json([CONFIG]), reading(folder / "config.json", read_clip_config))


def open_clip_config(folder: Path) -> Parser:
    configs = [make_open_clip_config(), make_open_clip_config(vision_cfg={"layers": [1, 2, 1, 1], "image_size": 64})]
    return Parser(of_json(configs), reading(folder / "open_clip_config.json", read_open_clip_config))


def own_clip_config(folder: Path) -> Parser:
    def read(path: Path) -> None:
        read_description(read_settings(path), path)

    return Parser(of_json([SIZES[name].to_json() for name in ("ViT-B/32", "RN50")]),
                  reading(folder / "clip_config.json", read))  # fmt: skip


def clip_vocabulary(folder: Path) -> Parser:
    lines = "\n".join(["#version: 0.2", *MERGES, ""]).encode()

    def read(path: Path) -> None:
        load_openai_vocabulary(path)(["a panda's cat"])

    return Parser(either(of_gzip([lines]), of_gzip([lines]), lambda rng: of_bytes([of_gzip([lines])(rng)])(rng)),
                  reading(folder / "vocabulary.txt.gz", read))  # fmt: skip


def clip_tokenizer(folder: Path) -> Parser:
    letters = list_bytes()
    words = [*letters, *(one + "</w>" for one in letters), *(merge.replace(" ", "") for merge in MERGES)]
    numbers = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    merges = "\n".join(["#version: 0.2", *MERGES, ""]).encode()
    make_merges, make_numbers = of_bytes([merges]), of_json([numbers])

    def make(rng: random.Random) -> bytes:
        if rng.random() < 0.5:
            return b"m" + make_merges(rng)
        return b"v" + make_numbers(rng)

    def read(content: bytes) -> None:
        whole = json.dumps(numbers).encode()
        (folder / "merges.txt").write_bytes(content[1:] if content[:1] == b"m" else merges)
        (folder / "vocab.json").write_bytes(whole if content[:1] == b"m" else content[1:])
        load_folder_tokenizer(folder)(["a panda's cat"])

    return Parser(make, read)


def statistics(folder: Path) -> Parser:
    rng = np.random.default_rng(0)
    sigma = np.cov(rng.standard_normal((3, 9)))
    contents = []
    for save_arrays in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save_arrays(
            buffer, mu=rng.standard_normal(3), sigma=sigma, pictures=9, key=json.dumps({"network": "x", "n": 1})
        )
        contents.append(buffer.getvalue())

    def read(path: Path) -> None:
        try:
            read_published_statistics(path)
        except UserError:
            load_statistics(path, {"network": "x", "n": 1})
            raise
        load_statistics(path, {"network": "x", "n": 1})

    return Parser(either(of_bytes(contents), of_zip(contents)), reading(folder / "statistics.npz", read))


def t5x_checkpoint(folder: Path) -> Parser:
    target = {
        "encoder": {
            "norm": {"scale": np.arange(3, dtype=np.float32)},
            "wo": {"kernel": {"driver": "zarr", "kvstore": {}}},
        }
    }
    content = msgpack_serialize({"version": 3, "optimizer": {"target": target, "state": {"step": np.int32(1)}}})
    return Parser(of_bytes([content]), reading(folder / "checkpoint", read_leaves))


def sentencepiece_model(folder: Path) -> Parser:
    write_tokenizer(folder / "seed.model")
    content = (folder / "seed.model").read_bytes()
    return Parser(
        of_bytes([content]), reading(folder / "spiece.model", lambda path: load_sentencepiece(path)(["a cat"]))
    )


def dataset_files(folder: Path) -> Parser:
    place = "tensorflow_datasets.core.features"
    features = {
        "pythonClassName": f"{place}.features_dict.FeaturesDict",
        "featuresDict": {"features": {"key": {"pythonClassName": f"{place}.text_feature.Text", "text": {}}}},
    }
    manifest = {"source": "folder", "counts": {"train": 3}, "shards": [{"file": "x", "captions": "captions/0.jsonl"}]}

    def read(content: bytes) -> None:
        if b"counts" in content:
            (folder / "manifest.json").write_bytes(content)
            read_manifest(folder)
        else:
            (folder / "features.json").write_bytes(content)
            check_features(folder)

    return Parser(of_json([features, manifest]), read)


def web_page(folder: Path) -> Parser:
    encoded = base64.b64encode(encode_png(np.zeros((8, 8, 3), np.uint8))).decode()
    image_url = f"data:image/png;base64,{encoded}"
    return Parser(*order_requests(image_url))


def rating_page(folder: Path) -> Parser:
    return Parser(*rating_requests(folder))


PARSERS: dict[str, Callable[[Path], Parser]] = {
    "safetensors": safetensors,
    "safetensors_index": safetensors_index,
    "torch_file": torch_file,
    "tar_shard": tar_shard,
    "captions_csv": lambda folder: table(folder, "csv", ","),
    "captions_tsv": lambda folder: table(folder, "tsv", "\t"),
    "prompts_json": prompts_json,
    "prompts_jsonl": prompts_jsonl,
    "prompts_text": prompts_text,
    "picture_metadata": picture_metadata,
    "image": image,
    "coco_captions": coco_captions,
    "workdir_config": workdir_config,
    "metrics": metrics,
    "clip_config": clip_config,
    "open_clip_config": open_clip_config,
    "own_clip_config": own_clip_config,
    "clip_vocabulary": clip_vocabulary,
    "clip_tokenizer": clip_tokenizer,
    "statistics": statistics,
    "t5x_checkpoint": t5x_checkpoint,
    "sentencepiece_model": sentencepiece_model,
    "dataset_files": dataset_files,
    "web_page": web_page,
    "rating_page": rating_page,
    **STORED_PARSERS,
}
