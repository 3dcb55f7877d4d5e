"""The collectives of a program, read from lines as the TPU compiler writes them."""

import pytest

from imagen_jax.forecast.collectives import Collective, find_collectives, read_group, size_of
from imagen_jax.forecast.programs import count_runs, find_loops, read_instructions

PROGRAM = """HloModule jit_step, is_scheduled=true, num_partitions=8

%all-reduce-scatter.1 (input.1: bf16[2048,2048]) -> bf16[256,2048] {
  %input.1 = bf16[2048,2048]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.5 = bf16[2048,2048]{1,0:T(8,128)(2,1)} all-reduce(%input.1), channel_id=2, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%sum
  ROOT %slice.1 = bf16[256,2048]{1,0} dynamic-slice(%all-reduce.5, %a, %b), dynamic_slice_sizes={256,2048}
}

%body (state: (s32[], f32[16])) -> (s32[], f32[16]) {
  %state = (s32[], f32[16]) parameter(0)
  %all-gather.2 = f32[1024,16]{1,0:T(8,128)} all-gather(%part), channel_id=3, replica_groups=[2,4]<=[8], dimensions={0}, metadata={op_name="jit(step)/while/gather"}
  ROOT %tuple.1 = (s32[], f32[16]) tuple(%i, %x)
}

%fused_computation.1 (p: bf16[8]) -> bf16[64] {
  ROOT %all-gather.10 = bf16[64]{0} all-gather(%p), channel_id=27, replica_groups={{0,1}}, dimensions={0}, backend_config={"async_collective_fusion_config":{"flag_start":"-1"}}
}

%async_collective_fusion.2 (p: bf16[8]) -> bf16[64] {
  ROOT %all-gather.11 = bf16[64]{0} all-gather(%p), channel_id=27, replica_groups={{0,1}}, dimensions={0}, backend_config={"async_collective_fusion_config":{"flag_start":"2"}}
}

%never (x: f32[4]) -> f32[4] {
  ROOT %all-reduce.9 = f32[4]{0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%sum
}

ENTRY %main.1_spmd (param: f32[4]) -> f32[4] {
  %param = f32[4]{0} parameter(0)
  %fusion.1 = bf16[256,2048]{1,0} fusion(%param), kind=kCustom, calls=%all-reduce-scatter.1
  %while.1 = (s32[], f32[16]) while(%tuple), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %async-collective-start.1 = bf16[64]{0} fusion(%param), kind=kCustom, calls=%fused_computation.1
  %fusion.2 = bf16[64]{0} fusion(%param), kind=kCustom, calls=%async_collective_fusion.2
  %all-reduce-start.3 = (f32[100]{0}, bf16[50]{0}) all-reduce-start(%g, %h), channel_id=1, replica_groups=mesh['a'=2,'b'=4] {'b'}, to_apply=%sum
  %all-reduce-done.3 = (f32[100]{0}, bf16[50]{0}) all-reduce-done(%all-reduce-start.3)
  %all-gather-start.4 = (bf16[8]{0}, bf16[64]{0}) all-gather-start(%param), replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}
  %collective-permute-start.8 = (bf16[56,3072]{1,0}, bf16[56,3072]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%slice), channel_id=9, source_target_pairs={{0,1},{1,2}}
  %all-to-all.6 = f32[32,8]{1,0} all-to-all(%param), channel_id=7, replica_groups={{0,2},{1,3}}, dimensions={0}
  ROOT %reduce-scatter.7 = f32[10]{0} reduce-scatter(%param), replica_groups={{0,1,2,3}}, to_apply=%sum
}
"""  # noqa: E501


def test_each_collective_is_found_with_its_bytes_group_and_repeats():
    everyone = tuple(range(8))
    instructions = list(read_instructions(PROGRAM))
    runs = count_runs(instructions, find_loops(instructions))
    assert sorted(find_collectives(instructions, runs)) == sorted(
        [
            Collective("reduce-scatter", 2048 * 2048 * 2, everyone, 1, ""),
            Collective("all-gather", 1024 * 16 * 4, (0, 1, 2, 3), 5, "jit(step)/while/gather"),
            Collective("all-reduce", 100 * 4 + 50 * 2, (0, 1, 2, 3), 1, ""),
            Collective("all-gather", 64 * 2, everyone, 1, ""),
            Collective("collective-permute", 56 * 3072 * 2, (0, 1), 1, ""),
            Collective("all-to-all", 32 * 8 * 4, (0, 2), 1, ""),
            Collective("reduce-scatter", 10 * 4 * 4, (0, 1, 2, 3), 1, ""),
            Collective("all-gather", 64 * 2, (0, 1), 1, ""),
        ]
    )


@pytest.mark.parametrize(
    ("written", "group"),
    [
        ("replica_groups={{0,2,4},{1,3,5}}", (0, 2, 4)),
        ("replica_groups=[2,4]<=[8]", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}", (0, 4)),
        # The mesh's axes over devices that were numbered across: 4 rows of 2, read down the columns.
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}", (0, 2, 4, 6)),
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'a','c'}", (0, 1, 4, 5)),
    ],
)
def test_groups_are_read_in_every_way_they_are_written(written, group):
    assert read_group(f"%x = f32[1]{{0}} all-reduce(%y), channel_id=1, {written}, to_apply=%sum") == group


def test_an_unknown_notation_of_groups_is_an_error():
    with pytest.raises(ValueError, match="replica_groups"):
        read_group("all-reduce(%y), replica_groups=everyone")


@pytest.mark.parametrize(
    ("kind", "moved"),
    [("all-gather", 3 * 750), ("reduce-scatter", 3 * 750), ("all-to-all", 3 * 750), ("all-reduce", 3 * 1500),
     ("collective-permute", 3 * 1000)],
)  # fmt: skip
def test_what_a_chip_sends_of_a_thousand_bytes_in_a_group_of_four_three_times(kind, moved):
    assert Collective(kind, 1000, (0, 1, 2, 3), 3, "").moved == moved


@pytest.mark.parametrize(
    ("kind", "dimensions", "size"), [("bf16", "8,128", 2048), ("f32", "", 4), ("pred", "3", 3), ("s4", "16", 8)]
)
def test_sizes(kind, dimensions, size):
    assert size_of(kind, dimensions) == size
