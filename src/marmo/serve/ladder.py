"""When memory runs out: the same work again with more room, then in smaller pieces, then not at all.

    1. as it came                      2. again, after every cache has let go
    3. piece by piece: each row of the network alone, each picture decoded or enlarged in small tiles

A walk stands still until its work is answered, so nothing that was painted is lost on the way down.
"""

from collections.abc import Callable, Sequence

from marmo.pipelines.painter import Ask, Decode
from marmo.pipelines.upscaler import Enlarge
from marmo.serve import troubles


def climb_down(rungs: Sequence[Callable[[], None]], relieve: Callable[[], None]) -> None:
    """Try the rungs in turn while memory runs out, with a relief before each but the first.

    Raises what the last one raised, and at once what is no lack of memory.
    """
    for rung in rungs[:-1]:
        try:
            return rung()
        except Exception as error:
            if not troubles.is_out_of_memory(error):
                raise
        relieve()
    rungs[-1]()


def rungs(work: Ask | Decode | Enlarge) -> Sequence[Callable[[], None]]:
    """The ways to answer one walk's work, the next always with less memory."""
    pieces = work.answer_by_rows if isinstance(work, Ask) else work.answer_in_tiles
    return work.answer, work.answer, pieces
