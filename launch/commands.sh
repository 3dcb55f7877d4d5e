# shellcheck shell=bash
# Sourced by tpu_vm.sh and gke/train.sh: how they print, and how they run a command or, with dry_run=true, only show it.
dry_run=${dry_run:-false}

# In a dry run as a comment, so that the whole output can be pasted.
say() {
    if [[ $dry_run == true ]]; then
        printf '# %s\n' "$*"
    else
        printf '==> %s\n' "$*"
    fi
}

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

# Usage: need COMMAND FLAG...   Makes sure that the variables of these flags are set.
need() {
    local flag
    for flag in "${@:2}"; do
        [[ -n ${!flag} ]] || fail "--$flag is missing: $1 needs it."
    done
}

# Usage: check_name NAME   Makes sure that Google accepts it.
check_name() {
    [[ $1 =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] ||
        fail "--name=$1: use lower-case letters, digits and hyphens, and begin with a letter."
}

# Prints a word as a shell reads it back: itself where that is safe, else between single quotes.
quote() {
    if [[ $1 =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]]; then
        printf %s "$1"
    else
        printf "'%s'" "${1//\'/\'\\\'\'}"
    fi
}

# Prints a command as it can be pasted.
show() {
    local word line=
    for word in "$@"; do
        line+=" $(quote "$word")"
    done
    printf '%s\n' "${line# }"
}

# Runs a command, or shows it.
run() {
    if [[ $dry_run == true ]]; then
        show "$@"
    else
        "$@"
    fi
}
