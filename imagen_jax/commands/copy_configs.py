"""Copies the bundled configs to a folder, to change them there.

    imagen-jax copy_configs --out=configs
    imagen-jax train --config=configs/own_images.py:base --workdir=runs/base

Each file is an experiment, and its docstring has the command, the hardware and the result. Copy one of them to a new
name and change it: ``mine.py`` then trains with ``--config=configs/mine.py:base``. A file that exists and differs is
kept: it is an error, and nothing is copied.
"""

from absl import flags

from imagen_jax.errors import UserError
from imagen_jax.runtime.config_files import find_bundled_folder, list_bundled_files
from imagen_jax.runtime.main import run_main
from imagen_jax.storage.paths import create_folder, in_bucket, to_path, write_whole

OUT = flags.DEFINE_string("out", "configs", "Folder for the copies.")


def main() -> None:
    """Copies the configs to ``--out``.

    Raises:
        UserError: ``--out`` is in a bucket, or a file there differs from the bundled one.
    """
    out = to_path(OUT.value)
    if in_bucket(out):
        raise UserError(f"--out={OUT.value} is in a bucket, but configs are read from this machine: name a folder here")
    copies = {out / file.relative_to(find_bundled_folder()): file.read_bytes() for file in list_bundled_files()}
    changed = [str(copy) for copy, content in copies.items() if copy.exists() and copy.read_bytes() != content]
    if changed:
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise UserError(
            f"{changed[0]}{more} exists and differs from the bundled config, so it is kept, and nothing is copied: "
            "choose another --out, or move it"
        )
    present = sum(copy.exists() for copy in copies)
    for copy, content in copies.items():
        create_folder(copy.parent)
        write_whole(copy, content)
    before = f", {present} of them unchanged from before" if present else ""
    print(f"{len(copies)} files are in {out}{before}; use one as --config={out / 'own_images.py'}:base")


if __name__ == "__main__":
    run_main(main, "name the folder as --out=FOLDER")
