"""A whole cascade, small and untrained: what an image depends on, and what edits make of it."""

import gc
import re
import shutil
import weakref

import jax
import numpy as np
import pytest
from PIL import Image

from imagen_jax.cascade import cascade as cascades
from imagen_jax.cascade.cascade import load_cascade
from imagen_jax.cascade.edits import Edit
from imagen_jax.cascade.image_folder import PictureFolder, draw_missing, settings_of
from imagen_jax.cascade.requests import ImageRequest
from imagen_jax.errors import UserError
from tests.small_cascades import write_cascade

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    return write_cascade(tmp_path_factory.mktemp("cascade"))


@pytest.fixture(scope="module")
def cascade(workdirs):
    return load_cascade(workdirs, {"guidance": [2.0, 1.0], "steps": 3}, batch_size=3)


@pytest.fixture(scope="module")
def base(workdirs):
    """The first stage alone, for what is the same in every stage."""
    return load_cascade(workdirs[:1], {"guidance": [2.0], "steps": 3}, batch_size=3)


def draw(cascade, requests, **options):
    """The last stage's images."""
    return np.concatenate([stages[-1] for stages in cascade.draw(requests, **options)])


def distance(ours, theirs):
    return float(np.abs(ours - theirs).mean())


def test_an_image_is_a_function_of_its_request_and_the_seed(cascade):
    requests = [ImageRequest("panda"), ImageRequest("panda", 1), ImageRequest("apple"), ImageRequest("tree")]
    together = draw(cascade, requests)
    assert together.shape == (4, 16, 16, 3) and np.isfinite(together).all()
    for number, request in enumerate(requests):
        np.testing.assert_allclose(draw(cascade, [request])[0], together[number], atol=1e-5)
    assert distance(together[0], together[1]) > 0.01 and distance(together[0], together[2]) > 0.01
    assert distance(draw(cascade, requests, seed=1)[0], together[0]) > 0.01


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [8]), (8, [8]), (9, [16]), (24, [24]), (30, [24, 24]), (49, [24, 24, 24])]
)
def test_a_batch_is_as_large_as_the_requests_and_the_devices_need(workdirs, monkeypatch, count, sizes):
    """On eight devices, of which each has as many images; the last batch of several is filled up."""
    sizes_sampled = []

    def note(self, requests, *others):
        sizes_sampled.append(len(requests))
        yield np.zeros((len(requests), 8, 8, 3), np.float32)

    monkeypatch.setattr(cascades.Cascade, "_sample_batch", note)
    whole = load_cascade(workdirs[:1], batch_size=20)
    assert whole.mesh.size == 8
    assert (
        sum(len(images) for (images,) in whole.draw([ImageRequest("panda", index) for index in range(count)])) == count
    )
    assert sizes_sampled == sizes


@pytest.mark.thorough
def test_one_device_samples_one_image_alone(workdirs, monkeypatch):
    monkeypatch.setattr(cascades.jax, "local_devices", lambda: jax.devices()[:1])
    monkeypatch.setattr(cascades.jax, "local_device_count", lambda: 1)
    alone = load_cascade(workdirs, {"steps": 2})
    shapes = []
    run = cascades.Cascade._run

    def note(self, *arguments):
        images = run(self, *arguments)
        shapes.append(images.shape)
        return images

    monkeypatch.setattr(cascades.Cascade, "_run", note)
    (image,) = draw(alone, ["panda"])
    assert shapes == [(1, 8, 8, 3), (1, 16, 16, 3)]
    three = draw(alone, ["apple", "panda", "tree"])
    assert shapes[2:] == [(3, 8, 8, 3), (3, 16, 16, 3)]
    np.testing.assert_allclose(three[1], image, atol=1e-5)


def test_a_folder_takes_one_prompt_more_and_fills_no_batch_twice(base, tmp_path):
    """By the cascade itself, in batches of another size."""
    settings = settings_of(base)
    contents = []
    for prompts in (["panda"], ["apple", "panda"], ["panda"]):
        requests = [ImageRequest(prompt) for prompt in prompts]
        folder = PictureFolder(tmp_path, requests, 0, base.batch_size_for(len(requests)), "png", settings)
        count = draw_missing(base, folder, folder.missing(), 0)
        folder.finish(2)
        contents.append((count, {file.name: file.read_bytes() for file in tmp_path.glob("*seed0*")}))
    assert [(count, len(files)) for count, files in contents] == [(1, 1), (1, 2), (0, 2)]
    assert contents[0][1].items() <= contents[1][1].items() == contents[2][1].items()
    alone = PictureFolder(tmp_path / "alone", [ImageRequest("apple")], 0, 1, "png", settings)
    draw_missing(base, alone, alone.missing(), 0)
    (apple,) = (tmp_path / "alone").glob("apple*")
    with Image.open(apple) as one, Image.open(tmp_path / apple.name) as other:
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1


def test_no_prompt_compiles_anything_again(cascade):
    draw(cascade, ["panda"])
    before = {key: program.advance._cache_size() for key, program in cascade._programs.items()}
    draw(cascade, ["a far longer prompt than any before it, with an emoji 🍎 and a \x00 byte"], seed=9)
    assert {key: program.advance._cache_size() for key, program in cascade._programs.items()} == before
    assert set(before.values()) == {1}


@pytest.mark.thorough
def test_of_ever_new_settings_and_strengths_the_programs_of_the_newest_are_kept(workdirs, monkeypatch):
    monkeypatch.setattr(cascades, "MAX_TRAJECTORIES", 1)
    cascade = load_cascade(workdirs[:1], {"steps": 2, "guidance": 1.0}, batch_size=1)
    half = Edit(np.zeros((16, 16, 3), np.uint8), strength=0.5)
    first = cascade.sample("panda", edit=half)
    (program,) = [weakref.ref(program.advance) for program in cascade._programs.values()]
    cascade.sample("panda", edit=half, steps=3)
    gc.collect()
    assert program() is None and len(cascade._programs) == 1, "what is not kept is freed"
    np.testing.assert_array_equal(cascade.sample("panda", edit=half), first)
    cascade.sample("panda")
    assert len(cascade._programs) == 1


@pytest.mark.thorough
@pytest.mark.parametrize("stages", [1, 2])
def test_programs_that_are_run_in_pieces_are_compiled_once_before_they_sample(workdirs, monkeypatch, stages):
    calls = []
    monkeypatch.setattr(cascades, "release_memory", lambda: calls.append("released"))
    cascade = load_cascade(workdirs[:stages], {"steps": [5]}, batch_size=2, on_step=calls.append)
    draw(cascade, ["panda"])
    assert calls == ["released", 0, 1, 2, 3, 4] * stages
    assert {program.advance._cache_size() for program in cascade._programs.values()} == {1}


def test_no_network_is_traced_again_for_the_next_batch(cascade, monkeypatch):
    list(cascade.draw(["panda"]))
    traced = []
    for network in {type(one.stage.network) for one in cascade.trained}:
        monkeypatch.setattr(network, "__call__", lambda self, *_, **__: traced.append(self) or pytest.fail("traced"))
    batches = list(cascade.draw(["red apple", "rocket", "pizza"], seed=3))
    assert traced == [] and sum(len(stages[-1]) for stages in batches) == 3


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": [3, 2]},
        pytest.param({"steps": [4, 2]}, marks=pytest.mark.thorough),
        pytest.param({"sampler": "unipc", "spacing": "karras"}, marks=pytest.mark.thorough),
    ],
)
def test_settings_of_one_call_leave_the_cascade_as_it_was(cascade, settings):
    plain = cascade.sample("panda")
    assert len(plain) == 1 and plain[0].size == (16, 16) and isinstance(plain[0], Image.Image)
    other = cascade.sample("panda", **settings)
    assert distance(np.asarray(other[0], float), np.asarray(plain[0], float)) > 0.1
    assert cascade.adjusted(**settings) is cascade.adjusted(**settings)
    np.testing.assert_array_equal(cascade.sample(["panda"])[0], plain[0])


def test_a_negative_prompt_changes_the_image(base):
    assert distance(draw(base, ["panda"], negative_prompt="apple"), draw(base, ["panda"])) > 1e-4


@pytest.mark.thorough
def test_guidance_at_once_and_within_an_interval(base):
    plain = draw(base, ["panda"])
    at_once = draw(base.adjusted(batched_guidance=True), ["panda"])
    np.testing.assert_allclose(at_once, plain, atol=1e-4)
    everywhere = draw(base.adjusted(guidance_interval=[(-100.0, 100.0)]), ["panda"])
    np.testing.assert_allclose(everywhere, plain, atol=1e-4)
    nowhere = draw(base.adjusted(guidance_interval=[(99.0, 100.0)]), ["panda"])
    np.testing.assert_allclose(nowhere, draw(base.adjusted(guidance=1.0), ["panda"]), atol=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize(("guidance", "thresholding"), [(1e4, "dynamic"), (-1e4, "none")])
def test_absurd_guidance_gives_finite_pixels(base, guidance, thresholding):
    images = draw(base.adjusted(guidance=guidance, thresholding=thresholding), ["panda"])
    assert np.isfinite(images).all() and np.abs(images).max() <= 1


@pytest.mark.parametrize(
    ("settings", "fact"),
    [
        ({"guidance": float("nan")}, "guidance .*nan"),
        ({"guidance": float("inf")}, "guidance .*inf"),
        ({"steps": 0}, "steps .*100000"),
        ({"steps": [1, 2, 3]}, "--steps .*3.* 2 "),
        ({"sampler": "ddpm"}, "sampler"),
        ({"eta": 2.0}, "eta .*0 .*1.* 2"),
        ({"gamma": -0.1}, "gamma .*0 .*1.* -0.1"),
        ({"guidance_interval": [(3.0, -3.0)]}, r"guidance_interval.*\(3.0, -3.0\)"),
        ({"guidance_interval": [(3.0,)]}, r"guidance_interval.*\(3.0,\)"),
    ],
)
def test_settings_out_of_range_are_refused(cascade, settings, fact):
    with pytest.raises(UserError, match=fact):
        cascade.sample("panda", **settings)


@pytest.mark.thorough
def test_one_step_is_enough(base):
    for sampler in ("heun", "unipc"):
        assert np.isfinite(draw(base.adjusted(sampler=sampler, steps=1), ["panda"])).all()


@pytest.mark.thorough
def test_the_weaker_the_strength_the_more_is_left_of_the_image(base):
    steps = base.adjusted(steps=20)
    (exact,) = Edit(IMAGE, strength=0.05).images(8, 1)[:1]
    distances = [distance(draw(steps, ["panda"], edit=Edit(IMAGE, strength=s)), exact) for s in (0.05, 0.3, 0.9)]
    assert distances == sorted(distances) and distances[0] < 0.4 * distances[-1]


@pytest.mark.thorough
@pytest.mark.parametrize("whole", [False, True])
def test_what_the_mask_leaves_stays_as_it_is(cascade, base, whole):
    size = 16 if whole else 8
    mask = np.zeros((20, 20), np.float32)
    mask[:, 10:] = 1.0
    kept, free = slice(size // 2 - 1), slice(size // 2 + 1, None)
    edited = (cascade if whole else base).adjusted(steps=4)
    images = draw(edited, ["panda", "apple"], edit=Edit(IMAGE, mask, resample=2))
    image, (_, keep) = Edit(IMAGE, mask, strength=0.5).images(size, 2)
    assert np.asarray(keep)[:, :, kept].min() == 1 and np.asarray(keep)[:, :, size // 2 :].max() == 0
    np.testing.assert_allclose(images[:, :, kept], np.asarray(image)[:, :, kept], atol=2e-3)
    assert distance(images[0, :, free], images[1, :, free]) > 0.01


@pytest.mark.thorough
def test_an_inverted_image_comes_back_under_its_own_caption(cascade):
    # In 64 steps and without guidance, as inversion is exact where its steps are small.
    steps = cascade.adjusted(steps=30, guidance=1.0, thresholding="none", spacing="karras")
    exact = np.asarray(Edit(IMAGE, strength=0.5).images(16, 1)[0])
    again = draw(steps, ["a panda"], edit=Edit(IMAGE, invert="a panda"))
    assert np.abs(again - np.clip(exact, -1, 1)).max() < 0.02
    other = draw(steps, ["an apple"], edit=Edit(IMAGE, invert="a panda"))
    assert distance(other, exact) > 3 * distance(again, exact)


def test_only_ddim_is_inverted(cascade):
    with pytest.raises(UserError, match=r"--invert.*--sampler=ddim"):
        draw(cascade.adjusted(sampler="unipc"), ["panda"], edit=Edit(IMAGE, invert="panda"))


def test_a_stage_alone_enlarges_an_image(workdirs):
    large = load_cascade(workdirs[1:], {"steps": 2}, batch_size=1)
    images = draw(large, [""], edit=Edit(IMAGE))
    assert images.shape == (1, 16, 16, 3)
    other = draw(large, [""], edit=Edit(255 - IMAGE))
    assert distance(images, other) > 0.01
    with pytest.raises(UserError, match="--image"):
        draw(large, ["panda"])


def test_later_stages_may_have_another_prompt(cascade):
    plain, changed = (next(cascade.draw(["panda"], edit=edit)) for edit in (Edit(), Edit(later_prompt="a tree")))
    np.testing.assert_array_equal(plain[0], changed[0])
    assert distance(plain[1], changed[1]) > 1e-5


@pytest.mark.thorough
def test_the_way_between_prompts_and_seeds_begins_and_ends_at_them(base):
    ends = draw(base, [ImageRequest("panda"), ImageRequest("apple")])
    way = draw(base, [ImageRequest("panda", to_prompt="apple", share=share) for share in (0.0, 0.5, 1.0)])
    np.testing.assert_allclose(way[0], ends[0], atol=1e-4)
    # The noise is that of the first prompt, all the way.
    assert distance(way[0], way[2]) > distance(way[0], way[1]) > 1e-5
    seeds = draw(base, [ImageRequest("panda", to_seed=5, share=share) for share in (0.0, 0.5, 1.0)])
    np.testing.assert_allclose(seeds[0], ends[0], atol=1e-4)
    assert distance(seeds[2], draw(base, ["panda"], seed=5)[0]) < 0.6 * distance(seeds[2], seeds[0])


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"mask": np.ones((20, 20), np.float32)}, "--image"),
        ({"strength": 0.5}, "--image"),
        ({"invert": "panda"}, "--image"),
        ({"image": IMAGE, "mask": np.ones((8, 20), np.float32)}, "--mask .*20×8.*--image 20×20"),
        ({"image": IMAGE, "mask": np.zeros((20, 20), np.float32)}, "--mask"),
        ({"image": IMAGE, "strength": 0.0}, "strength"),
        ({"image": IMAGE, "resample": 3}, "--resample.*--mask"),
        ({"image": IMAGE, "invert": "panda", "strength": 0.5}, "--invert.*--mask.*--strength"),
    ],
)
def test_edits_that_do_not_go_together_are_refused(options, fact):
    with pytest.raises(UserError, match=fact):
        Edit(**options)


@pytest.mark.thorough
def test_bfloat16_is_near_float32(workdirs, cascade):
    low = load_cascade(workdirs, {"guidance": [2.0, 1.0], "steps": 3}, batch_size=1, dtype="bfloat16")
    assert 0 < distance(draw(low, ["panda"]), draw(cascade, ["panda"])) < 0.05


def test_a_checkpoint_that_is_being_written_is_not_sampled_from(workdirs, tmp_path):
    training = tmp_path / "base"
    shutil.copytree(workdirs[0], training)
    checkpoints = training / "checkpoints"
    whole = checkpoints / "0"
    # As an unfinished write leaves it, and as an unfinished copy does.
    shutil.copytree(whole, checkpoints / "7.orbax-checkpoint-tmp")
    shutil.copytree(whole, checkpoints / "9")
    (checkpoints / "9" / "_CHECKPOINT_METADATA").unlink()
    assert load_cascade([training]).trained[0].step == 0
    shutil.rmtree(whole)
    with pytest.raises(UserError, match=r"checkpoints.*9: _CHECKPOINT_METADATA"):
        load_cascade([training])
    shutil.rmtree(checkpoints / "9")
    with pytest.raises(UserError, match=f"{re.escape(str(training))} .*imagen_jax.train"):
        load_cascade([training])
