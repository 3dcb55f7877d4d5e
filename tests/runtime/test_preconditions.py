"""Flags that would do nothing are refused, in a sentence, before anything is loaded; for every command."""

import json

import pytest

from tests.forked_programs import run_forked

BASE = ["--stages=base", "--out=out"]
BOTH = ["--stages=base,super_resolution", "--out=out"]
DRAW = [*BOTH, "--prompt=panda"]
EDIT = [*DRAW, "--image=photo.png"]
MEASURE = [*BOTH, "--features=pixels"]
TRAIN = ["--config=train.py:base", "--workdir=out"]
MIN_SNR, REWIND = "--config.training.min_snr_gamma=3.0", "--config.training.max_rewinds=2"

ONE_IMAGE = ["--clip=clip", "--image=photo.png", "--class=panda", "--class=tree"]
LABELLED = ["--clip=clip", "--data=prepared", "--classes=openmoji_groups"]
OF_A_SOURCE = ("--option=folder=own", "--resolution=16", "--validation_fraction=0.5", "--data_dir=drawn")
VARY = ["--how=reconstruction", "--stages=base", "--image=photo.png", "--out=out"]
OF_OTHERS = {
    "samples": 2, "fresh_noise": True, "to_image": "photo.png", "one_noise": True, "from_text": "x", "to_text": "x",
    "farthest": 0.1, "data": "prepared", "components": 2, "between": 3, "eta": 0.5, "guidance": 3,
    "thresholding": "static", "sampler": "heun", "gamma": 0.5, "candidates": 2,
}  # fmt: skip
OF_A_DATA_SET = ("--data=prepared", "--split=train", "--labels=folders", "--probe", "--seed=1", *OF_A_SOURCE)

REFUSED = {
    "sample": [
        ([*DRAW, "--between=5"], "--between"),
        ([*DRAW, "--to_seed=0"], "--to_seed is the same"),
        ([*DRAW, "--to_seed=4", "--seed=4"], "--to_seed is the same"),
        ([*DRAW, "--to_prompt=panda"], "--to_prompt is the same"),
        ([*DRAW, "--prompt= "], "--prompt is blank"),
        ([*EDIT, "--to_seed=4", "--strength=0.5"], "--to_seed"),
        ([*EDIT, "--to_seed=4", "--invert=panda", "--sampler=ddim"], "--to_seed"),
        ([*DRAW, "--classifier_scale=1"], "--classifier_scale"),
        ([*DRAW, "--classifier=classifier", "--classifier_class=Flags", "--classifier_scale=0"], "nor at 0"),
        ([*DRAW, "--classifier_class=Flags"], "--classifier_class"),
        ([*DRAW, "--classifier=classifier"], "--classifier has no effect without a class"),
        ([*DRAW, "--mask=mask.png"], "--mask has no effect without --image"),
        ([*DRAW, "--strength=1"], "--strength has no effect without --image"),
        ([*DRAW, "--invert=panda"], "--invert has no effect without --image"),
        ([*EDIT, "--strength=0.5", "--resample=1"], "--resample has no effect without --mask"),
        ([*DRAW, "--heartbeat_seconds=30"], "--heartbeat_seconds"),
        (EDIT, "--image has no effect at --strength=1"),
        ([*EDIT, "--mask=all.png"], "--mask"),
        ([*DRAW, "--image=wide.png", "--mask=edge.png"], "--mask"),
        ([*EDIT, "--invert=panda", "--sampler=heun"], "--sampler=ddim"),
        ([*BASE, "--prompt=x", "--later_prompt=y"], "--later_prompt"),
        ([*BASE, "--prompt=x", "--augmentation_level=0.1"], "--augmentation_level"),
        ([*DRAW, "--sampler=unipc", "--gamma=0"], "--gamma has no effect"),
        ([*DRAW, "--sampler=ancestral", "--eta=0"], "--eta has no effect"),
        ([*DRAW, "--thresholding=none", "--percentile=99.5"], "--percentile has no effect"),
        ([*DRAW, "--guidance=1", "--guidance_interval=-4,3"], "--guidance_interval has no effect"),
        ([*DRAW, "--guidance=1", "--noguide_at_once"], "--batched_guidance has no effect"),
        ([*DRAW, "--guidance=1", "--negative_prompt=tree"], "negative prompt has no effect"),
        ([*DRAW, "--candidates=2"], "--candidates has no effect"),
        ([*DRAW, "--sections=2"], "--sections has no effect"),
        ([*DRAW, "--conditioning=caption"], "no stage takes an image embedding"),
        ([*DRAW, "--conditioning=image"], "give both"),
        ([*EDIT, "--conditioning=image"], "no stage takes an image embedding"),
        ([*EDIT, "--conditioning=image", "--mask=mask.png"], "--mask has no effect with --conditioning=image"),
        ([*EDIT, "--conditioning=image", "--strength=0.5"], "--strength has no effect with --conditioning=image"),
        ([*EDIT, "--conditioning=image", "--invert=panda"], "--invert has no effect with --conditioning=image"),
        ([*DRAW, "--steps=1,1,1"], "--steps"),
        (["--stages=super_resolution", "--out=out", "--prompt=x"], "takes 8-px images"),
        ([*BASE, "--prompt=x", "--classifier=classifier", "--classifier_class=Flag"], "did you mean 'Flags'"),
    ],
    "evaluate": [
        ([*MEASURE, "--prompts_file=prompts.csv"], "--prompts_file has no effect without --protocol=drawbench"),
        ([*MEASURE, "--beside=rated"], "--beside has no effect without --protocol=drawbench"),
        *(
            ([*BOTH, "--protocol=drawbench", f"--{flag}"], f"--{flag.partition('=')[0]} has no effect with --protocol")
            for flag in ("dataset=prepared", "data_dir=prepared", "cache=cache", "captions_file=prompts.txt",
                         "features=pixels", "resize=clean", "inception_weights=x.pth", "clip=none", "clip_weights=x",
                         "clip_vocabulary=x", "reference_statistics=x.npz", "sweep=steps=1/2")
        ),
        ([*MEASURE, "--data_dir=prepared"], "--data_dir has no effect without --dataset"),
        ([*MEASURE, "--samples=2", "--captions_file=prompts.txt"], "--samples has no effect with --captions_file"),
        ([*MEASURE, "--resize=clean"], "--resize has no effect"),
        ([*MEASURE, "--inception_weights=x.pth"], "--inception_weights has no effect"),
        ([*MEASURE, "--clip=none", "--clip_weights=x"], "--clip_weights has no effect"),
        ([*MEASURE, "--clip_vocabulary=x"], "--clip_vocabulary has no effect"),
        ([*MEASURE, "--heartbeat_seconds=30"], "--heartbeat_seconds"),
        ([*MEASURE, "--guidance=2", "--sweep=guidance=1/2"], "--guidance has no effect"),
        ([*MEASURE, "--sampler=heun", "--sweep=eta=0/1"], "--sweep=eta: --eta has no effect"),
        ([*MEASURE, "--sweep=steps=1/0"], "100000"),
        ([*MEASURE, "--sweep=sampler=ddim/dimm"], "did you mean 'ddim'"),
        ([*BASE, "--features=pixels", "--augmentation_level=0"], "--augmentation_level has no effect"),
        (["--stages=super_resolution", "--out=out"], "takes 8-px images"),
        ([*BOTH, "--features=pixel"], "did you mean 'pixels'"),
        ([*MEASURE, "--clip=ViT-L"], "unknown CLIP"),
        ([*MEASURE, "--dataset=prepared", "--data_dir=nowhere"], "--data_dir=nowhere"),
        ([*MEASURE, "--dataset=prepared", "--data_dir=prepared"], "split of prepared is empty"),
        ([*MEASURE, "--dataset=prepared_train", "--data_dir=prepared", "--samples=128"], "128 captions can't"),
        ([*MEASURE, "--captions_file=nowhere.txt"], "nowhere.txt can't be read"),
        ([*BOTH, "--protocol=drawbench", "--beside=nowhere"], "--beside=nowhere"),
    ],
    "train": [
        ([*TRAIN, "--hang_seconds=0", "--end_when_hung"], "--end_when_hung has no effect"),
        ([*TRAIN, "--profile_steps=5,6"], "--profile_steps"),
        ([*TRAIN, "--heartbeat_seconds=30"], "--heartbeat_seconds"),
        ([*TRAIN, MIN_SNR], "min_snr_gamma has no effect"),
        ([*TRAIN, REWIND], "max_rewinds has no effect"),
        ([*TRAIN, "--config.data.weights=(1,2)"], "data.weights has no effect"),
        ([*TRAIN, "--config.data.source=prepared", "--config.data.data_dir=x"], "data.data_dir has no effect"),
        ([*TRAIN, "--config.data.source=prepared", "--config.data.validation_fraction=0.2"], "validation_fraction"),
        ([*TRAIN, "--config.text.tokenizer=minilm"], "text.tokenizer has no effect"),
        ([*TRAIN, "--config.training.sigmoid_bias=1"], "sigmoid_bias has no effect"),
        ([*TRAIN, "--config.training.noise_mean=1"], "noise_mean has no effect"),
        ([*TRAIN, "--config.training.noise_deviation=1"], "noise_deviation has no effect"),
        (
            [*TRAIN, "--config.training.noise_levels=log_normal", "--config.training.time_exponent=2"],
            "time_exponent has no effect",
        ),
        ([*TRAIN, "--config.stage.blur_probability=0.2"], "blur_probability has no effect"),
        *(
            ([*TRAIN, "--config.stage.corruption=blur", f"--config.stage.{key}={value}"], f"{key} has no effect")
            for key, value in (("augmentation_schedule", "linear"), ("enlarge_before_noise", "corners"))
        ),
        ([*TRAIN, "--config.preview.samples=4"], "preview.samples has no effect"),
        ([*TRAIN, "--config.preview.compared=4"], "preview.compared has no effect"),
        ([*TRAIN, "--config.preview.features=pixels"], "preview.features has no effect"),
        ([*TRAIN, "--config.training.preview_every=0", "--config.preview.prompts=('x',)"], "preview.prompts has no"),
    ],
    "prepare_data": [
        (["--source=folder", "--option=folder=own", "--out=out", "--min_words=5", "--max_words=2"], "--max_words"),
        (["--source=folder", "--option=folder=own", "--out=out", "--max_aspect=0.5"], "--max_aspect"),
        (["--source=folder", "--option=folder=own", "--option=folder=x", "--out=out"], "is given twice"),
        (["--source=folder", "--option=foldr=own", "--out=out"], "did you mean 'folder'"),
    ],
    "embed_captions": [
        (["--data=prepared", "--encoder=minilm", "--plan", "--verify"], "--plan and --verify"),
        (["--data=prepared", "--encoder=minilm", "--heartbeat_seconds=30"], "--heartbeat_seconds"),
        (["--data=prepared", "--encoder=minilm", "--option=max_token=4"], "did you mean 'max_tokens'"),
    ],
    "embed_images": [
        (["--data=prepared", "--clip=clip", "--heartbeat_seconds=30"], "--heartbeat_seconds"),
    ],
    "classify": [
        *(([*ONE_IMAGE, flag], f"{flag.split('=')[0]} has no effect with --image") for flag in OF_A_DATA_SET),
        ([*LABELLED, "--class=panda"], "--class has no effect with --classes"),
        (["--clip=clip", "--data=prepared", "--class=panda", "--class=tree"], "--class names classes of one --image"),
        ([*LABELLED, "--templates=emoji", "--template=my_{}"], "--templates has no effect"),
        ([*LABELLED, "--probe", "--split=train"], "--probe has no effect with --split=train"),
        *(([*LABELLED, flag], f"{flag.split('=')[0]} has no effect with the folder") for flag in OF_A_SOURCE),
    ],
    "manipulate": [
        *(([*VARY, f"--{flag}={value}"], f"--{flag} has no effect here") for flag, value in OF_OTHERS.items()),
        ([*VARY, "--how=interpolation"], "interpolation needs --to_image"),
    ],
    "train_classifier": [
        (["--config=classify.py", "--workdir=out", "--heartbeat_seconds=30"], "--heartbeat_seconds"),
    ],
    "export_weights": [
        (["--workdir=base", "--out=base"], "same folder"),
        (["--workdir=base", "--out=out", "--format=deepfloyd_if"], "--format=imagen_jax"),
    ],
    "count": [
        (["--config=train.py:base", "--noflops", "--config.network.channels=(8,8)"], "1 entries for the 2 levels"),
        (["--config=train.py:base", "--noflops", "--batch_size=1"], "--batch_size has no effect"),
    ],
    "compile_check": [
        (["--topology=v4:2x2x1", "--config=train.py:base", "--tokens=128"], "--tokens has no effect"),
        (["--topology=v4:2x2x1", "--encoder=small", "--sample"], "--sample has no effect"),
        (["--topology=v4:2x2x1", "--encoder=small", "--config=train.py:base"], "--config or --encoder"),
    ],
    "serve": [
        (["--origins=hub"], "hub"),
        (["--stages=base,base"], "takes no image"),
        (["--stages=base", "--dtype=float16"], "float16"),
    ],
    "rate": [
        (["--results", "--host=127.0.0.1"], "--host has no effect"),
        (["--results", "--port=0"], "--port has no effect"),
        (["--results", "--origins=https://hub.example"], "--origins has no effect"),
        (["--results", "--together=1"], "--together has no effect"),
    ],
}  # fmt: skip

LINES = [(command, arguments, message) for command, lines in REFUSED.items() for arguments, message in lines]

PROGRAM = """
import json, os, shutil, sys
from pathlib import Path
from tests.torture.command_lines import Loaders, load_fresh, run_line
from tests.torture.command_tables import COMMANDS
from tests.torture.command_trees import write_all

write_all(Path.cwd())
loaders = Loaders()
loaders.run_on = False
with loaders.watching():
    for command, arguments in json.loads(sys.argv[1]):
        print(json.dumps([*run_line(COMMANDS[command], command, arguments, loaders), os.path.exists("out")]))
        shutil.rmtree("out", ignore_errors=True)
for command in COMMANDS:
    table = getattr(load_fresh(command), "PRECONDITIONS", ())
    print(json.dumps([command, [one.sentence for one in table]]))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What came of each line, and the sentences of each command's table."""
    given = json.dumps([(command, arguments) for command, arguments, _ in LINES])
    program = tmp_path_factory.mktemp("program") / "program.py"
    program.write_text(PROGRAM)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("trees"))
        done = run_forked(program, given)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(lines) > len(LINES), done.stderr
    return lines[: len(LINES)], dict(lines[len(LINES) :])


@pytest.mark.parametrize("number", range(len(LINES)), ids=lambda number: f"{LINES[number][0]}-{LINES[number][2]}")
def test_what_does_nothing_is_refused_before_anything_is_loaded(told, number):
    kind, said, _, left = told[0][number]
    assert kind == "sentence" and LINES[number][2] in said, (kind, said)
    assert not left or "can't be chosen" in said, "nothing is written either"


def test_every_precondition_is_tried(told):
    """Those that commands share are tried once for each."""
    outcomes, tables = told
    for command, sentences in tables.items():
        said = [outcome[1] for outcome, line in zip(outcomes, LINES, strict=True) if line[0] == command]
        assert [sentence for sentence in sentences if sentence not in said] == [], command
