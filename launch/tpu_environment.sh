# shellcheck shell=bash
# Sourced before a training on TPUs, by tpu_worker.sh and by gke/train.sh: the environment that we advise, and why.
#
# tests/launch/test_tpu_environment.py gives the flags to the TPU compiler (libtpu 0.0.42), which refuses what it does not
# know, and looks for their effect in a compiled program. What they do to the speed of a pod has not been measured.

# Flags of the TPU compiler; separated by spaces.
libtpu_flags=(
    # All-gathers run while the chip computes; by default it waits for them. With parameters sharded over the
    # chips (config.mesh.fsdp) each layer begins with one. What is gathered earlier is kept longer: four convolutions of
    # 512 channels took 57 MiB of temporaries a v5p chip rather than 44. Leave both flags out where a model just fits.
    --xla_enable_async_all_gather=true
    # The all-gather is carried on inside of a matrix product or convolution. On v5p and newer the flag above does
    # nothing without this one.
    --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true
)

# Lists of flags often have these too. We leave them out, because the compiler does so by itself (with them the program
# of our layers, sharded over the chips or over slices, is the same):
#
#   --xla_tpu_enable_latency_hiding_scheduler=true
#   --xla_tpu_enable_async_collective_fusion=true
#   --xla_tpu_enable_async_collective_fusion_multiple_steps=true
#   --xla_tpu_overlap_compute_collective_tc=true
#   --xla_enable_async_collective_permute=true
#
# or because they changed nothing in it (the last two, together, one all-reduce of five):
#
#   --xla_tpu_enable_data_parallel_all_reduce_opt=true --xla_tpu_data_parallel_opt_different_sized_ops=true
#   --xla_tpu_megacore_fusion_allow_ags=true
#   --xla_enable_async_all_reduce=true --xla_tpu_enable_async_collective_fusion_fuse_all_reduce=true

export LIBTPU_INIT_ARGS="${libtpu_flags[*]}${LIBTPU_INIT_ARGS:+ $LIBTPU_INIT_ARGS}"

# Without a TPU, or where another process holds it, JAX would train on the CPU after a warning; so it is an error. The
# CPU is named too, since the host computes on it.
export JAX_PLATFORMS=tpu,cpu

# The log is a file or a pipe, to which Python would write only every few kilobytes.
export PYTHONUNBUFFERED=1

# The names of all of them, for those who render a manifest.
# shellcheck disable=SC2034 # for gke/train.sh
environment_names=(LIBTPU_INIT_ARGS JAX_PLATFORMS PYTHONUNBUFFERED)
