"""Karlo's folder becomes a CLIP and three stages, which become a folder again; and what does not fit is named."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from imagen_jax.cascade.loading import load_stage
from imagen_jax.cascade.plans import plan_cascade
from imagen_jax.encoders.pretrained_clip import load_clip
from imagen_jax.errors import UserError
from imagen_jax.weight_formats.karlo import read_config
from imagen_jax.weight_formats.karlo_pipeline import export_karlo, import_karlo
from imagen_jax.weight_formats.karlo_settings import (
    read_decoder,
    read_prior,
    read_upsampler,
    write_decoder,
    write_prior,
    write_upsampler,
)
from tests.forked_programs import run_forked
from tests.reference.karlo_folders import write_pipeline
from tests.reference.karlo_models import DECODER, PRIOR, PROJECTIONS, TOKENS, UPSAMPLER, VECTOR

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_pipeline(tmp_path_factory.mktemp("karlo"))


@pytest.fixture(scope="module")
def imported(source, tmp_path_factory):
    return import_karlo(source, tmp_path_factory.mktemp("imported"))


def test_configs_say_what_the_folders_say(source, imported):
    prior, decoder, upsampler = (load_stage(workdir).config for workdir in imported)
    tensors = load_file(source / "prior" / WEIGHTS)
    assert (prior.stage.vector, prior.stage.text_vector, prior.stage.prediction) == (VECTOR, VECTOR, "x0")
    assert (prior.sampling.steps, prior.sampling.guidance, prior.sampling.spacing) == (25, 4.0, "both_ends")
    assert (prior.sampling.thresholding, prior.sampling.max_threshold) == ("clip", 5.0)
    np.testing.assert_array_equal(np.float32(prior.embedding.mean), tensors["clip_mean"][0])
    np.testing.assert_array_equal(np.float32(prior.embedding.deviations), tensors["clip_std"][0])
    assert prior.text.to_dict() == decoder.text.to_dict()
    assert (prior.text.length, prior.text.null, prior.text.options["vectors"]) == (TOKENS, "empty_caption", "raw")
    assert (decoder.stage.resolution, decoder.stage.image_vector, decoder.sampling.guidance) == (16, VECTOR, 8.0)
    assert decoder.embedding.form == prior.embedding.form == "raw"
    assert (upsampler.stage.resolution, upsampler.stage.low_resolution, upsampler.sampling.steps) == (32, 16, 7)
    assert (imported[0] / "LICENSE").read_text() == "CreativeML OpenRAIL-M"


def test_the_stages_are_a_cascade_of_seven_steps(imported):
    cascade = plan_cascade(imported)
    assert [stage.shape for stage in cascade.sampling] == [(VECTOR,), (16, 16, 3), (32, 32, 3)]
    with pytest.raises(UserError, match="7 steps"):
        plan_cascade(imported, {"steps": [25, 25, 6]})


def check_same_tensors(exported, source):
    folders = [path.parent.name for path in source.glob("*/config.json")]
    assert len(folders) >= 6
    for name in folders:
        files = [next((place / name).glob("*.safetensors")) for place in (exported, source)]
        found, expected = map(load_file, files)
        assert found.keys() == expected.keys()
        for key, tensor in expected.items():
            assert found[key].shape == tensor.shape and found[key].tobytes() == tensor.tobytes(), key


def test_export_gives_every_byte_back(source, imported, tmp_path):
    export_karlo(imported[0].parent, tmp_path / "out")
    check_same_tensors(tmp_path / "out", source)
    index = json.loads((tmp_path / "out" / "model_index.json").read_text())
    assert index["_class_name"] == "UnCLIPPipeline" and index["text_proj"] == ["unclip", "UnCLIPTextProjModel"]
    with pytest.raises(UserError, match="--out"):
        export_karlo(imported[0].parent, tmp_path / "out")


def test_a_clip_without_images_embeds_captions(imported):
    clip = load_clip(str(imported[0].parent / "clip"), model="")
    assert clip.encode_texts(["the cat", ""]).shape == (2, VECTOR) and "image" not in clip.parameters
    with pytest.raises(UserError, match="image tower"):
        clip.image.prepare(np.zeros((4, 4, 3), np.uint8))


@pytest.mark.thorough
def test_a_clip_with_images_comes_back_too_and_is_another(imported, tmp_path):
    both = write_pipeline(tmp_path / "both", image_encoder=True)
    import_karlo(both, tmp_path / "out")
    export_karlo(tmp_path / "out", tmp_path / "exported")
    check_same_tensors(tmp_path / "exported", both)
    clips = [load_clip(str(folder / "clip"), model="") for folder in (imported[0].parent, tmp_path / "out")]
    alone, whole = (clip.encode_texts(["the cat"]) for clip in clips)
    np.testing.assert_array_equal(alone, whole)
    with pytest.raises(UserError, match="another CLIP"):
        import_karlo(both, imported[0].parent)


def test_the_licence_comes_first(source, tmp_path, capsys):
    spoiled = tmp_path / "spoiled"
    shutil.copytree(source, spoiled)
    (spoiled / "text_encoder" / "config.json").unlink()
    with pytest.raises(UserError, match="text_encoder"):
        import_karlo(spoiled, tmp_path / "out")
    assert capsys.readouterr().out.count("OpenRAIL-M") == 1 and not (tmp_path / "out").exists()


def test_what_is_missing_or_not_karlos_is_named(source, tmp_path):
    spoiled = tmp_path / "spoiled"
    shutil.copytree(source, spoiled)
    shutil.rmtree(spoiled / "super_res_first")
    with pytest.raises(UserError, match="super_res_first"):
        import_karlo(spoiled, tmp_path / "out")
    with pytest.raises(UserError, match="--text_encoder"):
        read_config(source / "prior")
    with pytest.raises(UserError, match="stage of Karlo"):
        read_config(source / "text_proj")
    (spoiled / "model_index.json").write_text(json.dumps({"_class_name": "KandinskyPipeline"}))
    with pytest.raises(UserError, match="KandinskyPipeline"):
        import_karlo(spoiled, tmp_path / "out")


def test_deviations_of_zero_and_other_processes_are_refused(source, tmp_path):
    from imagen_jax.cascade.checkpoint_export import ImportChoices

    spoiled, choices = tmp_path / "spoiled", ImportChoices(tmp_path)
    shutil.copytree(source, spoiled)
    path = spoiled / "prior_scheduler" / "scheduler_config.json"
    for change in ({"variance_type": "learned_range"}, {"prediction_type": "epsilon"}, {"num_train_timesteps": 100},
                   {"beta_schedul": "linear"}, {"clip_sample_range": -1.0}):  # fmt: skip
        settings = json.loads((source / "prior_scheduler" / "scheduler_config.json").read_text()) | change
        path.write_text(json.dumps(settings))
        with pytest.raises(UserError, match=next(iter(change))):
            read_config(spoiled / "prior", choices)
    shutil.copy(source / "prior_scheduler" / "scheduler_config.json", path)
    tensors = load_file(source / "prior" / WEIGHTS)
    save_file(tensors | {"clip_std": np.zeros((1, VECTOR), np.float32)}, spoiled / "prior" / WEIGHTS)
    with pytest.raises(UserError, match="clip_std"):
        read_config(spoiled / "prior", choices)


def test_written_settings_describe_the_same_networks():
    from imagen_jax.models import NETWORKS

    def build(fields):
        return NETWORKS[fields.pop("name")](**fields)

    prior, decoder = build(read_prior(PRIOR)), build(read_decoder(DECODER, PROJECTIONS))
    upsampler = build(read_upsampler(UPSAMPLER, UPSAMPLER))
    assert build(read_prior(write_prior(prior, VECTOR, TOKENS))) == prior
    written, projections = write_decoder(decoder, 16, VECTOR)
    assert build(read_decoder(written, projections)) == decoder
    assert projections == projections | PROJECTIONS
    assert build(read_upsampler(*[write_upsampler(upsampler, 32)] * 2)) == upsampler


@pytest.mark.parametrize(
    "change",
    [
        {"_class_name": "PriorTransformerV2"},
        {"norm_in_type": "layer"},
        {"added_emb_type": None},
        {"additional_embeddings": 3},
        {"num_layer": 2},
        {"num_layers": 0},
        {"dropout": 1.0},
    ],
)
def test_another_prior_is_refused(change):
    with pytest.raises(UserError, match=next(iter(change))):
        read_prior(PRIOR | change)


@pytest.mark.parametrize(
    "change",
    [
        {"class_embed_type": "timestep"},
        {"cross_attention_norm": "group_norm"},
        {"up_block_types": ["ResnetUpsampleBlock2D"] * 2},
        {"down_block_types": ["DownBlock2D"] * 2},
        {"sample_size": 15},
        {"cross_attention_dim": 32},
        {"block_out_channels": [64, 64]},
    ],
)
def test_another_decoder_is_refused(change):
    with pytest.raises(UserError, match="time_embed_dim" if "block_out_channels" in change else next(iter(change))):
        read_decoder(DECODER | change, PROJECTIONS)


def test_another_upsampler_is_refused():
    for first, last, key in (
        ({"add_attention": True}, {}, "add_attention"),
        ({}, {"layers_per_block": 2}, "layers_per_block"),
        ({"resnet_time_scale_shift": "scale_shift"}, {}, "resnet_time_scale_shift"),
    ):
        with pytest.raises(UserError, match=key):
            read_upsampler(UPSAMPLER | first, UPSAMPLER | last)


@pytest.mark.slow
@pytest.mark.thorough
def test_the_commands_import_sample_and_export(source, tmp_path):
    def run(command, *flags):
        done = run_forked(f"imagen_jax.{command}", *flags)
        assert done.returncode == 0, done.stderr
        return done.stdout

    imported = tmp_path / "karlo"
    said = run("import_weights", "--format=karlo", f"--source={source}", f"--out={imported}")
    assert said.count("OpenRAIL-M") == 1
    stages = ",".join(str(imported / name) for name in ("prior", "decoder", "upsampler"))
    assert f"--stages={stages}" in said
    run("sample", f"--stages={stages}", "--prompt=the cat", "--steps=2,2,7", f"--out={tmp_path / 'images'}")
    with Image.open(next((tmp_path / "images").glob("*.png"))) as image:
        assert image.size == (32, 32)
    run("export_weights", "--format=karlo", f"--workdir={imported}", f"--out={tmp_path / 'out'}")
    check_same_tensors(tmp_path / "out", source)
