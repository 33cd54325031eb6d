"""`marmo`: one command per file, one sentence per error."""

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Annotated, Protocol, Union, cast

import tyro
from pydantic import ValidationError

from marmo.pipelines.modes import NoRoom
from marmo.request import explain
from marmo.version import VERSION

COMMANDS: Mapping[str, str] = {
    "generate": "Generate",
    "upscale": "Upscale",
    "grid": "Grid",
    "replay": "Replay",
    "models": "Models",
    "inspect": "Inspect",
    "convert": "Convert",
    "merge": "MergeModels",
    "train": "Train",
    "diagnose": "Diagnose",
    "evaluate": "Evaluate",
    "serve": "Serve",
}
"""Command, which is its file's name, too -> its class.  Only the one that is asked for is imported."""
OPTIONS = (tyro.conf.DisallowNone, tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes)

_NO_MEMORY = re.compile("out of memory|allocate memory|not enough memory")  # torch's words, device by device


class Runs(Protocol):
    """A command with its flags."""

    def run(self) -> int:
        """Do it; the exit code."""
        ...


def main(argv: Sequence[str] | None = None) -> None:
    """The program.  Exit codes: 0 done, 1 a replay that differs, 2 wrong input, 130 Ctrl-C, 141 nobody reads."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--version"]:
        print(f"marmo {VERSION}")
        return
    if arguments[:1] == ["train"]:
        from marmo.cli.train import Train

        sys.exit(_run(Train(tuple(arguments[1:]))))  # whose flags are those of the recipe
    sys.exit(_run(_read(arguments)))


def _read(arguments: list[str]) -> Runs:
    """The command with its flags; help and what cannot be read end the program."""
    if arguments and arguments[0] in COMMANDS:
        prog = f"marmo {arguments[0]}"
        return tyro.cli(_class_of(arguments[0]), prog=prog, args=arguments[1:], config=OPTIONS)
    forms = [Annotated[_class_of(name), tyro.conf.subcommand(name)] for name in COMMANDS]
    whole = cast(Callable[..., Runs], Union[*forms])  # a form of classes, for a class
    about = "Text to pictures: paint, inspect, convert, train, evaluate and serve models."
    return tyro.cli(whole, prog="marmo", args=arguments, description=about, config=OPTIONS)


def _class_of(command: str) -> Callable[..., Runs]:
    return getattr(import_module(f"marmo.cli.{command}"), COMMANDS[command])


def _run(command: Runs) -> int:
    try:
        code = command.run()
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads has seen enough, as in `marmo inspect model | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt as stop:
        return _fail(str(stop) or "stopped", 130)
    except ValidationError as error:
        return _fail(explain(error), 2)
    except OSError as error:
        return _fail(f"{error.filename or 'a file'}: {error.strerror or error}", 2)
    except ValueError as error:
        return _fail(str(error), 2)
    except NoRoom as error:
        return _fail(str(error), 2)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not _NO_MEMORY.search(str(error)):
            raise
        return _fail("the memory is not enough; ask for smaller or fewer pictures, --estimate tells what they need", 2)


def _fail(sentence: str, code: int) -> int:
    print(f"marmo: {sentence}", file=sys.stderr)
    return code
