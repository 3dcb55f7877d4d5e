# shellcheck shell=bash
# Sourced by tpu_vm.sh and gke/train.sh, after `fail`: what the names of accelerators mean.
#
# A name is a generation and a size: v4-512, v5p-512, v5litepod-256, v6e-256. The size of v4 and v5p counts cores, two a
# chip; that of v5litepod and v6e counts chips.

# Usage: parse_accelerator NAME   Sets generation, chips, chips_per_host and hosts (of one slice).
parse_accelerator() {
    local size
    [[ $1 =~ ^(v4|v5p|v5litepod|v6e)-([1-9][0-9]*)$ ]] ||
        fail "--accelerator=$1 is unknown: use Google's name, as in v4-512, v5p-512, v5litepod-256 or v6e-256."
    generation=${BASH_REMATCH[1]} size=${BASH_REMATCH[2]}
    case $generation in
        v4 | v5p)
            ((size >= 8 && size % 8 == 0)) ||
                fail "--accelerator=$1: the size of $generation counts cores, 8 per host: give a multiple of 8."
            chips=$((size / 2)) chips_per_host=4
            ;;
        v5litepod | v6e)
            chips=$size
            # Up to 8 chips are one machine; a larger slice is made of machines with 4.
            chips_per_host=$((chips <= 8 ? chips : 4))
            [[ " 1 4 8 16 32 64 128 256 " == *" $chips "* ]] ||
                fail "--accelerator=$1: a slice of $generation must have 1, 4, 8, 16, 32, 64, 128 or 256 chips."
            ;;
    esac
    # shellcheck disable=SC2034 # for those who source this
    hosts=$((chips / chips_per_host))
}

# Prints the software version that Google's documentation names for PyTorch and JAX on this generation.
runtime_version() {
    case $generation in
        v4) echo tpu-ubuntu2204-base ;;
        v5p) echo v2-alpha-tpuv5 ;;
        v5litepod) echo v2-alpha-tpuv5-lite ;;
        v6e) echo v2-alpha-tpuv6e ;;
    esac
}

# Prints the value of the node label cloud.google.com/gke-tpu-accelerator.
gke_accelerator() {
    case $generation in
        v4) echo tpu-v4-podslice ;;
        v5p) echo tpu-v5p-slice ;;
        v5litepod) echo tpu-v5-lite-podslice ;;
        v6e) echo tpu-v6e-slice ;;
    esac
}

# Prints the machine type of a node pool on GKE.
gke_machine_type() {
    case $generation in
        v4) echo "ct4p-hightpu-${chips_per_host}t" ;;
        v5p) echo "ct5p-hightpu-${chips_per_host}t" ;;
        v5litepod) echo "ct5lp-hightpu-${chips_per_host}t" ;;
        v6e) echo "ct6e-standard-${chips_per_host}t" ;;
    esac
}
