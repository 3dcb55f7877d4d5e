"""Evaluates a cascade: samples images, computes FID and other metrics, writes a report.

    imagen-jax evaluate --stages=runs/base,runs/super_resolution --out=runs/evaluation
    imagen-jax evaluate --stages=… --protocol=imagen --dataset=coco2014 --data_dir=COCO --out=runs/fid
    imagen-jax evaluate --stages=… --protocol=imagen … --sweep=guidance=1,8/1.35,8/2,8 --out=runs/sweep
    imagen-jax evaluate --stages=… --protocol=drawbench --out=runs/drawbench --beside=runs/other_drawbench

After an interruption, the same command continues and reports the same digits. Several hosts can share the work
(``--distributed``); ``--out`` and ``--cache`` must then be on a disk that all hosts share.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from imagen_jax.cascade import sampling_flags
from imagen_jax.cascade.cascade import Cascade, load_planned
from imagen_jax.cascade.image_files import make_folder
from imagen_jax.cascade.network_flag import read_network
from imagen_jax.cascade.plans import CascadePlan
from imagen_jax.cascade.stage_flags import read_stages, read_text_encoder
from imagen_jax.errors import UserError, lookup
from imagen_jax.evaluate import plan_protocol
from imagen_jax.evaluation.protocols import drawbench_run
from imagen_jax.evaluation.protocols.deviations import PROTOCOLS
from imagen_jax.evaluation.protocols.references import DATASETS
from imagen_jax.evaluation.protocols.reporting import describe_headline
from imagen_jax.evaluation.protocols.requests import Wanted, check_wanted, make_request, open_data
from imagen_jax.evaluation.protocols.runs import run_evaluation, run_sweep
from imagen_jax.evaluation.protocols.sampled_images import StepBar
from imagen_jax.evaluation.protocols.sweep import Point, list_points, parse_axis
from imagen_jax.runtime import distributed_flags, processes
from imagen_jax.runtime.distributed_flags import join_as_flagged
from imagen_jax.runtime.main import run_main
from imagen_jax.runtime.preconditions import Precondition, check_flags
from imagen_jax.runtime.seeds import MAX_SEED
from imagen_jax.storage.paths import Path, split_places, to_path

OUT = flags.DEFINE_string("out", None, "Folder of the evaluation: report, figures, images, features.", required=True)
PROTOCOL = flags.DEFINE_string("protocol", "training_captions", f"One of {', '.join(PROTOCOLS)}.")
DATASET = flags.DEFINE_string("dataset", "", f"Reference data set: {', '.join(DATASETS)}. Default: the protocol's.")
DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder of the data set.")
CACHE = flags.DEFINE_string("cache", "", "Folder of the data sets' features. Default: reference_features beside --out.")
SAMPLES = flags.DEFINE_integer(
    "samples",
    None,
    "Number of captions to sample images for, or of images per DrawBench prompt. Default: the protocol's, or all of a "
    "smaller data set.",
    lower_bound=1,
)
CAPTIONS_FILE = flags.DEFINE_string(
    "captions_file", "", "File with one caption of the data set per line. Default: chosen by --seed."
)
PROMPTS_FILE = flags.DEFINE_string("prompts_file", "", "DrawBench's CSV of prompts. Default: the bundled prompts.")
BESIDE = flags.DEFINE_multi_string(
    "beside",
    [],
    "With --protocol=drawbench: the --out folders of other models to show on the page. Separate them with commas, or "
    "repeat the flag.",
)
FEATURES = flags.DEFINE_list("features", [], "Feature networks; the first gives the headline. Default: the protocol's.")
RESIZE = flags.DEFINE_string("resize", "", "Resizing method for Inception's input. Default: Inception's own.")
INCEPTION_WEIGHTS = flags.DEFINE_string("inception_weights", "", "Inception's file of weights.")
CLIP = flags.DEFINE_string("clip", "", "CLIP model for the CLIP score, such as ViT-L/14; none for no CLIP score.")
CLIP_WEIGHTS = flags.DEFINE_string("clip_weights", "", "CLIP's file or folder of weights.")
CLIP_VOCABULARY = flags.DEFINE_string("clip_vocabulary", "", "File bpe_simple_vocab_16e6.txt.gz, for OpenAI's weights.")
REFERENCE_STATISTICS = flags.DEFINE_string(
    "reference_statistics", "", "npz file of mu and sigma, as pytorch-fid writes it, for a second Fréchet distance."
)
SWEEP = flags.DEFINE_multi_string(
    "sweep", [], "Values of a setting to try, as in guidance=1,8/1.35,8. Repeat the flag to try all combinations."
)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the choice of captions and of the images' noise.", 0, MAX_SEED)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Max number of images sampled at once.", lower_bound=1)


def without_drawbench(flag: str) -> Precondition:
    """Returns the precondition of a flag that has no effect with ``--protocol=drawbench``."""
    return Precondition(
        flag,
        lambda given: given.protocol != "drawbench",
        f"--{flag} has no effect with --protocol=drawbench, which only samples images: leave it out",
    )


def with_drawbench(flag: str) -> Precondition:
    """Returns the precondition of a flag that needs ``--protocol=drawbench``."""
    return Precondition(
        flag,
        lambda given: given.protocol == "drawbench",
        f"--{flag} has no effect without --protocol=drawbench: give that protocol, or leave it out",
    )


def measures_inception(given: Any) -> bool:
    """Returns whether the flags, or the protocol by default, select Inception's features."""
    return "inception" in (given.features or PROTOCOLS[given.protocol].features)


PRECONDITIONS = (
    *distributed_flags.PRECONDITIONS,
    *map(with_drawbench, ("prompts_file", "beside")),
    *map(
        without_drawbench,
        ("dataset", "data_dir", "cache", "captions_file", "features", "resize", "inception_weights", "clip",
         "clip_weights", "clip_vocabulary", "reference_statistics", "sweep"),
    ),
    Precondition(
        "data_dir",
        lambda given: given.dataset or PROTOCOLS[given.protocol].dataset,
        "--data_dir has no effect without --dataset: this protocol uses the base's training data; set both",
    ),
    Precondition(
        "samples",
        lambda given: not given.captions_file,
        "--samples has no effect with --captions_file, whose captions are all used: leave one of them out",
    ),
    Precondition(
        "resize",
        measures_inception,
        "--resize has no effect without Inception's features: give --features=inception, or leave it out",
    ),
    Precondition(
        "inception_weights",
        measures_inception,
        "--inception_weights has no effect without Inception's features: give --features=inception, or leave it out",
    ),
    Precondition(
        "clip_weights",
        lambda given: given.clip != "none",
        "--clip_weights has no effect with --clip=none: leave one of them out",
    ),
    Precondition(
        "clip_vocabulary",
        lambda given: given.clip != "none" and (given.clip or given.clip_weights),
        "--clip_vocabulary has no effect without CLIP: name the model in --clip, or its file in --clip_weights",
    ),
)  # fmt: skip


def main() -> None:
    """Evaluates ``--stages`` and prints the result."""
    out = check_paths()
    if out.suffix in (".json", ".html"):
        raise UserError(f"--out={OUT.value} is a file: name a folder; the report is report.json in it")
    lookup(PROTOCOLS, PROTOCOL.value, "protocol")
    check_flags(PRECONDITIONS)
    points = list_points([parse_axis(text) for text in SWEEP.value])
    overrides = sampling_flags.read_overrides()
    dtype, encoder = sampling_flags.DTYPE.value, read_text_encoder()
    plan = plan_protocol(read_stages(), PROTOCOL.value, overrides, dtype, encoder, read_network())
    plan.check_effects(overrides)
    plan.check_encoders()
    check_points(plan, points, overrides)
    check_inputs()
    make_folder(out)
    join_as_flagged()
    with processes.lock_on_process_zero(out, "--out"):
        evaluate_as_flagged(plan, out, points)


def evaluate_as_flagged(plan: CascadePlan, out: Path, points: Sequence[Point]) -> None:
    """Runs DrawBench, a sweep or a single evaluation in a locked folder, as the flags say."""
    steps = StepBar()
    opened = None if PROTOCOL.value == "drawbench" else open_data(plan.names[0], read_wanted())
    cascade = load_planned(plan, BATCH_SIZE.value, steps)
    if PROTOCOL.value == "drawbench":
        run_drawbench(cascade, steps, out)
        return
    request = make_request(cascade, out, read_wanted(), opened)
    if SWEEP.value:
        run_sweep(cascade, steps, request, points)
        print_once(f"{len(points)} points are in {out / 'sweep.json'}, and plotted in {out / 'pareto.png'}")
        return
    report = run_evaluation(cascade, steps, request)
    print_once(f"{describe_headline(report)}; the report is {out / 'report.html'}")


def check_points(plan: CascadePlan, points: Sequence[Point], overrides: Mapping[str, Any]) -> None:
    """Checks the settings of all points of a sweep before any image is sampled.

    Args:
        plan: plan of the cascade.
        points: points of the sweep.
        overrides: settings from the flags.

    Raises:
        UserError: a setting is out of range, is also set by a flag, or has no effect at any point.
    """
    reasons: dict[str, UserError] = {}
    with_effect = set()
    for point in points:
        for name in point.settings:
            if name in overrides:
                raise UserError(f"--{name} has no effect, because --sweep sets it at each point: leave one of them out")
        at_point = plan.adjusted(point.settings)
        for name in point.settings:
            try:
                at_point.check_effects([name])
                with_effect.add(name)
            except UserError as error:
                reasons[name] = error
    for name, reason in reasons.items():
        if name not in with_effect:
            raise UserError(f"--sweep={name}: {reason}")


def check_inputs() -> None:
    """Checks the names and files in the flags before any weights are loaded.

    Raises:
        UserError: a name is unknown, a folder is missing, or a file can't be read.
    """
    check_wanted(read_wanted())
    if PROTOCOL.value == "drawbench":
        drawbench_run.read_prompts(PROMPTS_FILE.value)
        drawbench_run.check_beside(read_beside())


def check_paths() -> Path:
    """Checks every flag that holds a path, before the long work starts, and returns ``--out``.

    Raises:
        UserError: a path is neither on this machine nor in a supported bucket.
    """
    data = (DATA_DIR, CACHE, CAPTIONS_FILE, PROMPTS_FILE, REFERENCE_STATISTICS)
    weights = (INCEPTION_WEIGHTS, CLIP_WEIGHTS, CLIP_VOCABULARY)
    for path in (*read_stages(), *read_beside(), *(flag.value for flag in (*data, *weights))):
        to_path(path)
    read_text_encoder()
    return to_path(OUT.value)


def read_beside() -> list[str]:
    """Returns the folders in ``--beside``."""
    return [folder for text in BESIDE.value for folder in split_places(text)]


def print_once(sentence: str) -> None:
    """Prints a sentence on process 0 only."""
    if processes.is_process_zero():
        print(sentence)


def run_drawbench(cascade: Cascade, steps: StepBar, out: Path) -> None:
    """Samples the images of DrawBench and writes the page."""
    prompts = drawbench_run.read_prompts(PROMPTS_FILE.value)
    samples = SAMPLES.value or PROTOCOLS["drawbench"].samples
    report = drawbench_run.sample_drawbench(cascade, steps, prompts, out, SEED.value, samples)
    if processes.is_process_zero():
        drawbench_run.write_bench(out, report, prompts, out.name, read_beside())
    print_once(f"{samples} image(s) of each of {len(prompts)} prompts; the page is {out / 'report.html'}")


def read_wanted() -> Wanted:
    """Returns the request that the flags describe."""
    return Wanted(
        protocol=PROTOCOL.value,
        dataset=DATASET.value,
        data_dir=DATA_DIR.value,
        cache=CACHE.value,
        samples=SAMPLES.value,
        captions_file=CAPTIONS_FILE.value,
        features=FEATURES.value,
        resize=RESIZE.value,
        inception_weights=INCEPTION_WEIGHTS.value,
        clip=CLIP.value,
        clip_weights=CLIP_WEIGHTS.value,
        clip_vocabulary=CLIP_VOCABULARY.value,
        reference_statistics=REFERENCE_STATISTICS.value,
        seed=SEED.value,
    )


if __name__ == "__main__":
    run_main(
        main,
        "name stages as --stages=…",
        if_interrupted="sampled images and features are kept; run the same command to continue",
    )
