"""The Python interface: unknown names never pass, and images come as people have them."""

import ast
import inspect
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import imagen_jax
from configs import openmoji_classifier, quickstart
from imagen_jax.cascade import cascade as cascades
from imagen_jax.cascade import loading
from imagen_jax.cascade.cascade import Cascade, load_cascade
from imagen_jax.cascade.edits import Edit
from imagen_jax.cascade.experiment import read_classifier_experiment, read_experiment
from imagen_jax.cascade.requests import ImageRequest, requests_of
from imagen_jax.cascade.sampling_settings import make_settings
from imagen_jax.cascade.settings import SETTINGS
from imagen_jax.config.reading import key_types
from imagen_jax.config.sections import SECTIONS
from imagen_jax.data.data_sets import open_data_sets
from imagen_jax.data.sources.sources import list_images
from imagen_jax.encoders.encoder import load_text_encoder
from imagen_jax.errors import UserError
from imagen_jax.evaluate import evaluate
from imagen_jax.evaluation.protocols.requests import Wanted
from imagen_jax.pretrained import CASCADES, find_stages
from imagen_jax.runtime.main import parse_options
from imagen_jax.storage.paths import to_path
from imagen_jax.training.optimizer import make_optimizer
from tests.small_cascades import write_cascade

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
ADAM = {"learning_rate": 1e-3, "warm_up_steps": 1, "decay_steps": 4, "clip_norm": 1.0}


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    return write_cascade(tmp_path_factory.mktemp("cascade"))


@pytest.fixture(scope="module")
def cascade(workdirs):
    return load_cascade(workdirs, {"steps": 1, "guidance": 1.0}, batch_size=1)


def misspell(name):
    """A neighbour of a name: its middle letter is gone."""
    return name[: len(name) // 2] + name[len(name) // 2 + 1 :]


def arguments_of(function):
    named = inspect.signature(function).parameters.values()
    return [one.name for one in named if one.name != "self" and one.kind is not one.VAR_KEYWORD]


@pytest.mark.parametrize("name", [*SETTINGS, *arguments_of(Cascade.sample)])
def test_a_misspelt_setting_of_sample_names_the_right_one(cascade, name):
    with pytest.raises(UserError, match=f"{misspell(name)}.*'{name}'"):
        cascade.sample("panda", **{misspell(name): 1})


@pytest.mark.parametrize("name", SETTINGS)
def test_a_misspelt_override_names_the_right_one_before_weights_are_read(workdirs, name, monkeypatch):
    monkeypatch.setattr(cascades, "load_params", lambda plan: pytest.fail("weights were read"))
    with pytest.raises(UserError, match=f"{misspell(name)}.*'{name}'"):
        load_cascade(workdirs, {misspell(name): 1})


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("num_inference_steps", "steps"), ("guidance_scale", "guidance"), ("scheduler", "sampler"),
     ("num_images_per_prompt", "samples_per_prompt"), ("generator", "seed"), ("image", "Edit")],
)  # fmt: skip
def test_names_of_diffusers_are_translated(cascade, theirs, ours):
    with pytest.raises(UserError, match=f"'{theirs}'.*'.*{ours}"):
        cascade.sample("panda", **{theirs: 3})


CALLED = {
    "load_cascade": load_cascade,
    "Edit": Edit,
    "ImageRequest": ImageRequest,
}


@pytest.mark.parametrize(
    ("what", "name"), [(what, name) for what, function in CALLED.items() for name in arguments_of(function)]
)
def test_a_misspelt_argument_names_the_right_one(what, name):
    with pytest.raises(TypeError, match=f"'{misspell(name)}'.*'{name}'"):
        CALLED[what](**{misspell(name): None})


def optimizer(option):
    return make_optimizer("adam", **ADAM, **{option: 0.5})


def prepared(option):
    return open_data_sets("prepared", 8, "", 0.1, {"folder": "", option: 1})


@pytest.mark.parametrize(
    ("use", "name"),
    [
        (optimizer, "epsilon"),
        (optimizer, "clip_norm"),
        (prepared, "folder"),
        (lambda option: list_images("folder", {option: 1}), "folder"),
        (lambda option: load_text_encoder("minilm", **{option: 1}), "max_tokens"),
        (lambda option: load_text_encoder("t5", **{option: 1}), "tokenizer"),
    ],
)
def test_a_misspelt_option_names_the_right_one(use, name):
    with pytest.raises(UserError, match=f"{misspell(name)}.*'{name}'"):
        use(misspell(name))


OF_ALL_CONFIGS = {section: key_types(kind) for section, kind in SECTIONS.items() if kind.rest is None}


@pytest.mark.parametrize(
    ("section", "key"), [(section, key) for section, keys in OF_ALL_CONFIGS.items() for key in keys]
)
def test_a_misspelt_key_of_a_config_file_names_the_right_one(section, key):
    config = ConfigDict(quickstart.get_config("base,smoke").to_dict())
    config[section][misspell(key)] = 1
    with pytest.raises(UserError, match=f"config.{section}.*{misspell(key)}.*'{key}'"):
        read_experiment(config)


def test_a_misspelt_section_of_a_config_file_names_the_right_one():
    config = ConfigDict(quickstart.get_config("base,smoke").to_dict() | {"trainin": {}})
    with pytest.raises(UserError, match=r"trainin.*'training'"):
        read_experiment(config)


def test_every_key_of_our_configs_is_known():
    for variant in ("base", "super_resolution"):
        read_experiment(quickstart.get_config(variant))
    read_classifier_experiment(openmoji_classifier.get_config())


def test_a_key_of_a_stage_that_nothing_reads_is_refused(workdirs):
    config = loading.plan_stage(workdirs[0]).config.sampling.to_dict()
    with pytest.raises(UserError, match=r"'guidnace'.*'guidance'"):
        make_settings(config | {"guidnace": 3.0})


def test_an_option_is_given_once():
    with pytest.raises(UserError, match="--option=folder"):
        parse_options(lambda folder="": None, ["folder=A", "folder=B"])


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 2.5},
        {"steps": "many"},
        {"steps": True},
        {"steps": 10**9},
        {"guidance": "3"},
        {"guidance": None},
        {"sampler": 3},
        {"sampler": "dimm"},
        {"spacing": "kerras"},
        {"sections": 27},
        {"thresholding": "dynamics"},
        {"percentile": 101.0},
        {"percentile": 0.995},
        {"max_threshold": 0.5},
        {"batched_guidance": 1},
        {"augmentation_level": [0.0, 1.5]},
        {"guidance_interval": 3.0},
        {"guidance_interval": "-4,3"},
        {"steps": []},
    ],
)
def test_a_setting_of_another_type_or_out_of_range_is_refused_by_its_name(cascade, settings):
    (name,) = settings
    with pytest.raises(UserError, match=name.replace("_", ".")):
        cascade.sample("panda", **settings)


def test_the_size_of_images_is_no_setting_and_no_other_is_suggested(cascade):
    for name in ("height", "width"):
        with pytest.raises(UserError, match=f"'{name}'.*stages") as refused:
            cascade.sample("panda", **{name: 512})
        assert "did you mean" not in str(refused.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"gamma": 0.5, "sampler": "unipc"},
        {"eta": 0.5, "sampler": "ancestral"},
        {"sections": "5,5", "spacing": "karras"},
        {"percentile": 99.0, "thresholding": "static"},
        {"max_threshold": 2.0, "thresholding": "none"},
        {"guidance_interval": (-4.0, 3.0), "guidance": 1.0},
        {"batched_guidance": True, "guidance": 1},
    ],
)
def test_a_setting_without_effect_is_refused(cascade, settings):
    name = next(iter(settings))
    with pytest.raises(UserError, match=name):
        cascade.sample("panda", **settings)


def test_a_setting_with_an_effect_on_one_stage_is_enough(cascade):
    adjusted = cascade.adjusted(guidance=[3, 1], guidance_interval=(-40, 40))
    described = [adjusted.describe()[f"stage_{number}"] for number in range(2)]
    assert ["guidance 3" in facts for facts in described] == [True, False]


@pytest.mark.thorough
def test_a_guidance_interval_that_holds_all_levels_changes_no_image(cascade):
    plain, guided = cascade.sample("panda"), cascade.sample("panda", guidance=[3, 1], guidance_interval=(-40, 40))
    assert np.abs(np.asarray(plain[0], float) - np.asarray(guided[0], float)).mean() > 0.1
    np.testing.assert_array_equal(guided[0], cascade.sample("panda", guidance=[3, 1])[0])


def test_what_depends_on_the_number_of_stages_is_refused(workdirs):
    base = load_cascade(workdirs[0], {"steps": 1, "guidance": 1.0}, batch_size=1)
    for options, facts in (
        ({"augmentation_level": 0.1}, "--augmentation_level"),
        ({"edit": Edit(later_prompt="tree")}, "--later_prompt"),
        ({"negative_prompt": "tree"}, "^(?!.*--).*negative prompt.*guidance"),
        ({"edit": Edit(image=IMAGE)}, "--image.*--strength=1"),
        ({"edit": Edit(image=IMAGE, mask=np.ones((20, 24), bool))}, "--mask"),
        ({"edit": Edit(image=IMAGE, invert="panda"), "sampler": "unipc"}, "--invert.*--sampler=ddim"),
    ):
        with pytest.raises(UserError, match=facts):
            base.sample("panda", **options)
    with pytest.raises(UserError, match=r"--to_seed.*--strength"):
        next(base.draw(ImageRequest("panda", to_seed=1), edit=Edit(image=IMAGE, strength=0.5)))


def test_stages_are_named_by_a_text_a_path_or_a_list(workdirs, tmp_path, monkeypatch):
    for named in (workdirs[0], str(workdirs[0]), [workdirs[0]], (str(workdirs[0]),)):
        assert find_stages(named) == [workdirs[0]]
    for name in CASCADES:
        assert find_stages(name) == find_stages([name]) == find_stages(to_path(name))
        assert [one.name for one in find_stages(name)] == [*CASCADES[name]]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "openmoji").mkdir()
    assert find_stages(to_path("openmoji")) == [to_path("openmoji")]
    with pytest.raises(UserError, match=r"openmojy.*'openmoji'"):
        load_cascade("openmojy")


def test_a_text_is_one_prompt(cascade):
    (alone,) = cascade.sample("panda")
    np.testing.assert_array_equal(alone, cascade.sample(["panda"])[0])
    (stages,) = cascade.draw("panda")
    assert stages[-1].shape[0] == 1 and [request.prompt for request in requests_of("panda", 2)] == ["panda"] * 2


@pytest.mark.parametrize("index", [-1, 2])
def test_a_request_out_of_range_is_refused(index):
    with pytest.raises(UserError, match="index=-1" if index < 0 else "share=2.0"):
        ImageRequest("panda", index=-1) if index < 0 else ImageRequest("panda", share=2.0)


def test_an_image_comes_as_a_path_as_pillow_has_it_or_as_an_array(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(IMAGE).save(path)
    for image in (path, str(path), Image.open(path), Image.fromarray(IMAGE), IMAGE):
        np.testing.assert_array_equal(Edit(image=image).image, IMAGE)
    grey = IMAGE[..., 0]
    for image in (grey, grey[..., None], Image.fromarray(grey)):
        np.testing.assert_array_equal(Edit(image=image).image, np.repeat(grey[..., None], 3, axis=2))
    clear = np.dstack([IMAGE, np.zeros_like(grey)])
    assert (Edit(image=clear).image == 255).all() and (Edit(image=Image.fromarray(clear)).image == 255).all()
    sixteen = Image.fromarray(grey.astype(np.uint16) * 257)
    np.testing.assert_array_equal(Edit(image=sixteen).image[..., 0], grey)


def test_an_image_of_pillows_is_turned_upright_as_its_file_would_be(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(IMAGE).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as opened:
        np.testing.assert_array_equal(Edit(image=opened).image, Edit(image=tmp_path / "turned.png").image)


def test_a_mask_comes_as_an_image_or_booleans_or_floats(tmp_path):
    white = np.zeros((20, 24), bool)
    white[4:9, 6:12] = True
    pixels = white * np.uint8(255)
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    masks = [tmp_path / "mask.png", Image.fromarray(pixels), pixels, np.dstack([pixels] * 3), white]
    for mask in [*masks, white.astype(np.float32), white.astype(np.float64)]:
        np.testing.assert_array_equal(np.asarray(Edit(image=IMAGE, mask=mask).mask) > 0.5, white)


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"image": "nowhere.png"}, "nowhere.png"),
        ({"image": IMAGE.astype(np.float32)}, "uint8 .*float32"),
        ({"image": IMAGE[..., :2]}, r"uint8 .*\(20, 24, 2\)"),
        ({"image": IMAGE[0, 0]}, r"uint8 .*\(3,\)"),
        ({"image": IMAGE, "mask": IMAGE[..., 0].astype(np.int32)}, "mask .*int32"),
        ({"image": IMAGE, "mask": IMAGE[..., 0].astype(np.float32)}, "mask .*float32"),
        ({"image": Image.fromarray(IMAGE[..., 0].astype(np.float32))}, "image"),
    ],
)
def test_an_image_that_can_not_be_read_is_refused(options, facts):
    with pytest.raises(UserError, match=facts):
        Edit(**options)


def test_a_mask_outside_of_the_centre_square_is_refused():
    mask = np.zeros((20, 40), bool)
    mask[:, :10] = mask[:, 30:] = True
    image = np.zeros((20, 40, 3), np.uint8)
    with pytest.raises(UserError, match="--mask"):
        Edit(image=image, mask=mask)
    mask[10, 10] = True
    assert Edit(image=image, mask=mask).keeps_some


def test_the_package_lists_what_the_readme_shows():
    program = "import imagen_jax; print(*dir(imagen_jax)); print(imagen_jax.ImageRequest('x'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {"load_cascade", "Edit", "ImageRequest", "Cascade", "UserError", "__version__"} <= {*done.stdout.split()}
    for name in imagen_jax.FOR_NOTEBOOKS:
        assert getattr(imagen_jax, name).__name__ == name
        with pytest.raises(AttributeError, match=f"'{name}'"):
            getattr(imagen_jax, misspell(name))


def test_a_text_is_one_feature_network(workdirs, tmp_path):
    assert Wanted(features="pixels").features == ("pixels",)
    with pytest.raises(UserError, match=r"'pixel'.*'pixels'"):
        evaluate(workdirs, tmp_path / "out", Wanted(features="pixel"))


def test_drawbench_is_not_measured(workdirs, tmp_path):
    with pytest.raises(UserError, match="--protocol=drawbench"):
        evaluate(workdirs, tmp_path / "out", Wanted(protocol="drawbench"))
    assert not (tmp_path / "out").exists()


def test_an_option_of_evaluate_is_an_attribute_of_the_request(workdirs, tmp_path):
    with pytest.raises(UserError, match=r"'sample'.*'samples'"):
        evaluate(workdirs, tmp_path / "out", sample=3)
    with pytest.raises(UserError, match=r"samples.*wanted"):
        evaluate(workdirs, tmp_path / "out", Wanted(), samples=3)
    with pytest.raises(UserError, match=r"'pixel'.*'pixels'"):
        evaluate(workdirs, tmp_path / "out", features="pixel")
    assert not (tmp_path / "out").exists()


@pytest.mark.thorough
def test_sample_shows_its_steps_if_asked_or_watched(cascade, monkeypatch, capsys):
    plain = cascade.sample(["panda", "tree", "sun"])
    assert capsys.readouterr().err == "", "nobody watches"
    shown = cascade.sample(["panda", "tree", "sun"], progress=True)
    assert all(np.array_equal(one, other) for one, other in zip(plain, shown, strict=True))
    batches = -(-3 // cascade.batch_size)
    assert f"{2 * batches}/{2 * batches} " in capsys.readouterr().err.split("\r")[-1], "two stages of one step each"
    monkeypatch.setattr("imagen_jax.cascade.sampling_progress.is_watched", lambda: True)
    cascade.sample("panda", steps=2)
    assert "4/4 " in capsys.readouterr().err.split("\r")[-1]
    cascade.sample("panda", progress=False)
    assert capsys.readouterr().err == "" and cascade.on_step is None


@pytest.mark.thorough
def test_a_cascades_own_function_is_called_beside_the_bar(workdirs, capsys):
    called = []
    cascade = load_cascade(workdirs, {"steps": 2}, batch_size=1, on_step=called.append)
    cascade.sample("panda", progress=True)
    cascade.sample("panda")
    assert called == [0, 1, 0, 1] * 2 and cascade.on_step == called.append


def test_dir_lists_what_is_public_and_each_can_be_had():
    """Commands define flags when they are imported, so they are not among them."""
    program = (
        "import sys, imagen_jax\n"
        "names = [name for name in dir(imagen_jax) if not name.startswith('__')]\n"
        "assert 'jax' not in sys.modules\n"
        "import matplotlib; matplotlib.use('svg')\n"
        "for name in names: getattr(imagen_jax, name)\n"
        "import imagen_jax.diffusion.process\n"
        "from absl import flags\n"
        "ours = [flag for flag in flags.FLAGS if 'imagen' in flags.FLAGS.find_module_defining_flag(flag)]\n"
        "functions = imagen_jax.train.train, imagen_jax.evaluate.evaluate\n"
        "print(ours, matplotlib.get_backend(), *(function.__name__ for function in functions))\n"
        "print(*names)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    facts, names = done.stdout.splitlines() or ["", done.stderr]
    assert facts == "[] svg train evaluate", names
    assert {"load_cascade", "load_config", "Edit", "train", "evaluate", "diffusion", "sampling"} <= {*names.split()}
    assert not {"sample", "commands", "Any", "warnings", "import_module"} & {*names.split()}


def test_type_checkers_see_the_names_that_are_imported_at_first_use():
    tree = ast.parse(inspect.getsource(imagen_jax))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    seen = {name.asname: node.module for node in block.body for name in node.names if name.asname == name.name}
    assert seen == imagen_jax.FOR_NOTEBOOKS
