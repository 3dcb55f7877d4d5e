"""Writes the page of a training run: losses, previews, incidents and settings in one HTML file.

    imagen-jax show_run --workdir=runs/base [--out=run.html]

Training writes the same page to ``WORKDIR/run.html`` after each preview. This command writes it now, for a run that
continues, for a run of an older version, or for a run in a bucket: ``--workdir=gs://BUCKET/base --out=base.html``. Open
it in any browser. It loads nothing from elsewhere.
"""

from absl import flags

from imagen_jax.errors import UserError
from imagen_jax.evaluation.reports.run_page import PAGE_NAME, write_run_page
from imagen_jax.runtime.main import run_main
from imagen_jax.storage.paths import to_path

# Not marked as required, since that error would hide the one about a folder that is given without the flag.
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; always needed.")
OUT = flags.DEFINE_string("out", None, f"The HTML file. Default: {PAGE_NAME} in the workdir.")


def main() -> None:
    """Writes the page of ``--workdir``, and prints its path.

    Raises:
        UserError: ``--workdir`` is missing or no run, or ``--out`` is a folder.
    """
    if not WORKDIR.value:
        raise UserError("--workdir is missing: give the folder of the run, as in --workdir=runs/base")
    workdir, out = to_path(WORKDIR.value), to_path(OUT.value) if OUT.value else None
    if out is not None and out.is_dir():
        raise UserError(f"--out={OUT.value} is a folder: give a file, as in --out={OUT.value}/{PAGE_NAME}")
    print(f"the page: {write_run_page(workdir, out)}")


if __name__ == "__main__":
    run_main(main, "give the folder of the run as --workdir=FOLDER")
