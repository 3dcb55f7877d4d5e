# shellcheck shell=bash
# Sourced by tpu_vm.sh and gke/train.sh: how they print, how they run a command or, with dry_run=true, only show it, and
# what they check before they rent anything.
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

# Usage: check_config FILE[:VARIANT]   Makes sure that the last commit, which is what the machines get, has the config.
# Without git, the files here count. The variants are those of the line "Variants:" in the file's docstring, and words
# between quotes anywhere in the file; a file without that line may have any.
check_config() {
    local file=${1%%:*} variant='' text names
    [[ $1 != *:* ]] || variant=${1#*:}
    # A bundled config also has a name, as in imagen/base_64.
    [[ $file == *.py ]] || file=configs/$file.py
    [[ $file != /* ]] ||
        fail "--config=$1 is a path of this machine: give one within the checkout, as in configs/imagen/base_64.py:2b."
    if git rev-parse --verify --quiet HEAD >/dev/null 2>&1; then
        text=$(git cat-file blob "HEAD:./$file" 2>/dev/null) || {
            [[ ! -f $file ]] || fail "--config=$1: $file is not in the last commit, which the machines get: commit it."
            fail "--config=$1: the last commit has no file $file: name one that it has, as in" \
                "--config=configs/imagen/base_64.py:2b."
        }
    else
        [[ -f $file ]] ||
            fail "--config=$1: there is no file $file here: name another, as in --config=configs/imagen/base_64.py:2b."
        text=$(<"$file")
    fi
    names=$(sed -n '/^Variants:/{s/^Variants: *//;s/;.*//;s/ (default)//;p;q;}' <<<"$text")
    variant=${variant%%,*}
    [[ -z $names || -z $variant || ", $names," == *", $variant,"* || $text == *[\"\']"$variant"[\"\']* ]] ||
        fail "--config=$1: $file lists as its variants: $names; give one of them, or add yours to that list."
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
