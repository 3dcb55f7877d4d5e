"""The text of a program, and what its loops make of its costs."""

import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from imagen_jax.errors import UserError
from imagen_jax.forecast.programs import (
    ENTRY,
    Costs,
    Loop,
    analyse_body,
    count_costs,
    count_runs,
    find_loops,
    read_instructions,
)
from imagen_jax.forecast.topologies import describe_pod
from imagen_jax.sharding.mesh import make_mesh
from tests.forecast.compiler import with_compiler

PROGRAM = """HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[4]{0})->f32[4]{0}}

%inner_condition (state.1: (s32[], f32[4])) -> pred[] {
  %state.1 = (s32[]{:T(128)}, f32[4]{0:T(128)}) parameter(0)
  %count.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  %limit.1 = s32[]{:T(128)} constant(7)
  ROOT %less.1 = pred[]{:T(512)} compare(%count.1, %limit.1), direction=LT
}

%inner (state.2: (s32[], f32[4])) -> (s32[], f32[4]) {
  %state.2 = (s32[]{:T(128)}, f32[4]{0:T(128)}) parameter(0)
  %count.2 = s32[]{:T(128)} get-tuple-element(%state.2), index=0
  %x.2 = f32[4]{0:T(128)} get-tuple-element(%state.2), index=1
  %one.2 = s32[]{:T(128)} constant(1)
  %next.2 = s32[]{:T(128)} add(%count.2, %one.2)
  %twice.2 = f32[4]{0:T(128)} add(%x.2, %x.2)
  ROOT %tuple.2 = (s32[]{:T(128)}, f32[4]{0:T(128)}) tuple(%next.2, %twice.2)
}

%outer_condition (state.3: (f32[4], s32[])) -> pred[] {
  %state.3 = (f32[4]{0:T(128)}, s32[]{:T(128)}) parameter(0)
  %count.3 = s32[]{:T(128)} get-tuple-element(%state.3), index=1
  %limit.3 = s32[]{:T(128)} constant(5)
  ROOT %less.3 = pred[]{:T(512)} compare(%count.3, %limit.3), direction=LT
}

%outer (state.4: (f32[4], s32[])) -> (f32[4], s32[]) {
  %state.4 = (f32[4]{0:T(128)}, s32[]{:T(128)}) parameter(0)
  %x.4 = f32[4]{0:T(128)} get-tuple-element(%state.4), index=0
  %count.4 = s32[]{:T(128)} get-tuple-element(%state.4), index=1
  %one.4 = s32[]{:T(128)} constant(1)
  %three.4 = s32[]{:T(128)} constant(3)
  %begin.4 = s32[]{:T(128)} copy(%three.4)
  %tuple.4 = (s32[]{:T(128)}, f32[4]{0:T(128)}) tuple(%begin.4, %x.4)
  %loop.4 = (s32[]{:T(128)}, f32[4]{0:T(128)}) while(%tuple.4), condition=%inner_condition, body=%inner
  %next.4 = s32[]{:T(128)} add(%count.4, %one.4)
  %y.4 = f32[4]{0:T(128)} get-tuple-element(%loop.4), index=1
  ROOT %made.4 = (f32[4]{0:T(128)}, s32[]{:T(128)}) tuple(%y.4, /*index=1*/%next.4)
}

ENTRY %main.5 (x.5: f32[4]) -> f32[4] {
  %x.5 = f32[4]{0:T(128)} parameter(0)
  %zero.5 = s32[]{:T(128)} constant(0)
  %tuple.5 = (f32[4]{0:T(128)}, s32[]{:T(128)}) tuple(%x.5, %zero.5)
  %loop.5 = (f32[4]{0:T(128)}, s32[]{:T(128)}) while(%tuple.5), condition=%outer_condition, body=%outer
  ROOT %y.5 = f32[4]{0:T(128)} get-tuple-element(%loop.5), index=0
}
"""


def read(text):
    instructions = list(read_instructions(text))
    loops = find_loops(instructions)
    return loops, count_runs(instructions, loops)


def test_loops_are_counted_from_their_constants_also_one_in_another():
    loops, runs = read(PROGRAM)
    assert loops == [Loop("outer", "inner", 4), Loop(ENTRY, "outer", 5)]
    assert (runs[ENTRY], runs["outer"], runs["inner"]) == (1, 5, 20)


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("%begin.4 = s32[]{:T(128)} copy(%three.4)", "%begin.4 = s32[]{:T(128)} copy(%count.4)"),
        ("%one.2 = s32[]{:T(128)} constant(1)", "%one.2 = s32[]{:T(128)} constant(2)"),
        ("%limit.1 = s32[]{:T(128)} constant(7)", "%limit.1 = s32[]{:T(128)} negate(%count.1)"),
        ("compare(%count.1, %limit.1), direction=LT", "compare(%count.1, %limit.1), direction=NE"),
        ("%next.2 = s32[]{:T(128)} add(", "%next.2 = s32[]{:T(128)} multiply("),
    ],
)
def test_a_loop_that_counts_in_another_way_is_of_unknown_length_and_counts_once(text, changed):
    assert text in PROGRAM
    loops, runs = read(PROGRAM.replace(text, changed))
    assert loops[0].trips is None and (runs["outer"], runs["inner"]) == (5, 5)


def test_costs_of_nested_loops():
    """Each turn of the inner loop adds 4 numbers and counts; of the outer one, counts."""
    loops, runs = read(PROGRAM)
    inner, outer = analyse_body(PROGRAM, "inner"), analyse_body(PROGRAM, "outer")
    comparison = 1  # a comparison, which a body does not have
    assert inner.flops == 4 + 1 and outer.flops == inner.flops + comparison + 1
    once = Costs(outer.flops + comparison, outer.accessed)
    whole = count_costs(once, PROGRAM, loops, runs)
    assert whole.flops == once.flops + 4 * outer.flops + 5 * 3 * inner.flops
    assert whole.accessed == once.accessed + 4 * outer.accessed + 5 * 3 * inner.accessed


def test_a_version_of_jax_without_the_analysis_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax._src.lib", None)
    with pytest.raises(UserError) as raised:
        analyse_body(PROGRAM, "inner")
    assert jax.__version__ in str(raised.value)


def layers(unrolled, count):
    """Dense layers, one after another, and the gradient of their sum for all that goes in."""

    def loss(kernels, x):
        x, _ = jax.lax.scan(lambda x, kernel: (jnp.tanh(x @ kernel), None), x, kernels, unroll=unrolled and count)
        return jnp.sum(x.astype(jnp.float32))

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


def costs_of(compiled):
    text = compiled.as_text()
    instructions = list(read_instructions(text))
    loops = find_loops(instructions)
    once = Costs(*(compiled.cost_analysis()[kind] for kind in ("flops", "bytes accessed")))
    return loops, once, count_costs(once, text, loops, count_runs(instructions, loops))


@pytest.mark.parametrize("platform", ["cpu", pytest.param("tpu", marks=with_compiler)])
def test_a_loop_costs_what_the_same_does_written_out(platform):
    count, batch, width = 6, 512, 256
    devices = describe_pod("v4:2x2x1").devices if platform == "tpu" else jax.devices()
    placed = NamedSharding(make_mesh({}, devices[:1]), PartitionSpec())
    kernels, x = (
        jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=placed) for shape in ((count, width, width), (batch, width))
    )
    loops, once, whole = costs_of(layers(False, count).lower(kernels, x).compile())
    none, written, _ = costs_of(layers(True, count).lower(kernels, x).compile())
    assert [loop.trips for loop in loops] == [count, count] and none == []
    products = 2 * batch * width * width * 3 * count
    assert whole.flops == pytest.approx(written.flops, rel=0.05) and written.flops == pytest.approx(products, rel=0.05)
    assert once.flops == pytest.approx(written.flops / count, rel=0.1), "what XLA says of it"
    assert whole.accessed > written.accessed, "a loop's edges cut what would be fused"
