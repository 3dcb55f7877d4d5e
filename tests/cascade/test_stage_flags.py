"""--stages and --text_encoder, of every command that samples."""

import json

import pytest
from absl import flags

from imagen_jax.cascade import stage_flags
from imagen_jax.cascade.cascade import load_cascade
from imagen_jax.encoders.pretrained_t5 import load_t5
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import to_path
from tests.reference.t5_folders import write_t5_folder
from tests.small_cascades import write_cascade


@pytest.mark.parametrize(
    ("given", "stages"),
    [
        ([], ["openmoji"]),
        (["--stages=a,b"], ["a", "b"]),
        (["--stages=a", "--stages=b"], ["a", "b"]),
        (["--stages=one,two"], ["one,two"]),
        (["--stages=one,two,b", "--stages=a"], ["one,two", "b", "a"]),
    ],
)
def test_stages_are_named_with_commas_or_again(tmp_path, monkeypatch, given, stages):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one,two").mkdir()
    flag = flags.FLAGS["stages"]
    flag.unparse()
    for text in given:
        flag.parse(text.removeprefix("--stages="))
    monkeypatch.setattr(stage_flags, "STAGES", flag)
    assert stage_flags.read_stages() == stages
    flag.unparse()


def with_t5(folder, t5, fingerprint=True, **options):
    """A cascade whose stages read captions with a T5."""
    stages = write_cascade(folder)
    name = load_t5(t5, dtype="float32").name
    for stage in stages:
        config = json.loads((stage / "config.json").read_text())
        config["text"] |= {"encoder": "t5", "options": {"folder": str(t5), "dtype": "float32", **options}, "width": 24}
        if fingerprint:
            config["fingerprints"] = {"text_encoder": name}
        (stage / "config.json").write_text(json.dumps(config))
    return stages


@pytest.fixture
def any_weights(monkeypatch):
    """Stages without reading their weights, which are of another width of text."""
    monkeypatch.setattr("imagen_jax.cascade.loading.CheckpointStore.restore_ema", lambda self, shapes: ({}, 0))


@pytest.mark.parametrize("tokenizer", [False, True])
def test_a_t5_that_moved_is_named_once_for_all_stages(tmp_path, any_weights, tokenizer):
    t5 = write_t5_folder(tmp_path / "t5")
    options = {"tokenizer": str(t5 / "spiece.model")} if tokenizer else {}
    stages = with_t5(tmp_path / "cascade", t5, **options)
    here = load_cascade(stages).encoder.name
    moved = t5.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"t5.* --text_encoder"):
        load_cascade(stages)
    assert load_cascade(stages, text_encoder=moved).encoder.name == here
    assert load_cascade(stages, text_encoder=f"{moved}/").encoder.name == here


def test_another_t5_is_refused_at_the_same_place_and_at_another(tmp_path, any_weights):
    t5 = write_t5_folder(tmp_path / "t5")
    stages = with_t5(tmp_path / "cascade", t5)
    other = write_t5_folder(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=r" t5-24-\w+.* t5-24-"):
        load_cascade(stages, text_encoder=other)
    write_t5_folder(t5, seed=1)
    with pytest.raises(UserError, match=r" t5-24-.* t5-24-"):
        load_cascade(stages)


def test_a_stage_that_stores_no_encoder_takes_any(tmp_path, any_weights):
    stages = with_t5(tmp_path / "cascade", write_t5_folder(tmp_path / "t5"), fingerprint=False)
    assert load_cascade(stages, text_encoder=write_t5_folder(tmp_path / "other", seed=1)).encoder.width == 24


def test_an_encoder_that_comes_with_the_package_has_no_folder(tmp_path):
    with pytest.raises(UserError, match="--text_encoder"):
        load_cascade(write_cascade(to_path(tmp_path)), text_encoder=tmp_path)
