"""`marmo evaluate`: how good a model, or a folder of pictures, is: scores with intervals, and a report."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from marmo.cli.flags import flags_of, given
from marmo.cli.progress import counted
from marmo.request import ImageRequest

if TYPE_CHECKING:
    from marmo.evaluate.features import FeatureSpace
    from marmo.evaluate.gallery import Answer
    from marmo.evaluate.judging import Oracles
    from marmo.evaluate.limits import Change
    from marmo.evaluate.look_alikes import LookAlike
    from marmo.evaluate.measures import Line
    from marmo.evaluate.questions import Question
    from marmo.evaluate.report import Report
    from marmo.evaluate.resize import RuleName
    from marmo.evaluate.suite import Outcome

    class SettingFlags:
        """A flag for every field of `ImageRequest` that the questions leave open."""
else:
    EDITING = frozenset({"init_image", "mask", "inpaint", "outpaint", "strength", "image_guidance_scale", "start"})
    QUESTIONED = frozenset({"prompt", "seed", "num_images", "model"}) | EDITING
    SettingFlags = flags_of(ImageRequest, without=QUESTIONED)


@dataclass(frozen=True)
class Asked:
    """Which questions are asked."""

    parts: tuple[str, ...] = ()
    """Parts of the prompts, such as seen and heldout_colour; all of them by default"""
    per_tag: int = 30
    """Prompts for each tag of a part"""
    seeds: int = 4
    """Pictures for each prompt and language, with seeds 0, 1, 2, ..."""
    language: Literal["en", "zh", "both"] = "both"
    """Of the prompts"""
    concepts: Path | None = None
    """A list of the concepts that are asked for, one id per line; by default those that the model knows, else all"""

    def check(self) -> None:
        """`ValueError` for a part that does not exist, a list that cannot be read and for nothing to ask."""
        from marmo.evaluate.questions import chosen_parts

        if self.per_tag < 1 or self.seeds < 1:
            raise ValueError(f"--per-tag and --seeds must be at least 1, not {self.per_tag} and {self.seeds}")
        chosen_parts(self.parts)
        self.chosen()

    def questions(self, known: Sequence[str] = ()) -> "list[Question]":
        """All of them; `ValueError` for what `check` refuses, and for parts of which the list holds nothing.

        Args:
            known: ids of the only concepts that are asked for where no list is given; none means all.
        """
        from marmo.data.selection import Selection
        from marmo.evaluate.questions import LANGUAGES, chosen_parts, questions

        self.check()
        spoken = LANGUAGES if self.language == "both" else (self.language,)
        selection = Selection(frozenset(self.chosen(known)) or None)
        asked = questions(chosen_parts(self.parts), self.per_tag, spoken, self.seeds, selection)
        if not asked:
            raise ValueError(f"nothing of {' or '.join(self.parts)} is in the list of concepts; choose more of either")
        return asked

    def chosen(self, known: Sequence[str] = ()) -> Sequence[str]:
        """The ids that are asked for; none means all."""
        from marmo.data.selection import read_concepts

        return known if self.concepts is None else read_concepts(self.concepts)


@dataclass(frozen=True)
class Measures:
    """What needs no known prompts."""

    lines: "tuple[Line, ...]" = ()
    look_alikes: "tuple[LookAlike, ...]" = ()


@dataclass(frozen=True)
class Judged:
    """Who judges, what the pictures are compared with, and where the report goes."""

    oracle: Path | None = None
    """An oracle's file; the bundled one by default"""
    guard: Path | None = None
    """A second oracle's file; the bundled one of another architecture by default"""
    against: Path | None = None
    """A folder of real pictures: adds Frechet distance, KID, precision and recall, density and coverage"""
    train: Path | None = None
    """A folder of training pictures: together with --against, of pictures that training never saw, looks for copies"""
    space: Path | None = None
    """An Inception, DINOv2 or CLIP in whose features pictures are compared; Marmo's own oracle by default"""
    resize: str | None = None
    """The rule that brings pictures to its size, such as clean or pytorch-fid; the network's usual one by default"""
    clip: Path | None = None
    """A CLIP for CLIP score and retrieval; by default Marmo's own, which knows what the evaluation prompts say"""
    output: Path = Path("out/evaluation")
    """Folder for report.html and scores.json"""
    json: bool = False
    """Print JSON instead of words"""

    def check(self) -> None:
        """`ValueError` now rather than when the pictures are painted."""
        from marmo.evaluate.limits import renders
        from marmo.evaluate.questions import questions

        if self.train is not None and self.against is None:
            raise ValueError("--train looks for copies and needs --against, pictures that training never saw")
        self._rule()
        for path in (self.against, self.train, self.space, self.clip):
            if path is not None and not path.exists():
                raise ValueError(f"{path} does not exist")
        one = questions(("seen",), per_tag=1, seeds=1)[:1]
        renders(one, 64, lambda pictures: pictures)[0].load()  # needs the renderer of marmo[data]

    def oracles(self) -> "Oracles":
        """The one that counts, and its guard."""
        from marmo.evaluate.oracle import load_oracle

        return {"oracle": load_oracle(self.oracle or "first"), "guard": load_oracle(self.guard or "guard")}

    def outcome(
        self, answers: "Sequence[Answer]", oracles: "Oracles", reconstruct: "Change | None" = None
    ) -> "Outcome":
        """The compositional scores, with their ceiling and floor."""
        from marmo.evaluate.limits import jpeg
        from marmo.evaluate.suite import evaluate

        watched = counted(answers, len(answers), "judging pictures", quiet=self.json)
        return evaluate(watched, oracles, reconstruct=reconstruct or jpeg)

    def measured(self, folder: Path, asked: bool) -> "Measures":
        """Distances, similarities, copies.

        Args:
            asked: whether the pictures answer evaluation prompts; no others mean anything to Marmo's own CLIP.
        """
        from marmo.evaluate.clip_score import encode_pairs, open_clip
        from marmo.evaluate.evaluator import BUNDLED
        from marmo.evaluate.measures import agreement
        from marmo.evaluate.pictures import open_pictures

        found = Measures() if self.against is None else self._compared(folder, self.against)
        clip = BUNDLED if self.clip is None and asked else self.clip
        if clip is None:
            return found
        fits = agreement(encode_pairs(open_clip(clip), open_pictures(folder)))
        return Measures((*found.lines, *fits), found.look_alikes)

    def _compared(self, folder: Path, against: Path) -> "Measures":
        from marmo.evaluate import measures
        from marmo.evaluate.features import features
        from marmo.evaluate.look_alikes import look_alikes
        from marmo.evaluate.pictures import open_pictures

        space = self._space()
        pictures, clusters = measures.grouped(space, open_pictures(folder))
        real = features(space, open_pictures(against))
        lines = tuple(measures.against(pictures, real, clusters))
        if self.train is None:
            return Measures(lines)
        copies = measures.examined(pictures, features(space, open_pictures(self.train)), real, clusters)
        alike = look_alikes(open_pictures(folder), open_pictures(self.train), copies.nearest)
        return Measures((*lines, *measures.copying(copies, pictures)), tuple(alike))

    def _space(self) -> "FeatureSpace":
        from marmo.evaluate.encoders import open_space
        from marmo.evaluate.oracle_space import oracle_space

        return oracle_space(self.oracle or "first") if self.space is None else open_space(self.space, self._rule())

    def _rule(self) -> "RuleName | None":
        from marmo.evaluate.resize import RULES

        rule: RuleName | None = next((name for name in RULES if name == self.resize), None)
        if self.resize is not None and rule is None:
            raise ValueError(f"--resize {self.resize!r} does not exist; the rules are {', '.join(RULES)}")
        if rule is not None and self.space is None:
            raise ValueError("--resize goes with --space: Marmo's own features have one rule")
        return rule

    def tell(self, report: "Report") -> None:
        """Write the report and its numbers, and say them."""
        from marmo.evaluate.report import write
        from marmo.evaluate.summary import lines, summary
        from marmo.files.atomic import atomic_write

        write(self.output / "report.html", report)
        numbers = json.dumps(summary(report), indent=1, ensure_ascii=False)
        with atomic_write(self.output / "scores.json") as stream:
            stream.write(f"{numbers}\n".encode())
        if self.json:
            print(numbers)
            return
        for line in lines(report):
            print(line)
        print(self.output / "report.html")


@dataclass(frozen=True)
class Pictures:
    """Judge pictures whose prompts are known: of a folder that was painted for it, or with prompts beside them."""

    folder: tyro.conf.Positional[Path]
    """Pictures, in folders or tars"""
    asked: Annotated[Asked, tyro.conf.arg(name="")] = field(default_factory=Asked)
    judged: Annotated[Judged, tyro.conf.arg(name="")] = field(default_factory=Judged)

    def run(self) -> int:
        """Find, judge, tell."""
        from marmo.evaluate.gallery import collected, painted
        from marmo.evaluate.report import Report, facts

        self.judged.check()
        asked = self.asked.questions()
        answers = painted(self.folder, asked) or collected(self.folder, asked)
        found = self.judged.measured(self.folder, asked=bool(answers))
        if not answers and not found.lines:
            raise ValueError(
                f"no picture in {self.folder} answers an evaluation prompt; `marmo evaluate prompts` writes them down, "
                "and --against or --clip measure any pictures"
            )
        outcome = self.judged.outcome(answers, self.judged.oracles()) if answers else None
        name = self.folder.resolve().name
        told = facts(outcome, self.asked.chosen())
        self.judged.tell(Report(name, told, outcome, found.lines, found.look_alikes))
        return 0


@dataclass(frozen=True)
class Model:
    """Paint the evaluation prompts with a model, and judge the pictures; the same command goes on after a stop."""

    model: tyro.conf.Positional[Path | None] = None
    """A checkpoint file or a diffusers folder"""
    asked: Annotated[Asked, tyro.conf.arg(name="")] = field(default_factory=Asked)
    judged: Annotated[Judged, tyro.conf.arg(name="")] = field(default_factory=Judged)
    settings: Annotated[SettingFlags, tyro.conf.arg(name="")] = field(default_factory=SettingFlags)
    device: str | None = None
    """cpu, cuda, mps, ...; the best there is by default"""
    dtype: str | None = None
    """float32, bfloat16 or float16; the fastest that is safe by default"""
    goals: bool = False
    """Hold it against what Marmo's own small model must reach, and measure its autoencoder and its speed for that"""
    own_clip: Path | None = None
    """The CLIP that the model's text encoder comes from, for its row of --goals"""

    def run(self) -> int:
        """Paint what is missing, judge, tell."""
        settings = ImageRequest.model_validate(given(self.settings))
        self.asked.check()
        self.judged.check()
        oracles = self.judged.oracles()
        from marmo import catalog
        from marmo.cli.goals import goals
        from marmo.cli.painter import identity, painter, reconstruction
        from marmo.evaluate.gallery import missing, paint, painted, prepare
        from marmo.evaluate.report import Report, facts

        model, folder = catalog.open_model(self.model, self.device, self.dtype), self.judged.output / "pictures"
        chosen = self.asked.chosen(model.card.concepts)
        asked = self.asked.questions(chosen)
        prepare(folder, asked, identity(model, settings, chosen))
        todo = missing(folder, asked)
        stream = paint(folder, todo, painter(model, settings))
        try:
            for _ in counted(stream, len(todo), "painting pictures", quiet=self.judged.json):
                pass
        except KeyboardInterrupt:
            raise KeyboardInterrupt("stopped; the same command goes on with what is missing") from None
        outcome = self.judged.outcome(painted(folder, asked), oracles, reconstruction(model))
        told = {**facts(outcome, chosen), **_settings(model.resolve(settings))}
        found = self.judged.measured(folder, asked=True)
        rows = goals(model, settings, outcome, oracles, chosen, self.own_clip) if self.goals else ()
        self.judged.tell(Report(model.card.name, told, outcome, found.lines, found.look_alikes, rows))
        return 0


@dataclass(frozen=True)
class Prompts:
    """Write the evaluation prompts down, for another program to paint; `marmo evaluate pictures` then judges."""

    folder: tyro.conf.Positional[Path]
    """Gets metadata.jsonl: the prompts, and where their pictures belong"""
    asked: Annotated[Asked, tyro.conf.arg(name="")] = field(default_factory=Asked)

    def run(self) -> int:
        """Write, tell."""
        from marmo.evaluate.gallery import write_questions

        asked = self.asked.questions()
        write_questions(self.folder, asked)
        print(f"{self.folder / 'metadata.jsonl'}: {len(asked)} pictures to paint")
        return 0


@dataclass(frozen=True)
class Vote:
    """Compare folders of pictures on a page, not knowing whose is which; Ctrl-C ends it, and it goes on next time."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Two or more, with pictures of the same names, as `marmo evaluate model` makes them; tars are fine too"""
    votes: Path = Path("votes.jsonl")
    """Where the answers go; several voters may share it"""
    voter: str = ""
    """Who votes"""
    seed: int = 0
    """Of the order of the pictures, and of their sides"""
    port: int = 0
    """0 takes a free one"""
    browser: bool = True
    """Open the page"""

    def run(self) -> int:
        """Serve the page, and count at the end."""
        from marmo.evaluate.booth import open_booth

        open_booth(self.folders, self.votes, self.voter, self.seed, self.port, self.browser)
        return 0


@dataclass(frozen=True)
class Evaluate:
    """Measure a model or pictures: scores with intervals, distances, a report, a blind vote."""

    what: (
        Annotated[Model, tyro.conf.subcommand("model")]
        | Annotated[Pictures, tyro.conf.subcommand("pictures")]
        | Annotated[Prompts, tyro.conf.subcommand("prompts")]
        | Annotated[Vote, tyro.conf.subcommand("vote")]
    )

    def run(self) -> int:
        """Measure."""
        return self.what.run()


def _settings(request: ImageRequest) -> dict[str, str]:
    """What a reader wants to know of how the pictures were painted."""
    told = {
        "size": f"{request.width} x {request.height}",
        "steps": request.steps,
        "sampler": request.sampler,
        "guidance": request.guidance_scale,
    }
    return {name: str(value) for name, value in told.items() if value is not None}
