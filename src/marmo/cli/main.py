"""`marmo`: one command per file, one sentence per error."""

import os
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Protocol

import tyro
from pydantic import ValidationError

from marmo.cli.convert import Convert
from marmo.cli.diagnose import Diagnose
from marmo.cli.evaluate import Evaluate
from marmo.cli.generate import Generate
from marmo.cli.grid import Grid
from marmo.cli.inspect import Inspect
from marmo.cli.merge import MergeModels
from marmo.cli.models import Models
from marmo.cli.replay import Replay
from marmo.cli.serve import Serve
from marmo.cli.train import Train
from marmo.cli.upscale import Upscale
from marmo.pipelines.modes import NoRoom
from marmo.request import explain
from marmo.version import VERSION

Command = (
    Annotated[Generate, tyro.conf.subcommand("generate")]
    | Annotated[Upscale, tyro.conf.subcommand("upscale")]
    | Annotated[Grid, tyro.conf.subcommand("grid")]
    | Annotated[Replay, tyro.conf.subcommand("replay")]
    | Annotated[Models, tyro.conf.subcommand("models")]
    | Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[MergeModels, tyro.conf.subcommand("merge")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Diagnose, tyro.conf.subcommand("diagnose")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Serve, tyro.conf.subcommand("serve")]
)


_NO_MEMORY = re.compile("out of memory|allocate memory|not enough memory")  # torch's words, device by device


def main(argv: Sequence[str] | None = None) -> None:
    """The program.  Exit codes: 0 done, 1 a replay that differs, 2 wrong input, 130 Ctrl-C, 141 nobody reads."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--version"]:
        print(f"marmo {VERSION}")
        return
    if arguments[:1] == ["train"]:
        sys.exit(_run(Train(tuple(arguments[1:]))))  # whose flags are those of the recipe
    command = tyro.cli(
        Command,  # pyright: ignore[reportArgumentType] a union is a form, not a class
        prog="marmo",
        args=arguments,
        description="Text to pictures: paint, inspect, convert, train, evaluate and serve models.",
        config=(tyro.conf.DisallowNone, tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes),
    )
    sys.exit(_run(command))


class Runs(Protocol):
    """A command with its flags."""

    def run(self) -> int:
        """Do it; the exit code."""
        ...


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
