"""How long hostile and honest prompts take to read: `python -m benchmarks.prompts`.

The best of five, in milliseconds of the processor's time, so that a busy machine says the same.
"""

import random
import time
from collections.abc import Callable

from benchmarks.machine import describe
from marmo.text.syntax import SYNTAXES, SyntaxName, read_prompt

SIZE = 1_000_000
SYNTAX_NAMES: list[SyntaxName] = ["marmo", "a1111", "comfyui"]
PROMPTS = {
    "1 MB of (": "(" * SIZE,
    "1 MB of ( and )": "(" * (SIZE // 2) + ")" * (SIZE // 2),
    "1 MB of ( ) [ ] at random": "".join(random.Random(0).choices("()[]", k=SIZE)),
    "1 MB of [a|": "[a|" * (SIZE // 3),
    "1 MB of a AND ": "a AND " * (SIZE // 6),
    "1 MB of words": "a red fox, " * (SIZE // 11),
    "5,000 marks, (a": "(a" * 4_999,
    "5,000 marks, [a:b": "[a:b" * 2_499,
    "5,000 marks, (a:1.1)": "(a:1.1)" * 1_666,
    "an honest prompt of 500 characters": "a (red:1.2) fox in [snow:rain:0.5], oil painting, " * 10,
}


def read(prompt: str, name: SyntaxName) -> None:
    """All that is done to a prompt before its tokens."""
    try:
        known = read_prompt(prompt, name)
    except ValueError:  # too many prompts joined by AND
        return
    for part in known.parts:
        known.syntax.sections(part.plan.at(1, 20))


def best(work: Callable[[], object]) -> float:
    """Milliseconds."""
    times: list[float] = []
    for _ in range(5):
        start = time.process_time()
        work()
        times.append(1000 * (time.process_time() - start))
    return min(times)


def main() -> None:
    print(describe())
    print(f"{'':36}{''.join(f'{name:>10}' for name in SYNTAX_NAMES)}")
    for what, prompt in PROMPTS.items():
        times = [best(lambda prompt=prompt, name=name: read(prompt, name)) for name in SYNTAXES if name != "plain"]
        print(f"{what:36}{''.join(f'{ms:10.2f}' for ms in times)}")


if __name__ == "__main__":
    main()
