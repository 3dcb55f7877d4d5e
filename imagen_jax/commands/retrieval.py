r"""Measures how well a CLIP finds the captions of images, and the images of captions.

    imagen-jax retrieval --clip=runs/clip --data=DATA --out=runs/retrieval
    imagen-jax retrieval --clip=ViT-B/32 --data=openmoji --validation_fraction=0.2

It prints recall@1, @5 and @10 in both directions, each beside that of a random order. An image may have several
captions, and a caption several images: any of them counts. Ties count against the CLIP.
"""

from absl import flags

from imagen_jax.cascade.image_files import make_folder
from imagen_jax.evaluation import clip_flags
from imagen_jax.evaluation.protocols.references import open_prepared
from imagen_jax.evaluation.protocols.retrieval_run import check_captions, describe_lines, make_report, run_retrieval
from imagen_jax.evaluation.reports.retrieval_page import PAGE, REPORT, write_retrieval
from imagen_jax.runtime.main import run_main
from imagen_jax.runtime.preconditions import check_flags
from imagen_jax.runtime.seeds import MAX_SEED
from imagen_jax.storage.paths import to_path

EXAMPLES = flags.DEFINE_integer("examples", 8, "Max number of examples in each direction on the page.", lower_bound=0)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the choice of examples.", 0, MAX_SEED)
OUT = flags.DEFINE_string("out", "", "Folder for the report and the page.")


def main() -> None:
    """Measures ``--clip`` on ``--data``, prints a table, and writes ``--out``.

    Raises:
        UserError: a flag is missing, wrong or without effect, or an input can't be used.
    """
    clip_flags.check_paths()
    out = to_path(OUT.value) if OUT.value else None
    check_flags(clip_flags.PRECONDITIONS)
    clip_flags.check_clip()
    if out is not None:
        make_folder(out)
    split = clip_flags.SPLIT.value
    reference = open_prepared(clip_flags.find_data_set(), "train" if split == "train" else "validation")
    pairs = check_captions(reference)
    clip = clip_flags.load_flagged_clip()
    run = run_retrieval(clip, reference, pairs, EXAMPLES.value, SEED.value)
    print("\n".join(describe_lines(run.retrieval)))
    if out is not None:
        report = make_report(clip, clip.logit_scale, reference, split, run, SEED.value)
        write_retrieval(out, report, reference, run)
        print(f"the report is {out / REPORT}, the page {out / PAGE}")


if __name__ == "__main__":
    run_main(main, "give a CLIP as --clip=…, and images as --data=…")
