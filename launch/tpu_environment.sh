# shellcheck shell=bash
# Sourced before a training on TPUs, by tpu_worker.sh and by gke/train.sh: the environment that we advise, and why.
#
# tests/launch/test_tpu_environment.py gives each flag to the TPU compiler (libtpu 0.0.42), which refuses what it does
# not know, and looks for its effect in a compiled program. What a flag does to the speed of a pod has not been measured.

# Flags of the TPU compiler; separated by spaces.
libtpu_flags=(
    # All-gathers run while the chip computes. By default they hold it up, on v4 to v6e. With parameters cut over the
    # chips (config.mesh.fsdp) each layer begins with one, so this is where hiding latency pays. It needs memory for
    # gathered parameters earlier: leave both flags out where a model just fits.
    --xla_enable_async_all_gather=true
    # What the all-gather waits for is done in the middle of a matrix product or convolution, rather than beside it.
    # Works only together with the flag above.
    --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true
)

# Left out, though lists of flags often have them, because the compiler of this version does so by itself (the compiled
# program is the same with and without):
#
#   --xla_tpu_enable_latency_hiding_scheduler=true
#   --xla_tpu_enable_async_collective_fusion=true
#   --xla_tpu_enable_async_collective_fusion_multiple_steps=true
#   --xla_tpu_overlap_compute_collective_tc=true
#   --xla_enable_async_collective_permute=true
#
# and because they did nothing to our program of sharded layers:
#
#   --xla_tpu_enable_data_parallel_all_reduce_opt=true, --xla_tpu_data_parallel_opt_different_sized_ops=true
#   --xla_tpu_megacore_fusion_allow_ags=true

export LIBTPU_INIT_ARGS="${libtpu_flags[*]}${LIBTPU_INIT_ARGS:+ $LIBTPU_INIT_ARGS}"

# Without a TPU, or where another process holds it, JAX would train on the CPU after a warning; so it is an error. The
# CPU is named too, since the host computes on it.
export JAX_PLATFORMS=tpu,cpu

# The log is a file or a pipe, to which Python would write only every few kilobytes.
export PYTHONUNBUFFERED=1

# The names of all of them, for those who render a manifest.
# shellcheck disable=SC2034 # for gke/train.sh
environment_names=(LIBTPU_INIT_ARGS JAX_PLATFORMS PYTHONUNBUFFERED)
