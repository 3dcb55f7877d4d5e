"""A small network, compiled by the real TPU compiler for chips that are not here."""

import importlib.util
import json
import re

import jax
import pytest

from configs.imagen import base_64, super_res_256
from imagen_jax.errors import UserError
from imagen_jax.forecast.chips import CHIPS
from imagen_jax.forecast.jobs import embedding_job, sampling_job, training_job
from imagen_jax.forecast.report import compile_job, format_report, read_shortage
from imagen_jax.forecast.topologies import describe_pod, require_libtpu
from imagen_jax.sharding.mesh import make_mesh
from tests.forecast.compiler import with_compiler


def small_config():
    """The base on one level, wide enough that kernels are sharded."""
    config = base_64.get_config("300m,smoke")
    config.network.update({"channels": 128, "channel_multipliers": (1,), "attention_resolutions": (8,)})
    config.network.update({"head_channels": 64, "text_channels": 128, "dtype": "bfloat16"})
    config.training.batch_size = 16
    config.mesh.fsdp = 4
    return config


@pytest.fixture(scope="module")
def small_step():
    """A training step, its report and its text."""
    pod = describe_pod("v4:2x2x1")
    job = training_job(small_config(), pod.devices)
    return job, *compile_job(job, pod)


@pytest.mark.slow
@with_compiler
def test_a_training_step_only_gathers_and_sums_and_its_report_adds_up(small_step):
    job, report, text = small_step
    assert "ENTRY" in text

    exchanged = report["collectives"]
    assert exchanged["all-gather"]["count"] > 0 and exchanged["reduce-scatter"]["count"] > 0
    assert exchanged["all-to-all"]["count"] == exchanged["collective-permute"]["count"] == 0
    # Each sharded kernel is gathered once in bfloat16 and its gradient summed once: 3/4 of 2 bytes each go out.
    state = job.lowered.in_avals[0][0]
    sharded = sum(leaf.size for leaf in jax.tree.leaves(state.params) if leaf.size >= 2**14 and leaf.ndim > 1)
    assert exchanged["all-gather"]["bytes_moved"] == pytest.approx(sharded * 2 * 3 / 4, rel=0.02)
    assert exchanged["reduce-scatter"]["bytes_moved"] == pytest.approx(sharded * 2 * 3 / 4, rel=0.02)

    memory = report["memory"]
    kinds = ("arguments", "results", "temporaries", "program")
    assert memory["total"] == sum(memory[kind] for kind in kinds) and report["fits"] and report["advice"] == []
    assert memory["arguments"] > job.state_bytes / 4, "a chip holds its part of the state, and of the batch"
    assert 1 < report["compiled_over_model_flops"] < 1.1
    times = report["roofline_seconds"]
    assert times["compute"] == report["flops_per_chip"] / 275e12
    assert times["memory"] == report["bytes_accessed_per_chip"] / 1.2e12
    slowest = max(times["compute"], times["memory"], times["interconnect"])
    assert report["images_per_second_per_chip"] == pytest.approx(16 / 4 / slowest)
    assert report["mfu"] == pytest.approx(report["model_flops_per_chip"] / 275e12 / slowest)
    assert sum(report["work"].values()) == pytest.approx(1)
    assert json.loads(json.dumps(report)) == report

    lines = list(format_report(report))
    assert lines[0] == "training step of 16 images on v4:2x2x1 (4 chips: fsdp=4)"
    assert any("fits" in line for line in lines) and any("all-gather" in line for line in lines)


@pytest.mark.thorough
@with_compiler
def test_with_a_tensor_axis_too_nothing_but_gathers_and_sums():
    config = small_config()
    config.mesh.update({"fsdp": 2, "tensor": 2})
    pod = describe_pod("v4:2x2x1")
    report, _ = compile_job(training_job(config, pod.devices), pod)
    exchanged = report["collectives"]
    assert exchanged["all-to-all"]["count"] == exchanged["collective-permute"]["count"] == 0
    assert exchanged["all-reduce"]["bytes_moved"] > 0, "what the halves of a block's channels make is summed"


@pytest.mark.thorough
@with_compiler
def test_a_loop_over_equal_blocks_gathers_and_sums_what_they_do_written_out():
    """Each turn its own kernels: were they gathered before the loop, a chip would hold those of all blocks."""
    pod, reports = describe_pod("v4:2x2x1"), []
    for scan in (False, True):
        config = super_res_256.get_config("as_printed,smoke")
        config.network.update({"channels": (128,), "blocks": (4,), "strides": (2,), "self_attention": (False,)})
        config.network.update({"cross_attention": (False,), "text_channels": 128, "dtype": "bfloat16", "scan": scan})
        config.training.batch_size = 16
        config.mesh.fsdp = 4
        report, _ = compile_job(training_job(config, pod.devices), pod)
        reports.append(report)
    plain, looped = reports
    assert sorted(looped["loops"]) == [3, 3, 4, 4]
    assert looped["collectives"] == plain["collectives"]
    assert looped["collectives"]["all-to-all"]["count"] == looped["collectives"]["collective-permute"]["count"] == 0
    assert looped["memory"]["program"] < plain["memory"]["program"]
    assert looped["memory"]["temporaries"] < plain["memory"]["temporaries"]


@with_compiler
def test_a_program_that_does_not_fit_has_a_report_with_advice():
    """The compiler's refusal is pretended, since a program that large takes minutes: its words are those it used."""
    refusal = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 45.10G of "
        "31.25G hbm. Exceeded hbm capacity by 13.85G."
    )

    class Refused:
        def compile(self):
            raise jax.errors.JaxRuntimeError(refusal)

    pod = describe_pod("v4:2x2x1")
    job = training_job(small_config(), pod.devices)._replace(lowered=Refused(), state_bytes=200 * 2**30)
    job = job._replace(mesh=pretend_mesh(data=2, fsdp=2))
    report, text = compile_job(job, pod)
    assert text == "" and not report["fits"]
    assert report["memory"]["total"] == round(45.10 * 2**30)
    lines = list(format_report(report))
    assert "45.10 of 32 GiB" in lines[1]
    keys = ["mesh.fsdp", "network.remat", "training.gradient_accumulation"]
    assert [re.findall(r"--config\.([\w.]*\w)", line) for line in lines[2:5]] == [[key] for key in keys]

    job = job._replace(lowered=type("Broken", (), {"compile": lambda self: (_ for _ in ()).throw(
        jax.errors.JaxRuntimeError("INTERNAL: something else"))})())  # fmt: skip
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        compile_job(job, pod)


def pretend_mesh(**sizes):

    return make_mesh(sizes, jax.devices()[:4])


def test_a_shortage_is_read_in_any_unit():
    assert read_shortage("Used 512.50M of 31.25G hbm") == 512.5 * 2**20
    assert read_shortage("Used 1.5T of 31.25G hbm") == 1.5 * 2**40
    assert read_shortage("vmem is short") is None


@with_compiler
@pytest.mark.parametrize("name", CHIPS)
def test_pods_of_every_generation(name):
    sides = {"v4": (2, 2, 2), "v5p": (2, 2, 2), "v5e": (4, 4), "v6e": (4, 4)}[name]
    pod = describe_pod(f"{name}:{'x'.join(map(str, sides))}", slices=2)
    assert {device.device_kind for device in pod.devices} == {CHIPS[name].device_kind}
    assert {device.slice_index for device in pod.devices} == {0, 1}
    coords = {tuple(device.coords)[: len(sides)] for device in pod.devices}
    assert len(coords) == len(pod.devices) / 2 and tuple(max(axis) + 1 for axis in zip(*coords, strict=True)) == sides


@with_compiler
def test_the_name_of_an_accelerator_is_its_generation():
    pod = describe_pod("v5litepod:4x4")
    assert (pod.name, len(pod.devices)) == ("v5e:4x4", 16)


@pytest.mark.parametrize(
    ("topology", "slices", "fact"),
    [
        ("v4", 1, "'v4'"),
        ("v4-512", 1, "'v4-512'"),
        ("v9:4x4x4", 1, "'v9'"),
        ("v4:4x4x4", 0, "--slices"),
        pytest.param("v4:5x7x3", 1, "v4:5x7x3", marks=with_compiler),
    ],
)
def test_an_impossible_pod_is_an_error(topology, slices, fact):
    with pytest.raises(UserError, match=fact):
        describe_pod(topology, slices)


def test_without_the_compiler_the_line_that_installs_it_is_given(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install .*\[tpu\]"):
        require_libtpu()


@with_compiler
def test_the_sampler_counts_all_its_steps_and_both_branches_of_guidance():
    config = small_config()
    config.sampling.steps = 3
    pod = describe_pod("v4:2x2x1")
    job = sampling_job(config, pod.devices, batch=8)
    config.sampling.guidance = 1.0
    unguided = sampling_job(config, pod.devices, batch=8)
    assert job.model_flops == 2 * unguided.model_flops
    assert "3 steps" in job.name and not job.trains
    report, _ = compile_job(job, pod)
    assert report["loops"] == [3]
    assert report["compiled_over_model_flops"] == pytest.approx(1, abs=0.05)


@pytest.mark.thorough
@with_compiler
def test_what_is_done_piece_by_piece_is_counted_as_often(small_step):
    """Twice the images in two pieces: twice the gradients are summed, and each image takes what it took."""
    _, whole, _ = small_step
    pod, config = describe_pod("v4:2x2x1"), small_config()
    config.training.update({"batch_size": 32, "gradient_accumulation": 2})
    pieces, _ = compile_job(training_job(config, pod.devices), pod)
    assert (whole["loops"], pieces["loops"]) == ([], [2])
    assert pieces["flops_per_chip"] == pytest.approx(2 * whole["flops_per_chip"], rel=0.02)
    summed = [report["collectives"]["reduce-scatter"] for report in (whole, pieces)]
    assert summed[1]["count"] == 2 * summed[0]["count"]
    assert summed[1]["bytes_moved"] == 2 * summed[0]["bytes_moved"]
    assert pieces["cycles_per_chip"] > 1.5 * whole["cycles_per_chip"]


@with_compiler
def test_the_encoder_is_sharded_over_all_chips():
    job = embedding_job("small", describe_pod("v5e:2x4").devices, batch=16, tokens=32)
    assert (job.batch, job.unit, dict(job.mesh.shape)["fsdp"]) == (16 * 32, "token", 8)
    # 8 layers, each token: two operations a weight, and the attention's products on top.
    weights = 8 * (4 * 512 * 384 + 3 * 512 * 1024)
    assert job.model_flops == 16 * 32 * (2 * weights + 8 * 4 * 32 * 384)
    with pytest.raises(UserError, match="'huge'"):
        embedding_job("huge", describe_pod("v5e:2x4").devices, batch=16, tokens=32)
