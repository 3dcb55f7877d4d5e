"""The start and end of every command: flags, error messages and the exit status.

| status | meaning |
|---|---|
| 0 | success |
| 1 | a bug: prints the traceback |
| 2 | an error that the user can fix: the message says how |
| 3 | another process of the run ended or never joined: the message says which; the same command resumes the run |
| 74 | a temporary disk or bucket error, or the folder is in use: the message says which; retry the same command later |
| 75 | the process received SIGTERM and has saved its state: the same command resumes it |
| 130 | interrupted by Ctrl-C, here or on another host: the message says what is saved (``interrupts``) |
"""

import errno
import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict

from imagen_jax.errors import LeavingError, StoppedError, UserError, nearest_name
from imagen_jax.errors.packages import explain_missing_package
from imagen_jax.runtime import interrupts, processes
from imagen_jax.runtime.command_help import asks_for_help, format_help
from imagen_jax.runtime.compilation_cache import enable_compilation_cache
from imagen_jax.runtime.config_flag import accept_names
from imagen_jax.runtime.exit_status import ExitStatus
from imagen_jax.runtime.machine_errors import explain_missing_resource
from imagen_jax.runtime.renamed import find_old_key, rename_config_keys, rename_flags, rename_key_flags
from imagen_jax.runtime.standard_streams import make_streams_resilient
from imagen_jax.runtime.warning_lines import print_own_warning
from imagen_jax.storage.buckets import explain_refusal, is_refusal, summarise_error
from imagen_jax.storage.refusals import disk_error_code, is_denied, is_passing

flags.DEFINE_bool("debug", False, "Show the traceback of an error caused by user input.")

IF_INTERRUPTED = "nothing is saved; run the same command to start again"


def run_main(main: Callable[[], None], flag_hint: str = "", if_interrupted: str = IF_INTERRUPTED) -> None:
    """Parses the flags, runs ``main`` and exits.

    Args:
        main: the command.
        flag_hint: message for an argument that is not a flag: how to pass it as one.
        if_interrupted: message after Ctrl-C: the saved state and the next step.
    """
    make_streams_resilient()
    interrupts.begin_listening(if_interrupted)
    # Info messages of the libraries would mix with the command's output.
    absl_logging.set_verbosity(absl_logging.WARNING)
    absl_logging.get_absl_handler().python_handler.addFilter(print_own_warning)
    enable_compilation_cache()
    app.run(lambda _: run_guarded(main, if_interrupted), flags_parser=functools.partial(parse_flags, hint=flag_hint))


def parse_flags(arguments: Sequence[str], hint: str = "") -> Sequence[str]:
    """Parses the flags. Exits with status 2 and a message if a flag, the config or another argument is wrong.

    With ``--help`` or ``-h`` it prints the help of the command, and exits with status 0.

    Args:
        arguments: the command line, with the name of the program.
        hint: message for an argument that is not a flag: how to pass it as one.

    Returns:
        A list with the name of the program alone.
    """
    module = getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", "")
    if module.startswith("imagen_jax.") and asks_for_help(arguments[1:]):
        print(format_help(module))
        sys.exit(ExitStatus.DONE)
    accept_names(flags.FLAGS)
    try:
        rest = flags.FLAGS(with_new_names(arguments))
        if "config" in flags.FLAGS and flags.FLAGS["config"].present:
            rename_config_keys(flags.FLAGS.config)
    except flags.UnrecognizedFlagError as error:
        known = [name for name in flags.FLAGS if len(name) > 1]
        fail(f"there is no flag --{error.flagname}{nearest_name(error.flagname, known)}")
    except UserError as error:
        fail(str(error))
    except (flags.Error, AttributeError, KeyError, ValueError, TypeError, OSError) as error:
        # config_flags raises the other types for an unknown key or a value of a wrong type.
        cause = error.__cause__ or error
        sentence = find_unknown_key(arguments) if isinstance(error, AttributeError | KeyError) else None
        sentence = sentence or explain_number(str(error))
        fail(sentence or explain_flag_error(str(cause.args[0] if cause.args else cause)))
    if rest[1:]:
        fail(f"{rest[1]!r} is not a flag: {hint or 'leave it out'}")
    return rest


def with_new_names(arguments: Sequence[str]) -> Sequence[str]:
    """Returns the arguments with new names of flags and config keys.

    ``sys.argv`` is changed alike, for config_flags reads the values of config keys there.
    """
    renamed = rename_flags(arguments)
    path = find_config_path(arguments)
    # The config is needed only to rename its keys, so its file usually runs just once, in the parser of the flag.
    if path is not None and any(map(find_old_key, renamed)):
        renamed = rename_key_flags(renamed, flags.FLAGS["config"].parser.parse(path))
    if list(arguments) == sys.argv:
        sys.argv = renamed
    return renamed


def find_config_path(arguments: Sequence[str]) -> str | None:
    """Returns the value of ``--config``; None where the command has no such flag, or it is not given."""
    found = re.search(r"^--?config[=\n](.+)$", "\n".join(arguments), flags=re.MULTILINE)
    return found[1] if found and "config" in flags.FLAGS else None


def find_unknown_key(arguments: Sequence[str]) -> str | None:
    """Returns a message about the first unknown config key on the command line.

    Returns:
        The message; None if the config contains all keys, or if the command line has no ``--config``.
    """
    line = "\n".join(arguments)
    path = find_config_path(arguments)
    if path is None:
        return None
    config = flags.FLAGS["config"].parser.parse(path)
    for keys in re.findall(r"^--?(?:no)?config\.([\w.]+)", line, flags=re.MULTILINE):
        key_path, value = "config", config
        for key in keys.split("."):
            if not isinstance(value, ConfigDict):
                return f"{key_path} is {value!r} and has no keys: remove .{key}"
            if key not in value:
                return f"{key_path} has no key {key!r}{nearest_name(key, value.keys())}"
            key_path, value = f"{key_path}.{key}", value[key]
    return None


def explain_flag_error(message: str) -> str:
    """Converts a message of absl or config_flags, which may have many lines, to one line."""
    if found := re.search(r"Flag --(\w+) must have a value", message):
        return f"--{found[1]} is missing: give it, as in --{found[1]}=…"
    if found := re.search(r"NoneType'> of field ([\w.]+) is not supported", message):
        return f"{found[1]} is None, so its type is unknown: set it in the config file"
    return " ".join(message.split())


def explain_number(message: str) -> str | None:
    """Converts absl's message about a flag's value that is not a number; None for any other message."""
    found = re.fullmatch(
        r"flag --([\w.]+)=(.*): (invalid literal for int\(\)|could not convert string to float).*", message, re.DOTALL
    )
    if found is None:
        return None
    name, value = found[1], found[2]
    kind = "a whole number" if "int" in found[3] else "a number"
    default = flags.FLAGS[name].default if name in flags.FLAGS else None
    return f"--{name}={value} is not {kind}: give one, such as --{name}={4 if default is None else default}"


def run_guarded(main: Callable[[], None], if_interrupted: str = IF_INTERRUPTED) -> None:
    """Runs ``main``, converts its errors to messages, and exits with the matching status.

    With several processes, this process does not wait for the others after an error.
    """
    with processes.exiting_at_once():
        run_explained(main, if_interrupted)


def run_explained(main: Callable[[], None], if_interrupted: str) -> None:
    """Runs ``main``, prints a message for each error that the user can fix, and exits with the matching status.

    The other processes of the run receive the message too.

    Raises:
        Exception: any other error of ``main``, which is a bug.
    """
    try:
        with processes.announcing_exit():
            main()
            sys.stdout.flush()
            processes.leave()
    except UserError as error:
        fail(str(error), error, ExitStatus.TRY_LATER if error.for_now else ExitStatus.USER_ERROR)
    except StoppedError as error:
        print(f"interrupted: {error}", file=sys.stderr, flush=True)
        processes.exit_now(ExitStatus.INTERRUPTED)
    except LeavingError as error:
        print(f"preempted: {error}", file=sys.stderr, flush=True)
        processes.exit_now(ExitStatus.PREEMPTED)
    except KeyboardInterrupt:
        interrupts.end(if_interrupted)
    except Exception as error:
        lack = explain_missing_package(error) or explain_missing_resource(error, processes.is_multi_process())
        if lack is not None:
            fail(str(lack), error, ExitStatus.TRY_LATER if lack.for_now else ExitStatus.USER_ERROR)
        if disk_error_code(error) is None and not isinstance(error, OSError) and not is_refusal(error):
            raise
        fail(explain(error), error, ExitStatus.TRY_LATER if is_temporary(error) else ExitStatus.USER_ERROR)


def is_temporary(error: Exception) -> bool:
    """Returns whether a disk or bucket error may go away by itself."""
    return not is_denied(error) if is_refusal(error) else is_passing(error)


def explain(error: Exception) -> str:
    """Returns a message for a disk or bucket error.

    Raises:
        Exception: ``error`` itself, if the user can't fix it.
    """
    sentences = {
        errno.ENOSPC: "no space is left on the disk of {}: make room and run the same command again",
        errno.EDQUOT: "the disk quota of {} is used up: make room and run the same command again",
        errno.EACCES: "you may not read or write {}: ask its owner, change its permissions or choose another folder",
        errno.EROFS: "{} is on a read-only disk: choose another folder",
    }
    if is_refusal(error):
        if is_temporary(error):
            return f"a bucket does not answer as it should ({summarise_error(error)}): run the same command again"
        return explain_refusal(error)
    code = disk_error_code(error)
    path = getattr(error, "filename", None) or "the output folder"
    if code in sentences:
        return sentences[code].format(path)
    if code is not None and is_passing(error):
        return (
            f"{path} can't be read or written now ({os.strerror(code)}): run the same command again, and if that "
            "does not help, check the disk and the network"
        )
    raise error


def fail(sentence: str, error: BaseException | None = None, status: int = ExitStatus.USER_ERROR) -> NoReturn:
    """Prints a message to standard error and exits with ``status``.

    Raises:
        BaseException: ``error`` itself, if there is one and ``--debug`` is set, for its traceback.
    """
    if error is not None and flags.FLAGS.debug:
        raise error
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(status)


OPTION_TYPES: dict[type, tuple[Callable[[str], Any], str]] = {
    int: (int, "a whole number"),
    bool: (lambda value: {"true": True, "false": False}[value.lower()], "True or False"),
}
"""The parser of an option's value and the name of its type, by the type of the default. Other options are text."""


def parse_options(function: Callable[..., Any], given: Sequence[str]) -> dict[str, Any]:
    """Parses options for a function. Each value gets the type of the parameter's default.

    Args:
        function: function with the options as keyword parameters.
        given: options as ``NAME=VALUE``.

    Returns:
        The values by name.

    Raises:
        UserError: an option is not ``NAME=VALUE``, is given twice, or its value has the wrong type.
    """
    parameters = inspect.signature(function).parameters
    options: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if name in options:
            raise UserError(f"--option={name} is given twice: give it once")
        if not equals:
            raise UserError(f"--option={text} has no value: write --option={text}=VALUE")
        default = parameters[name].default if name in parameters else ""
        read, kind = OPTION_TYPES.get(type(default), (str, "text"))
        try:
            options[name] = read(value)
        except (ValueError, KeyError):
            raise UserError(f"--option={name}={value} is not {kind}") from None
    return options
