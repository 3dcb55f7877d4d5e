"""Measures a trained cascade: draws, compares with real pictures, and writes ``report.json``, ``report.html``, figures.

    python -m imagen_jax.evaluate --stages=runs/base,runs/super_resolution --out=runs/evaluation
    python -m imagen_jax.evaluate --stages=… --protocol=imagen --dataset=coco2014 --data_dir=COCO --out=runs/fid
    python -m imagen_jax.evaluate --stages=… --protocol=imagen … --sweep=guidance=1,8/1.35,8/2,8 --out=runs/sweep
    python -m imagen_jax.evaluate --stages=… --protocol=drawbench --out=runs/drawbench --beside=runs/other_drawbench

Cut at any time, the same command continues, and reports the same digits. Several hosts share the work
(``--distributed``); ``--out`` and ``--cache`` are then on a disk that all of them see.
"""

from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from imagen_jax import processes, sampling_flags
from imagen_jax.cascades import Cascade, load_cascade
from imagen_jax.command_line import run_main
from imagen_jax.data.data_sets import open_data_sets
from imagen_jax.errors import UserError, choose
from imagen_jax.evaluation.feature_network import FeatureNetwork, TextImageNetwork
from imagen_jax.evaluation.features import FEATURE_NETWORKS
from imagen_jax.evaluation.inception_weights import load_inception
from imagen_jax.process_flags import join_as_flagged
from imagen_jax.prompts import read_prompts
from imagen_jax.protocols import drawbench_run
from imagen_jax.protocols.caption_choice import choose_captions, match_captions
from imagen_jax.protocols.deviations import PROTOCOLS, Protocol, overrides_of
from imagen_jax.protocols.drawn import StepBar
from imagen_jax.protocols.evaluation import Request
from imagen_jax.protocols.references import DATASETS, Reference, open_prepared, open_reference
from imagen_jax.protocols.runs import run_evaluation, run_sweep
from imagen_jax.protocols.sweep import list_points, parse_axis
from imagen_jax.sampling.pictures import make_folder
from imagen_jax.storage.paths import Path, to_path
from imagen_jax.training.workdir import read_config, require_sections

STAGES = flags.DEFINE_list("stages", [], "Workdirs of the stages, base first, with commas between.")
OUT = flags.DEFINE_string("out", None, "Folder of the evaluation: report, figures, pictures, features.", required=True)
PROTOCOL = flags.DEFINE_string("protocol", "training_captions", f"One of {', '.join(PROTOCOLS)}.")
DATASET = flags.DEFINE_string("dataset", "", f"What to compare with: {', '.join(DATASETS)}; else the protocol's.")
DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder of the data set.")
CACHE = flags.DEFINE_string("cache", "", "Folder of the data sets' features; else reference_features beside --out.")
SAMPLES = flags.DEFINE_integer(
    "samples", None, "Captions to draw, or pictures of each prompt of DrawBench; else the protocol's.", lower_bound=1
)
CAPTIONS_FILE = flags.DEFINE_string("captions_file", None, "Captions of the data set, a line each; else by --seed.")
PROMPTS_FILE = flags.DEFINE_string("prompts_file", None, "Prompts of DrawBench, its CSV; else our own.")
BESIDE = flags.DEFINE_list("beside", [], "With --protocol=drawbench: --out of other models, for the page.")
FEATURES = flags.DEFINE_list("features", [], "Feature networks, the first for the headline; else the protocol's.")
RESIZE = flags.DEFINE_string("resize", "", "How pictures come to Inception's size; else its default.")
INCEPTION_WEIGHTS = flags.DEFINE_string("inception_weights", "", "Inception's file of weights.")
CLIP = flags.DEFINE_string("clip", "", "CLIP model for the CLIP score, such as ViT-L/14; none: no such score.")
CLIP_WEIGHTS = flags.DEFINE_string("clip_weights", "", "CLIP's file or folder of weights.")
SWEEP = flags.DEFINE_multi_string("sweep", [], "Settings to try, as in guidance=1,8/1.35,8; again for their product.")
SEED = flags.DEFINE_integer("seed", 0, "Of the choice of captions and of their pictures.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Pictures drawn at once.", lower_bound=1)


def main(arguments: Sequence[str]) -> None:
    """Evaluates ``--stages`` and says the result."""
    if arguments[1:]:
        raise UserError(f"{arguments[1]!r} is no flag: name stages as --stages=…")
    if not STAGES.value:
        raise UserError(
            "no stages are named: give the workdirs of a trained cascade, as in --stages=runs/base,runs/large"
        )
    out = to_path(OUT.value)
    if out.suffix in (".json", ".html"):
        raise UserError(f"--out={OUT.value} is a file: name a folder, and the report is report.json in it")
    protocol = choose(PROTOCOLS, PROTOCOL.value, "protocol")
    axes = [parse_axis(text) for text in SWEEP.value]
    make_folder(out)
    join_as_flagged()
    steps = StepBar()
    overrides: dict[str, Any] = {**overrides_of(protocol, len(STAGES.value)), **sampling_flags.read_overrides()}
    cascade = load_cascade(STAGES.value, overrides, BATCH_SIZE.value, steps, sampling_flags.DTYPE.value)
    if PROTOCOL.value == "drawbench":
        run_drawbench(cascade, steps, protocol, out)
        return
    request = make_request(cascade, protocol, out)
    if axes:
        lines = run_sweep(cascade, steps, request, list_points(axes))
        tell(f"{len(lines)} points are in {out / 'sweep.json'}, and plotted in {out / 'pareto.png'}")
        return
    report = run_evaluation(cascade, steps, request)
    numbers = [f"{one['name']} {one['value']:.4g}" for one in report.get("headline", ())]
    tell(f"{'; '.join(numbers)}; the report is {out / 'report.html'}")


def tell(sentence: str) -> None:
    """Prints a sentence; once, where several processes evaluate together."""
    if processes.is_first():
        print(sentence)


def run_drawbench(cascade: Cascade, steps: StepBar, protocol: Protocol, out: Path) -> None:
    """Draws the pictures of DrawBench and writes the page."""
    prompts = drawbench_run.read_prompts(PROMPTS_FILE.value or "")
    samples = SAMPLES.value or protocol.samples
    report = drawbench_run.draw_bench(cascade, steps, prompts, out, SEED.value, samples)
    if processes.is_first():
        drawbench_run.write_bench(out, report, prompts, out.name, BESIDE.value)
    tell(f"{samples} pictures of each of {len(prompts)} prompts; the page is {out / 'report.html'}")


def make_request(cascade: Cascade, protocol: Protocol, out: Path) -> Request:
    """What the flags ask for.

    Raises:
        UserError: a data set, a list of captions or a file of weights that can't be used.
    """
    dataset = DATASET.value or protocol.dataset
    reference = processes.take_turns(lambda: find_reference(cascade, dataset))
    if CAPTIONS_FILE.value:
        choice = match_captions(reference.captions, read_prompts(to_path(CAPTIONS_FILE.value)))
    else:
        choice = choose_captions(reference.captions, SAMPLES.value or protocol.samples, SEED.value)
    return Request(
        out=out,
        cache=to_path(CACHE.value) if CACHE.value else out.parent / "reference_features",
        protocol=protocol,
        dataset=dataset,
        reference=reference,
        choice=choice,
        networks=[load_network(name) for name in FEATURES.value or protocol.features],
        clip=find_clip(),
        seed=SEED.value,
        own_captions=bool(CAPTIONS_FILE.value),
    )


def find_reference(cascade: Cascade, dataset: str) -> Reference:
    """The data set that is named, or else what the base was trained on.

    Raises:
        UserError: it can't be used.
    """
    if dataset:
        return open_reference(dataset, DATA_DIR.value)
    workdir = to_path(cascade.names[0])
    config = read_config(workdir)
    require_sections(config, ("data",), workdir, "an evaluation: the stage was imported, not trained here")
    return open_prepared(open_data(config), "train")


def open_data(config: ConfigDict) -> Path:
    """The data set that a stage was trained on; of several the first."""
    data = config.data
    return open_data_sets(
        data.source, data.resolution, data.data_dir, data.validation_fraction, data.options.to_dict()
    ).folders[0]


def load_network(name: str) -> FeatureNetwork:
    """The feature network that is named.

    Raises:
        UserError: there is none of that name, or its weights are not there.
    """
    if name == "inception":
        return load_inception(INCEPTION_WEIGHTS.value, *([RESIZE.value] if RESIZE.value else []))
    return choose(FEATURE_NETWORKS | {"inception": load_inception}, name, "feature network")()


def find_clip() -> TextImageNetwork | None:
    """CLIP, where a flag names it.

    Raises:
        UserError: its weights can't be used.
    """
    if CLIP.value == "none" or not (CLIP.value or CLIP_WEIGHTS.value):
        return None
    from imagen_jax.evaluation.clip_weights import load_clip

    return load_clip(CLIP_WEIGHTS.value, *([CLIP.value] if CLIP.value else []))


if __name__ == "__main__":
    run_main(main)
