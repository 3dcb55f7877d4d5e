"""Prepares a source of any size as a data set: in parallel, resumable, and with counts.

    parts -> workers -> OUT/parts/00003/ (a shard of each split, a report) -> repetitions removed, files named
    -> OUT/captioned_images/, captions/, quarantine.jsonl, repeated.jsonl
    -> OUT/manifest.json (written last: it means "complete")

After an interruption, the same command converts only the parts without a report, and the result is byte-identical.
Unreadable records are left out and listed; preparation stops if there are too many.

Of records that repeat each other the first is kept. ``repeated.jsonl`` has a line for each of the others: its ``key``,
the ``test`` that found it (see ``Preparation.duplicates``), and as ``of`` the key of the record that is kept.
"""

import json
import os
import pathlib
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from imagen_jax.data.preparation.begun_jobs import JOB, PARTS, UnfitError, begin, noting_unfit
from imagen_jax.data.preparation.conversion import (
    QUARANTINE,
    UNFINISHED,
    Conversion,
    captions_file,
    convert_part,
    records_file,
)
from imagen_jax.data.preparation.repetitions import find_repetitions
from imagen_jax.data.preparation.shards import (
    DATASET,
    ONE_BY_ONE,
    read_json,
    read_lines,
    shard_name,
    write_dataset_info,
    write_json,
    write_lines,
)
from imagen_jax.data.preparation.statistics import add_up, sort_values
from imagen_jax.data.preparation.workers import die_with_parent, ignore_ctrl_c
from imagen_jax.data.sources.records import Part, fingerprint_of
from imagen_jax.data.splits import SPLITS
from imagen_jax.data.stored_images import MANIFEST, PREPARED_FORMAT
from imagen_jax.errors import UserError
from imagen_jax.runtime.progress import tqdm
from imagen_jax.storage.folder_locks import locked
from imagen_jax.storage.holders import LOCK
from imagen_jax.storage.json_text import parse_json
from imagen_jax.storage.local_copies import put_in_bucket
from imagen_jax.storage.paths import Path, checksum_of, size_of, sync, sync_all
from imagen_jax.storage.refusals import explaining_disk

CAPTIONS_FOLDER = "captions"
REPEATED = "repeated.jsonl"

ENOUGH_TO_JUDGE = 10_000
"""Min number of records after which too large a fraction of bad ones stops the conversion early."""


@dataclass(frozen=True)
class Preparation:
    """What is prepared, and how.

    Attributes:
        source: name of the source.
        options: options of the source, JSON-serialisable.
        attribution: credit and licence of the source, one line.
        parts: parts of the source.
        conversion: settings for every record.
        duplicates: which repetitions are removed. "keys": records with the key of an earlier one; "files": also those
            with the same image file; "looks": also those that look the same.
        max_bad_fraction: max fraction of unreadable records, from 0 to 1; more stop the preparation.
    """

    source: str
    options: Mapping[str, Any]
    attribution: str
    parts: Sequence[Part]
    conversion: Conversion = field(default_factory=Conversion)
    duplicates: str = "files"
    max_bad_fraction: float = 0.1

    def describe(self) -> dict[str, Any]:
        """Returns the settings that distinguish one data set from another, JSON-serialisable."""
        rules = parse_json(json.dumps(asdict(self.conversion), default=str))
        parts = [[part.name, part.fingerprint] for part in self.parts]
        return {
            "format": PREPARED_FORMAT,
            "source": self.source,
            "options": dict(self.options),
            "conversion": rules,
            "duplicates": self.duplicates,
            "parts": fingerprint_of(parts),
        }


def prepare(preparation: Preparation, out: pathlib.Path, workers: int) -> dict[str, Any]:
    """Prepares the data set in ``out``, unless it is there already, and returns its manifest.

    Args:
        preparation: what is prepared, and how.
        out: folder of the data set.
        workers: number of worker processes; 0: conversion in this process.

    Raises:
        UserError: ``out`` contains another data set or is unwritable, another process writes there, too many records
            are bad, no training images are left, or reading a part raises it.
    """
    fix = "make room or choose another --out; the same command continues"
    with explaining_disk(f"the data set can't be written into {out}", fix):
        out.mkdir(parents=True, exist_ok=True)
        with locked(out, "--out"):
            begin(preparation.describe(), out)
            manifest = read_json(out / MANIFEST)
            for left_over in (out / PARTS).glob(f"*{UNFINISHED}"):
                shutil.rmtree(left_over)
            if manifest is None:
                with noting_unfit(out):
                    reports = convert_all(preparation, out / PARTS, workers)
                    manifest = assemble(preparation, out, reports)
            shutil.rmtree(out / PARTS, ignore_errors=True)
            return manifest


def upload(folder: pathlib.Path, out: Path) -> None:
    """Copies a finished data set into a bucket, the manifest last.

    Files that are there already with the same size are skipped, except the job, the manifest and the two lists of
    records.
    """
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != LOCK]
    for file in sorted(files, key=lambda file: (file.name == MANIFEST, file)):
        target = out / file.relative_to(folder).as_posix()
        if (
            file.name in (JOB, MANIFEST, QUARANTINE, REPEATED)
            or not target.exists()
            or size_of(target) != file.stat().st_size
        ):
            put_in_bucket(file, target)


def convert_all(preparation: Preparation, folder: pathlib.Path, workers: int) -> list[dict[str, Any]]:
    """Converts all parts and returns their reports, in order.

    Raises:
        UserError: too many records are bad, a worker was killed, or reading a part raises it.
    """
    jobs = [(part, folder / f"{number:05d}", preparation.conversion) for number, part in enumerate(preparation.parts)]
    reports: dict[int, dict[str, Any]] = {}
    good = bad = 0
    with tqdm(total=len(jobs), desc=f"preparing {preparation.source}", unit="part") as progress:

        def add_report(number: int, report: dict[str, Any]) -> None:
            nonlocal good, bad
            reports[number] = report
            more, worse = count_of(report)
            good, bad = good + more, bad + worse
            progress.update()
            progress.set_postfix_str(f"{good:,} read, {bad:,} bad", refresh=False)
            if good + bad >= ENOUGH_TO_JUDGE:
                check_share(preparation, good, bad, reports.values(), folder)

        if not workers:
            for number, job in enumerate(jobs):
                add_report(number, convert_part(*job))
        else:
            # Spawned processes: a fork would copy locks that this process's threads hold.
            with ProcessPoolExecutor(workers, get_context("spawn"), initializer=begin_worker) as pool:
                waiting: dict[Future[dict[str, Any]], int] = {
                    pool.submit(convert_part, *job): number for number, job in enumerate(jobs)
                }
                try:
                    for done in as_completed(waiting):
                        add_report(waiting[done], done.result())
                except BrokenProcessPool as error:
                    raise UserError(
                        "a worker was killed, perhaps for lack of memory: run the same command with fewer --workers"
                    ) from error
                finally:
                    pool.shutdown(wait=False, cancel_futures=True)
    check_share(preparation, good, bad, reports.values(), folder)
    return [reports[number] for number in range(len(jobs))]


def begin_worker() -> None:
    """Initialises a worker process: it exits with its parent and ignores Ctrl-C."""
    die_with_parent()
    ignore_ctrl_c()


def count_of(report: Mapping[str, Any]) -> tuple[int, int]:
    """Returns a part's number of good records, kept or dropped, and of bad ones."""
    return sum(report["counts"].values()) + sum(report["dropped"].values()), sum(report["damaged"].values())


def check_share(
    preparation: Preparation, good: int, bad: int, reports: Iterable[Mapping[str, Any]], folder: pathlib.Path
) -> None:
    """Checks that the fraction of bad records in the reports is within its limit; ``folder`` contains the parts.

    Raises:
        UnfitError: it exceeds ``max_bad_fraction``. The message contains the reasons, and an example of the most
            frequent one.
    """
    if bad > preparation.max_bad_fraction * (good + bad):
        reasons = add_counts(report["damaged"] for report in reports)
        named = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items(), key=lambda item: -item[1]))
        example = find_damage(folder, max(reasons, key=lambda reason: reasons[reason]))
        raise UnfitError(
            f"{bad} of {good + bad} records can't be read ({named}){example}: fix the source, or raise "
            "--max_bad_fraction"
        )


def find_damage(folder: pathlib.Path, reason: str) -> str:
    """Returns an example of damage with a given reason, as the end of a sentence; "" if there is none."""
    for file in sorted(folder.glob(f"*/{QUARANTINE}")):
        for row in read_lines(file):
            if row["reason"] == reason:
                return f", such as {row['key']}" + (f" ({row['detail']})" if row["detail"] else "")
    return ""


def add_counts(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Returns the sums of counts by name."""
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(sorted(total.items()))


def assemble(preparation: Preparation, out: pathlib.Path, reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Assembles the data set from converted parts, without repetitions, and writes its manifest.

    Raises:
        UserError: no training images are left, or a part's shard has a wrong number of records.
    """
    folders = [out / PARTS / f"{number:05d}" for number in range(len(reports))]
    repetitions = find_repetitions(folders, preparation.duplicates)
    kept = repetitions.kept()
    if not any(rows.any() for rows in kept["train"]):
        raise UnfitError(
            f"data source {preparation.source!r} gives no training images: loosen the filters, or add images"
        )
    unfinished = out / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    shards = []
    for split in SPLITS:
        used = [(folder, rows) for folder, rows in zip(folders, kept[split], strict=True) if rows.any()]
        for number, (folder, rows) in enumerate(used):
            shards.append(place_shard(folder, split, rows, unfinished, number, len(used)))
    counts: dict[str, list[int]] = {
        split: [shard["records"] for shard in shards if shard["split"] == split] for split in SPLITS
    }
    write_dataset_info(unfinished / DATASET, counts)
    quarantine = (
        {"part": report["part"], **row}
        for report, folder in zip(reports, folders, strict=True)
        for row in read_lines(folder / QUARANTINE)
    )
    write_lines(unfinished / QUARANTINE, quarantine)
    write_lines(unfinished / REPEATED, repetitions.rows())
    sync_all(unfinished)
    for name in (DATASET, CAPTIONS_FOLDER, QUARANTINE, REPEATED):
        shutil.rmtree(out / name, ignore_errors=True)
        os.replace(unfinished / name, out / name)
    unfinished.rmdir()
    sync(out)
    manifest = {
        **preparation.describe(),
        "attribution": preparation.attribution,
        "counts": {split: sum(counts[split]) for split in SPLITS},
        "least_side": min(report["least_side"] for report in reports),
        "shards": shards,
        "damaged": add_counts(report["damaged"] for report in reports),
        "dropped": add_counts(report["dropped"] for report in reports),
        "repeated": repetitions.counts(preparation.duplicates),
        "statistics": sort_values(add_up(report["statistics"] for report in reports)),
    }
    write_json(out / MANIFEST, manifest)
    sync(out)
    return manifest


def place_shard(
    part: pathlib.Path, split: str, rows: np.ndarray, out: pathlib.Path, number: int, total: int
) -> dict[str, Any]:
    """Puts a part's shard into the data set, keeping only the selected ``rows``, and returns its manifest entry.

    Raises:
        UserError: the shard has a wrong number of records.
    """
    records = out / DATASET / shard_name(split, number, total)
    captions = out / CAPTIONS_FOLDER / f"{split}-{number:05d}.jsonl"
    for file, source in ((records, records_file(part, split)), (captions, captions_file(part, split))):
        file.parent.mkdir(parents=True, exist_ok=True)
        if rows.all():
            link_or_copy(source, file)
    if not rows.all():
        copy_records(records_file(part, split), records, rows)
        write_lines(
            captions, (line for line, stays in zip(read_lines(captions_file(part, split)), rows, strict=True) if stays)
        )
    written, wanted = ArrayRecordReader(str(records)).num_records(), int(rows.sum())
    if written != wanted:
        raise UserError(f"{records_file(part, split)} has {written} records instead of {wanted}: delete {part}")
    return {
        "file": records.relative_to(out).as_posix(),
        "captions": captions.relative_to(out).as_posix(),
        "split": split,
        "records": int(rows.sum()),
        "bytes": records.stat().st_size,
        "captions_bytes": captions.stat().st_size,
        "sha256": checksum_of(records),
    }


def link_or_copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """Hard-links a file, so that the part stays complete until the end; copies it where links are impossible."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def copy_records(source: pathlib.Path, target: pathlib.Path, rows: np.ndarray) -> None:
    """Copies the selected records of a shard unchanged."""
    reader = ArrayRecordReader(str(source))
    writer = ArrayRecordWriter(str(target), ONE_BY_ONE)
    for row in np.flatnonzero(rows):
        (record,) = reader.read([int(row)])
        writer.write(record)
    writer.close()
    reader.close()
