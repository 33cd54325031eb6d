"""What an exception means for a job, and for the worker."""

import sys
import traceback
from typing import Literal

import torch

from marmo.pipelines.painter import NoNumbers
from marmo.request import ImageRequest
from marmo.serve.stock import Unusable

Code = Literal["request", "model", "memory", "internal"]

NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "could not create a memory",
    "could not create a primitive",  # so says oneDNN when there is no room for its code
    "ALLOC_FAILED",
)
"""What torch's own RuntimeError says when an allocator or a library below it finds no memory."""


class Lost(RuntimeError):
    """The device answers no more; only a new process can go on."""


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def check_device(error: BaseException) -> None:
    """Raises `Lost` for an error that every later call will meet too."""
    if isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error):
        raise Lost(f"{type(error).__name__}: the device answers no more") from error


def code_of(error: Exception) -> Code:
    """Whose fault it is.  House rule: a `ValueError` is the user's."""
    if isinstance(error, Unusable | NoNumbers | OSError):
        return "model"
    if is_out_of_memory(error):
        return "memory"
    return "request" if isinstance(error, ValueError) else "internal"


def sentence(error: Exception, request: ImageRequest) -> str:
    """What the user reads: never a path, and nothing of an unexpected error's words."""
    match code_of(error):
        case "memory":
            pictures = "a picture" if request.num_images == 1 else f"{request.num_images} pictures"
            return (
                f"there is not enough memory for {pictures} of {request.width} x {request.height} with this model, "
                "not even piece by piece; ask for a smaller one or for fewer at a time"
            )
        case "internal":
            return f"the worker met an unexpected error ({type(error).__name__}); the server's log says where"
        case "model" if isinstance(error, OSError):
            return f"a file of {request.model} cannot be read: {error.strerror or 'it is gone'}"
        case _:
            return str(error)


def log(error: Exception) -> None:
    """For whoever mends it: the way to the error, without its words."""
    print(f"marmo worker: {type(error).__name__}", file=sys.stderr)
    traceback.print_tb(error.__traceback__, file=sys.stderr)
