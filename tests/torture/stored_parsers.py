"""What reads tables, tokenizers and the files that our own programs keep, as ``parsers`` does for the others."""

import hashlib
import importlib
import io
import json
import random
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from imagen_jax.clip.tokenizer import load_folder_tokenizer
from imagen_jax.data.sources.tables import table_parts
from imagen_jax.encoders.embedding_bucket import write_bucket
from imagen_jax.encoders.embedding_layer import open_layer, recall
from imagen_jax.encoders.embedding_store import EmbeddingStore
from imagen_jax.errors import UserError
from imagen_jax.storage.json_text import parse_json
from imagen_jax.training.checkpoints.folder import DamageError
from imagen_jax.training.checkpoints.metadata import check_fits, check_numbers, digest_of, read_record, write_record
from imagen_jax.training.checkpoints.reading import DAMAGE, as_stored, raise_what_it_means
from imagen_jax.web.pairs import Comparison, Pair
from imagen_jax.web.ratings import RatingStore
from tests.torture.mutations import TEXTS, edit_json, edit_value, either, of_bytes, of_json, of_safetensors
from tests.torture.readers import Parser, reading


def captions_parquet(folder: Path) -> Parser:
    pytest.importorskip("pyarrow")
    arrow, parquet = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet"))
    names = [f"{number}.png" for number in range(6)]
    tables: list[dict[str, Any]] = [
        {"image": names, "caption": ["a cat é", "a dog", "a dog", "", "x" * 300, "猫"], "score": [1, 2, None, 4, 5, 6]},
        {"image": names, "caption": [["a", "b"], [], None, ["c"] * 9, ["d"], ["d"]], "loud": [True, None] * 3},
    ]
    settings: list[dict[str, Any]] = [
        {"compression": "none"},
        {"compression": "snappy", "row_group_size": 4},
        {"compression": "zstd", "use_dictionary": False, "data_page_version": "2.0"},
        {"compression": "none", "use_dictionary": False, "column_encoding": {"image": "DELTA_BYTE_ARRAY"}},
    ]
    contents = []
    for columns in tables:
        for options in settings:
            buffer = io.BytesIO()
            parquet.write_table(arrow.table(columns), buffer, store_schema=len(contents) % 2 == 0, **options)
            contents.append(buffer.getvalue())

    def read(path: Path) -> None:
        for part in table_parts(path, images_per_part=2):
            list(part.read())

    return Parser(of_bytes(contents), reading(folder / "table.parquet", read))


def checkpoint_record(folder: Path) -> Parser:
    wanted = {"layer": {"bias": np.arange(3, dtype=np.float32)}}
    record = write_record({"epoch": 1, "rows": [1, 2]}, {"ema_params": wanted, "state": {"step": np.asarray(7)}})
    old = {"data_state": {"epoch": 1}}

    def make(rng: random.Random) -> bytes:
        value = rng.choice((record, record, old))
        if rng.random() < 0.3:
            return edit_json(rng, {"custom_metadata": value})
        for _ in range(rng.choice((1, 1, 3))):
            value = edit_value(rng, value)
        if isinstance(value, dict) and "digest" in value and rng.random() < 0.9:
            body = {name: one for name, one in value.items() if name != "digest"}
            with suppress(ValueError):  # it has what no JSON may have
                value["digest"] = digest_of(body)
        return json.dumps({"custom_metadata": value}).encode()

    def read(content: bytes) -> None:
        try:
            try:
                found = read_record(parse_json(content)["custom_metadata"], folder)
                if found.arrays:
                    types = found.arrays["ema_params"]
                    check_fits(folder, types, wanted)
                    as_stored(wanted, types)
                    check_numbers(wanted, found.fingerprints["ema_params"])
            except DAMAGE as error:
                raise_what_it_means(error, folder)
        except DamageError as error:
            raise UserError(str(error)) from error

    return Parser(make, read)


def embedding_store(folder: Path) -> Parser:
    captions = {"a cat": 3, "a dog é": 5, "": 1}
    rows = {caption: np.full((tokens, 4), tokens, ml_dtypes.bfloat16) for caption, tokens in captions.items()}
    layer = folder / "layer"
    layer.mkdir()
    bucket = layer / "00000.safetensors"
    size, checksum = write_bucket(bucket, rows, 4)
    said = {
        "encoder": "letters",
        "width": 4,
        "captions": 3,
        "lengths": {"1": 1, "3": 1, "5": 1},
        "buckets": [{"file": bucket.name, "bytes": size, "sha256": checksum}],
    }
    whole, note = bucket.read_bytes(), {"layer": "layer"}
    make_store, make_note, make_bucket = (
        of_json([said]),
        of_json([note]),
        either(of_bytes([whole]), of_safetensors([whole])),
    )

    def make(rng: random.Random) -> bytes:
        kind, make_one = rng.choice(((b"s", make_store), (b"n", make_note), (b"b", make_bucket), (b"b", make_bucket)))
        return kind + make_one(rng)

    def read(content: bytes) -> None:
        kind, content = content[:1], content[1:]
        # A new file: the old one may be mapped.
        bucket.unlink()
        bucket.write_bytes(content if kind == b"b" else whole)
        one = {"file": bucket.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        told = {**said, "buckets": [one]} if kind == b"b" else said
        (layer / "store.json").write_bytes(content if kind == b"s" else json.dumps(told).encode())
        (folder / "data.json").write_bytes(content if kind == b"n" else json.dumps(note).encode())
        found = recall(folder, "data", verify=True) or open_layer(layer)
        store = EmbeddingStore("letters", found.width, (found,))
        store.lookup(list(captions), 4)
        store.find(next(iter(captions)))

    return Parser(make, read)


def tokenizer_json(folder: Path) -> Parser:
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "panda", "##s", "'", "cat", "c", "##a", "##t")
    tokenizer = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(["[CLS]", "[SEP]"])
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding()
    value = json.loads(tokenizer.to_str())

    def read(path: Path) -> None:
        load_folder_tokenizer(path.parent)(["a panda's cat é", ""])

    return Parser(
        either(of_json([value]), of_bytes([json.dumps(value).encode()])), reading(folder / "tokenizer.json", read)
    )


def ratings(folder: Path) -> Parser:
    pairs = tuple(Pair(f"{number:032d}", f"a cat {number}", "Animals", (), ()) for number in range(3))
    comparison = Comparison(("ours", "theirs"), pairs, ("0" * 64, "1" * 64), ())
    file = folder / "ratings.sqlite"
    with RatingStore(file, comparison) as store:
        for pair in pairs:
            store.keep("Ann", pair.key, "a", "left", "indifferent")
    with sqlite3.connect(file, isolation_level=None) as connection:
        # An input follows from its number alone.
        connection.execute("UPDATE about SET value = ? WHERE name = 'secret'", ("5" * 64,))
        connection.execute("UPDATE ratings SET answered = '2026-01-01T00:00:00+00:00'")
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("VACUUM")
        whole = connection.serialize()
    connection.close()

    def make(rng: random.Random) -> bytes:
        connection = sqlite3.connect(":memory:", isolation_level=None)
        connection.deserialize(whole)
        connection.execute("PRAGMA ignore_check_constraints = ON")
        for _ in range(rng.choice((1, 1, 3))):
            statement, *values = rng.choice(EDITS)(rng)
            with suppress(sqlite3.Error, UnicodeEncodeError):  # an earlier one may have taken what it needs
                connection.execute(statement, values)
        content = connection.serialize()
        connection.close()
        return of_bytes([content])(rng) if rng.random() < 0.2 else content

    def read(content: bytes) -> None:
        for old in folder.glob("ratings.sqlite*"):
            old.unlink()
        file.write_bytes(content)
        with RatingStore(file) as store:
            json.dumps([store.ratings(), store.count_pairs(), store.share_of_left(), store.names]).encode()
            store.rated("Ann")
        with RatingStore(file, comparison) as store:
            store.keep("Bob", pairs[0].key, "b", "right", "left")

    return Parser(either(make, of_bytes([whole])), read)


COLUMNS = {
    "about": ("name", "value"),
    "pairs": ("pair", "prompt", "category"),
    "ratings": ("rater", "pair", '"left"', "alignment", "fidelity", "answered"),
}


def strange_cell(rng: random.Random) -> Any:
    """A value that a cell of SQLite can have."""
    return rng.choice((None, 0, -1, 2**63 - 1, 0.5, float("inf"), b"", b"\xff\0", "left", "a", *TEXTS))


def edit_cell(rng: random.Random) -> tuple[Any, ...]:
    table = rng.choice(list(COLUMNS))
    return (
        f"UPDATE {table} SET {rng.choice(COLUMNS[table])} = ? WHERE rowid = ?",
        strange_cell(rng),
        rng.randrange(1, 6),
    )


def edit_text(rng: random.Random) -> tuple[Any, ...]:
    """Makes a text of bytes that may be no UTF-8."""
    table = rng.choice(list(COLUMNS))
    return f"UPDATE {table} SET {rng.choice(COLUMNS[table])} = CAST(? AS TEXT)", rng.choice(
        (b"\xff", b"a\0b", b"\xed\xa0\x80")
    )


def edit_schema(rng: random.Random) -> tuple[Any, ...]:
    table = rng.choice(list(COLUMNS))
    return (
        rng.choice(
            (
                f"DROP TABLE {table}",
                f"DELETE FROM {table}",
                f"ALTER TABLE {table} RENAME TO other",
                f"ALTER TABLE {table} RENAME COLUMN {rng.choice(COLUMNS[table])} TO other",
                f"PRAGMA application_id = {rng.choice((0, 1, -1))}",
                f"PRAGMA user_version = {rng.randrange(9)}",
                "CREATE VIEW v AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
                f"CREATE TRIGGER t BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'no'); END",
                "CREATE TRIGGER t AFTER INSERT ON ratings BEGIN DELETE FROM pairs; END",
            )
        ),
    )


def make_view(rng: random.Random) -> tuple[Any, ...]:
    """A table's name for what never ends, once the table is gone."""
    table = rng.choice(list(COLUMNS))
    columns = ", ".join(COLUMNS[table])
    numbers = ", ".join("i" for _ in COLUMNS[table])
    return (
        f"CREATE VIEW {table}({columns}) AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
        f"SELECT {numbers} FROM n",
    )


EDITS: tuple[Callable[[random.Random], tuple[Any, ...]], ...] = (
    edit_cell,
    edit_cell,
    edit_text,
    edit_schema,
    make_view,
)

STORED_PARSERS: dict[str, Callable[[Path], Parser]] = {
    "captions_parquet": captions_parquet,
    "checkpoint_record": checkpoint_record,
    "embedding_store": embedding_store,
    "tokenizer_json": tokenizer_json,
    "ratings": ratings,
}
