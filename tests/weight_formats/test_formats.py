"""Weights from elsewhere become stages, stages become files, and what does not fit is named."""

import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from configs import quickstart
from imagen_jax.cascade import checkpoint_export
from imagen_jax.cascade.cascade import load_cascade
from imagen_jax.cascade.checkpoint_export import ImportChoices
from imagen_jax.cascade.image_files import to_pixels
from imagen_jax.cascade.loading import load_stage
from imagen_jax.cascade.requests import ImageRequest
from imagen_jax.cascade.stage import abstract_params, build_stage
from imagen_jax.cascade.stage_inputs import keys_of_prompts
from imagen_jax.cascade.stage_sampler import make_draw_stage
from imagen_jax.errors import UserError
from imagen_jax.evaluate import evaluate
from imagen_jax.evaluation.protocols.requests import Wanted
from imagen_jax.sampling.sampler import fold_into_each
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.workdir import keep_config
from imagen_jax.weight_formats import formats
from imagen_jax.weight_formats.formats import export_stage, import_stage
from tests.drawn_params import draw_params
from tests.reference.deepfloyd_folders import SIZES, write_json, write_stage
from tests.reference.make_deepfloyd_reference import GOLDEN, PROMPTS, SEED, STEPS
from tests.small_networks import ATTENDING
from tests.storage.uploads import upload

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module")
def sources(golden, tmp_path_factory):
    folder = tmp_path_factory.mktemp("deepfloyd")
    return {name: write_stage(folder / name, name, json.loads(str(golden[f"{name}/shapes"]))) for name in SIZES}


@pytest.fixture(scope="module")
def workdirs(sources, tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported")
    for name, source in sources.items():
        import_stage("deepfloyd_if", source, folder / name, ImportChoices(text_dtype="float32"))
    return [folder / name for name in sources]


@pytest.fixture
def source(sources, tmp_path):
    """A copy of stage I to spoil."""
    copy = tmp_path / "source"
    subprocess.run(["cp", "-r", sources["stage_1"], copy], check=True)
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("number", [pytest.param(0, marks=pytest.mark.thorough), 1])
def test_images_equal_those_of_diffusers(golden, workdirs, number):
    cascade = load_cascade(workdirs, {"steps": list(STEPS.values())}, batch_size=2)
    stage, inputs = cascade.stages[number], cascade.inputs(number, [ImageRequest(prompt) for prompt in PROMPTS])
    keys = fold_into_each(keys_of_prompts(SEED, PROMPTS, [0, 0]), number)
    small = None if number == 0 else jnp.asarray(golden["stage_1/images"])
    with jax.default_matmul_precision("highest"):
        inputs = inputs._replace(keys=keys).with_low_resolution(small)
        sampled = np.asarray(make_draw_stage(stage)(cascade.trained[number].params, inputs))
    expected = golden[f"stage_{number + 1}/images"].astype(np.float32)
    difference = np.abs(to_pixels(sampled).astype(int) - to_pixels(expected).astype(int))
    assert expected.std() > 0.2 and difference.max() <= 2


def test_the_config_says_what_the_scheduler_says(workdirs):
    base, large = (load_stage(workdir).config for workdir in workdirs)
    assert base.text.to_dict() == base.text.to_dict() | {"encoder": "t5", "length": 77, "null": "empty_caption"}
    options = base.text.options
    assert options["encode_padding"] and options["lowercase"] and options["max_tokens"] == 77
    wanted = {"steps": 100, "guidance": 7.0, "thresholding": "dynamic", "percentile": 95.0, "max_threshold": 1.5}
    assert base.sampling.to_dict() == base.sampling.to_dict() | wanted
    wanted = {"steps": 50, "guidance": 4.0, "max_threshold": 1.0, "augmentation_level": 0.251}
    assert large.sampling.to_dict() == large.sampling.to_dict() | wanted
    assert (large.stage.resolution, large.stage.low_resolution) == (64, 16)


@pytest.mark.thorough
def test_a_unet_alone_gets_the_settings_it_was_released_with(sources, workdirs, source, tmp_path):
    for name in ("scheduler", "tokenizer", "text_encoder"):
        subprocess.run(["rm", "-r", source / name], check=True)
    with pytest.raises(UserError, match="--text_encoder"):
        import_stage("deepfloyd_if", source / "unet", tmp_path / "alone")
    import_stage(
        "deepfloyd_if", source / "unet", tmp_path / "alone", ImportChoices(sources["stage_1"] / "text_encoder")
    )
    assert load_stage(tmp_path / "alone").config.sampling == load_stage(workdirs[0]).config.sampling


def write_run(workdir, variant):
    """A stage of the quickstart's smoke size after seven steps; returns its parameters."""
    config = quickstart.get_config(f"{variant},smoke")
    config.network.update(ATTENDING)
    params = draw_params(abstract_params(build_stage(config)))
    keep_config(workdir, config)
    with CheckpointStore(workdir / "checkpoints") as checkpoints:
        checkpoints.save_weights(7, params)
    return params


def test_our_own_stages_go_out_and_in(tmp_path):
    params = write_run(tmp_path / "run", "super_resolution")
    export_stage("imagen_jax", tmp_path / "run", tmp_path / "files")
    assert json.loads((tmp_path / "files" / "config.json").read_text())["stage"]["resolution"] == 16
    tensors = load_file(tmp_path / "files" / "model.safetensors")
    np.testing.assert_array_equal(tensors["conv_in/kernel"], params["conv_in"]["kernel"])

    import_stage("imagen_jax", tmp_path / "files", tmp_path / "again")
    again = load_stage(tmp_path / "again")
    jax.tree.map(np.testing.assert_array_equal, again.params, params)
    assert again.step == 7
    with pytest.raises(UserError, match="--format=imagen_jax"):
        export_stage("deepfloyd_if", tmp_path / "run", tmp_path / "other")
    with pytest.raises(UserError, match="--out"):
        import_stage("imagen_jax", tmp_path / "files", tmp_path / "again")
    with pytest.raises(UserError, match="--out"):
        export_stage("imagen_jax", tmp_path / "again", tmp_path / "again")
    import_stage("imagen_jax", tmp_path / "files", tmp_path / "half", ImportChoices(dtype="bfloat16"))
    assert load_stage(tmp_path / "half").config.network.dtype == "bfloat16"


@pytest.mark.thorough
def test_exported_files_are_a_stage_as_they_are(tmp_path):
    params = write_run(tmp_path / "run", "base")
    export_stage("imagen_jax", tmp_path / "run", tmp_path / "whole")
    export_stage("imagen_jax", tmp_path / "run", tmp_path / "half", "bfloat16")
    whole, half = (load_stage(tmp_path / name) for name in ("whole", "half"))
    assert (whole.step, half.step, half.name) == (7, 7, str(tmp_path / "half"))
    jax.tree.map(np.testing.assert_array_equal, whole.params, jax.device_get(params))
    rounded = jax.tree.map(lambda array: np.asarray(array.astype(jnp.bfloat16), np.float32), params)
    jax.tree.map(np.testing.assert_array_equal, half.params, rounded)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    (image,) = next(load_cascade([tmp_path / "half"], {"steps": 1}, batch_size=1).draw(["panda"]))
    assert np.isfinite(image).all()
    with pytest.raises(UserError, match="'float16'"):
        export_stage("imagen_jax", tmp_path / "run", tmp_path / "other", "float16")


@pytest.mark.parametrize("step", ["-1", "1e3", "٣", "9" * 30, ""])
def test_an_invalid_step_is_none(step, tmp_path):
    save_file({"kernel": np.zeros(1)}, tmp_path / "model.safetensors", {"step": step})
    assert checkpoint_export.read_step(tmp_path) == 0


@pytest.mark.thorough
def test_an_interrupted_import_can_be_restarted(sources, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(formats, "copy_licences", interrupt)
        with pytest.raises(KeyboardInterrupt):
            import_stage("deepfloyd_if", sources["stage_1"], tmp_path)
    import_stage("deepfloyd_if", sources["stage_1"], tmp_path)
    assert load_stage(tmp_path).step == 0


def test_the_licence_goes_where_the_weights_go(source, tmp_path):
    (source / "LICENSE.md").write_text("terms")
    (source / "LICENSES").mkdir()
    elsewhere = ImportChoices(text_encoder=source / "text_encoder")
    import_stage("deepfloyd_if", source / "unet", tmp_path / "run", elsewhere)
    export_stage("deepfloyd_if", tmp_path / "run", tmp_path / "out")
    assert (tmp_path / "out" / "LICENSE.md").read_text() == "terms"


def test_what_an_imported_stage_can_not_do_is_an_error(workdirs, sources, tmp_path):
    with pytest.raises(UserError, match=re.escape(str(workdirs[0]))):
        evaluate([str(workdirs[0])], tmp_path / "evaluated", Wanted(features=["pixels"], samples=1), batch_size=1)
    with pytest.raises(UserError, match="--format=deepfloyd_if"):
        import_stage("imagen_jax", sources["stage_1"] / "unet", tmp_path / "out")
    write_json(tmp_path / "foreign" / "config.json", {"d_model": 3})
    with pytest.raises(UserError, match=r"foreign .*network.*sampling.*stage.*text"):
        load_stage(tmp_path / "foreign")
    cascade = load_cascade(workdirs[:1], {"guidance": 1.0})
    assert "learned variance" in cascade.describe()["stage_0"]
    with pytest.raises(UserError, match="negative prompt"):
        next(cascade.draw(["red apple"], negative_prompt="panda"))


def test_importing_what_was_exported_changes_nothing(workdirs, sources, tmp_path):
    export_stage("deepfloyd_if", workdirs[1], tmp_path / "unet")
    original, exported = load_file(sources["stage_2"] / WEIGHTS), load_file(tmp_path / WEIGHTS)
    assert original.keys() == exported.keys()
    assert all(np.array_equal(original[key], exported[key]) for key in original)


def spoil_scheduler(source, **changes):
    path = source / "scheduler" / "scheduler_config.json"
    write_json(path, json.loads(path.read_text()) | changes)


def spoil_config(source, **changes):
    path = source / "unet" / "config.json"
    write_json(path, json.loads(path.read_text()) | changes)


def truncate_weights(source):
    path = source / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


def rename_weights(source):
    (source / WEIGHTS).rename(source / "unet" / "weights.safetensors")


def use_a_pickle(source):
    (source / WEIGHTS).rename(source / "unet" / "diffusion_pytorch_model.bin")


def use_a_pickle_of_t5(source):
    (source / "text_encoder" / "model.safetensors").rename(source / "text_encoder" / "a.bin")


def lose_a_shard(source):
    index = {"weight_map": {"conv_in.weight": "diffusion_pytorch_model-00002-of-00002.safetensors"}}
    (source / WEIGHTS).unlink()
    write_json(source / "unet" / "diffusion_pytorch_model.safetensors.index.json", index)


def reshape_a_tensor(source):
    tensors = load_file(source / WEIGHTS)
    save_file(tensors | {"conv_in.weight": np.zeros((3, 32, 3, 3), np.float32)}, source / WEIGHTS)


@pytest.mark.parametrize(
    ("spoil", "facts"),
    [
        (lambda source: spoil_config(source, new_key=1), "'new_key'"),
        (lambda source: spoil_config(source, block_out_channels=[64, 64, 96]), "down_blocks.1.resnets.0"),
        (lambda source: (source / "unet" / "config.json").write_text("{"), "config.json"),
        (lambda source: (source / "unet" / "config.json").write_text("[]"), "config.json"),
        (lambda source: (source / "unet" / "config.json").unlink(), "config.json"),
        (lambda source: spoil_scheduler(source, variance_type="fixed_small"), "variance_type='fixed_small'"),
        (lambda source: spoil_scheduler(source, prediction_type="v_prediction"), "prediction_type='v_prediction'"),
        (lambda source: spoil_scheduler(source, beta_schedule="sigmoid"), "beta_schedule='sigmoid'"),
        (lambda source: spoil_scheduler(source, beta_schedule="linear", beta_end=0.01), "beta_schedule='linear'"),
        (lambda source: spoil_scheduler(source, dynamic_thresholding_ratio=95), "dynamic_thresholding_ratio=95"),
        (lambda source: spoil_scheduler(source, sample_max_value=0.5), "max_threshold"),
        (lambda source: spoil_scheduler(source, clip_sample_range=2.0), "clip_sample_range=2.0"),
        (lambda source: spoil_scheduler(source, lambda_min=1), "'lambda_min'"),
        (
            lambda source: spoil_config(source, layers_per_block="2"),
            "layers_per_block='2'",
        ),
        (lambda source: spoil_config(source, sample_size=15), "sample_size=15"),
        (lambda source: spoil_config(source, only_cross_attention="yes"), "only_cross_attention='yes'"),
        (lambda source: spoil_config(source, resnet_out_scale_factor=0), "resnet_out_scale_factor=0"),
        (lambda source: spoil_config(source, encoder_hid_dim=48), r"\b24\b.*config\.text\.width.*\b48\b"),
        (
            lambda source: (source / "text_encoder" / "model.safetensors").rename(source / "text_encoder" / "a.bin"),
            "a.bin",
        ),
        (lambda source: (source / "tokenizer" / "spiece.model").unlink(), "spiece.model"),
        (truncate_weights, "diffusion_pytorch_model.safetensors"),
        (rename_weights, "unet .*model.safetensors"),
        (use_a_pickle, "diffusion_pytorch_model.bin"),
        (lose_a_shard, "diffusion_pytorch_model-00002-of-00002.safetensors"),
        (reshape_a_tensor, r"conv_in.weight .*\(3, 32, 3, 3\)"),
    ],
)
def test_bad_files_are_errors_and_nothing_is_written(source, tmp_path, spoil, facts):
    spoil(source)
    with pytest.raises(UserError, match=facts):
        import_stage("deepfloyd_if", source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.thorough
def test_weights_are_imported_from_a_bucket_and_exported_into_one(sources, workdirs, bucket):
    source = upload(sources["stage_1"], bucket / "IF-I")
    (source / "LICENSE").write_bytes(b"the licence")
    import_stage("deepfloyd_if", source, bucket / "run", ImportChoices(text_dtype="float32"))
    ours, theirs = load_stage(workdirs[0]), load_stage(bucket / "run")
    assert all(map(np.array_equal, jax.tree.leaves(ours.params), jax.tree.leaves(theirs.params)))
    assert theirs.config.text.options["folder"] == f"{source}/text_encoder"
    assert (bucket / "run" / "LICENSE").read_bytes() == b"the licence"
    checkpoint_export.write(theirs.config, theirs.params, theirs.step, bucket / "out")
    again = checkpoint_export.read_params(bucket / "out", checkpoint_export.read_config(bucket / "out"))
    assert all(map(np.array_equal, jax.tree.leaves(ours.params), jax.tree.leaves(again)))
    with pytest.raises(UserError, match="--out"):
        export_stage("imagen_jax", bucket / "run", bucket / "out")


@pytest.mark.thorough
def test_the_commands_import_and_sample(sources, tmp_path):
    def run(main, *flags):
        command = [sys.executable, "-m", f"imagen_jax.{main}", *flags]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    out = tmp_path / "base"
    done = run("import_weights", "--format=deepfloyd_if", f"--source={sources['stage_1']}", f"--out={out}")
    assert done.returncode == 0 and "Copyright (c) Stability AI Ltd." in done.stdout
    done = run("sample", f"--stages={out}", "--steps=2", "--prompt=red apple", f"--out={tmp_path / 'pictures'}",
               "--negative_prompt=panda")  # fmt: skip
    assert done.returncode == 0, done.stderr
    (file,) = (path for path in (tmp_path / "pictures").glob("red_apple*.png"))
    with Image.open(file) as image:
        assert image.size == (16, 16) and image.text["negative_prompt"] == "panda"
    done = run("import_weights", "--format=deepfloyd", f"--source={sources['stage_1']}", f"--out={tmp_path / 'no'}")
    assert done.returncode == 2 and "did you mean 'deepfloyd_if'" in done.stderr
