"""The command ``d2v``. Nothing heavy is imported before the command is known, so that ``--help`` answers at once."""

import argparse
import errno
import importlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence

from d2v import __version__
from d2v.allowed_packages import allow_packages
from d2v.commands.failure_message import cause_of, hints_for, in_one_line, message_of
from d2v.errors import Interrupted, UserError
from d2v.lean_imports import keep_torchmetrics_lean
from d2v.service_keys import without_keys

TRAINER_COMMANDS = {
    "fit": "pretrain or fine-tune by a recipe:  d2v fit --config vision.yaml --data.root DIR",
    "validate": "loss on the validation split:  d2v validate --config NAME.yaml --ckpt_path FILE",
    "test": "the same on the test split; of a fine-tuned run its error rates, with a table of what it says",
    "predict": "features, transcripts or classes:  d2v predict --config NAME.yaml --ckpt_path FILE --data.root DIR",
}
COMMANDS = {
    "probe": ("d2v.commands.probe", "kNN and linear accuracy of frozen features, beside an untrained encoder"),
    "embed": (
        "d2v.commands.embed",
        "features of files:  d2v embed --checkpoint PATH --input DIR --output FILE.parquet",
    ),
    "align": (
        "d2v.commands.align",
        "one space for several media:  d2v align --checkpoint PATH --pairs TABLE --test TABLE",
    ),
    "search": (
        "d2v.commands.search",
        "nearest neighbours among such features:  d2v search FILE.parquet --query ID|FILE",
    ),
    "report": ("d2v.commands.report", "one HTML file about one or several runs, from their folders:  d2v report RUN"),
    "dashboard": (
        "d2v.commands.dashboard",
        "a dashboard and a report in Weights & Biases:  d2v dashboard --print | --push ENTITY/PROJECT",
    ),
    "bench": ("d2v.commands.bench", "how fast a recipe trains, and where time goes:  d2v bench --config NAME.yaml"),
    "bench data": ("d2v.commands.bench_data", "how fast data load:  d2v bench data --config NAME.yaml --data.root DIR"),
    "glue": ("d2v.commands.glue", "GLUE:  d2v glue --checkpoint PATH --root GLUE --output DIR  sweeps, scores, table"),
    "export": ("d2v.commands.export", "a model for others: Hugging Face, ONNX, torch.export, safetensors"),
    "import": ("d2v.commands.import_", "translate an official checkpoint (fairseq, data2vec_vision, Hugging Face)"),
    "prepare": (
        "d2v.commands.prepare",
        "make or check data: prepare speech|text --input DIR,  prepare demo MODALITY",
    ),
    "cache": ("d2v.commands.cache", "what d2v keeps of your data in ~/.cache/d2v, its size, and how to clear it"),
    "configs": ("d2v.commands.list_configs", "the configs that ship with d2v, a line each:  d2v configs [NAME]"),
    "doctor": ("d2v.commands.doctor", "what this machine can do, what is missing, how to get it"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 done, 1 failed while running, 2 bad input: one message and no traceback (``--debug`` shows it); 128 and the
        number of the signal that stopped it.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may have characters that the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    keep_torchmetrics_lean()
    try:
        return _dispatch(_allow_packages(args))
    except SystemExit as stop:  # a parser has printed its message, or the help
        return int(stop.code or 0)
    except BrokenPipeError:  # whoever reads our output has stopped
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Interrupted as stop:
        print(f"d2v: {stop}", file=sys.stderr)
        return 128 + stop.signal_number
    except KeyboardInterrupt:
        print("d2v: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        if debug:
            print(without_keys(traceback.format_exc()), end="", file=sys.stderr)
        if isinstance(error, OSError) and (named := _named_by_user(error, args)):
            error = UserError(f"{named}: {error.strerror}")
        print(without_keys(_describe(error, debug)), file=sys.stderr)
        return 2 if isinstance(cause_of(error), UserError) else 1


def _named_by_user(error: OSError, args: Sequence[str]) -> str:
    """The words of the command with the very path that could not be opened or made; none: an empty text."""
    denied = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    wrong = isinstance(error, FileNotFoundError | FileExistsError | NotADirectoryError | IsADirectoryError)
    if not denied and not wrong:
        return ""  # a full disk is nothing that another command mends
    for before, word in zip(["", *args], args, strict=False):
        option, _, value = word.rpartition("=")
        if value and error.filename and os.path.abspath(error.filename) == os.path.abspath(value):
            return f"{option or before} {value}"
    return ""


def _describe(error: Exception, debug: bool) -> str:
    """The message for an error; if something failed while running, with the run's folder and what to try."""
    cause = cause_of(error)
    text = message_of(cause)
    if isinstance(cause, UserError):
        return f"d2v: error: {text.removeprefix('d2v.errors.UserError: ')}"
    hints = [*hints_for(text), *getattr(cause, "__notes__", ()), *getattr(error, "__notes__", ())]
    if not debug:
        hints.append("--debug shows the traceback")
    kind = type(cause).__name__
    line = in_one_line(text)
    if not line.startswith(kind):  # an error of a loading process begins with its kind
        line = f"{kind}: {line}"
    return f"d2v: failed: {line} ({'; '.join(dict.fromkeys(hints))})"


def _allow_packages(args: list[str]) -> list[str]:
    """The arguments without ``--allow PACKAGE``, which any command takes, and as often as wanted."""
    rest, packages = [], []
    words = iter(args)
    for word in words:
        if word == "--allow":
            packages.append(next(words, ""))
        elif word.startswith("--allow="):
            packages.append(word.removeprefix("--allow="))
        else:
            rest.append(word)
    allow_packages(packages)
    return rest


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print(_help())
        return 0
    if args[0] in ("-V", "--version"):
        print(f"d2v {__version__}")
        return 0
    command, rest = args[0], args[1:]
    if " ".join(args[:2]) in COMMANDS:  # a command of two words
        command, rest = " ".join(args[:2]), args[2:]
    if command in (*TRAINER_COMMANDS, "probe", "bench", "bench data") and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # class paths in what the user types and in configs; a checkpoint's are refused
    if command in TRAINER_COMMANDS:
        from d2v.commands.early_checks import checked_words

        words = checked_words(command, rest)  # before the next import, which takes seconds
        from d2v.commands.run import run_trainer

        run_trainer(words)
        return 0
    if command not in COMMANDS:
        raise UserError(f"there is no command {command!r}; there are: {', '.join([*TRAINER_COMMANDS, *COMMANDS])}")
    module_name, summary = COMMANDS[command]
    module = importlib.import_module(module_name)
    parser = argparse.ArgumentParser(prog=f"d2v {command}", description=summary)
    module.add_arguments(parser)
    parse: Callable = getattr(module, "parse_args", lambda p, a: p.parse_args(a))
    module.run(parse(parser, rest))
    return 0


def _help() -> str:
    rows = [*TRAINER_COMMANDS.items(), *((name, summary) for name, (_, summary) in COMMANDS.items())]
    width = max(len(name) for name, _ in rows)
    return "\n".join(
        [
            f"d2v {__version__}: data2vec for people who pretrain",
            "",
            "usage: d2v COMMAND [options]          d2v COMMAND --help shows them",
            "",
            *(f"  {name:<{width}}  {summary}" for name, summary in rows),
            "",
            "options of all commands: --debug shows the traceback of an error; --allow PACKAGE lets a checkpoint or",
            "a config name classes of that package, whose code then runs",
            "exit code: 0 done, 1 failed while running, 2 bad input",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
