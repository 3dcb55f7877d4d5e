"""What 30,000 captions cost besides drawing and measuring: choosing them, naming pictures, finding what is missing.

python -m tests.benchmarks.bookkeeping
"""

import tempfile
import time
from pathlib import Path

from imagen_jax.cascade.image_folder import PictureFolder
from imagen_jax.cascade.requests import requests_of
from imagen_jax.evaluation.protocols.caption_choice import choose_captions

PICTURES, CAPTIONS = 40_504, 30_000


def main() -> None:
    """Prints the seconds of each step."""
    of_pictures = [tuple(f"caption {which} of picture {number}" for which in range(5)) for number in range(PICTURES)]
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        choice = choose_captions(of_pictures, CAPTIONS, 0)
        digest = choice.sha256
        chosen = time.perf_counter()
        pictures = PictureFolder(Path(folder), requests_of(choice.captions), 0, 16, "png", {"captions": digest})
        named = time.perf_counter()
        for name in pictures.names[: len(pictures.names) // 2]:
            (Path(folder) / name).touch()
        there = time.perf_counter()
        missing = pictures.missing()
        looked = time.perf_counter()
    print(f"choosing and hashing {CAPTIONS:,} of {PICTURES:,} captions: {chosen - began:.2f} s")
    print(f"naming their pictures: {named - chosen:.2f} s")
    print(f"finding {len(missing):,} batches missing of {len(pictures.batches):,}: {looked - there:.2f} s")


if __name__ == "__main__":
    main()
