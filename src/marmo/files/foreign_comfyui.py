"""What ComfyUI's graph of core nodes means: its API format, a JSON object node id -> {class_type, inputs}.

An input is a value or a link `[node id, output]`.  The way goes back from the sampler: to its prompts, its latents, its
model.  A node that Marmo does not know is named; where it passes on what it was given, the way goes on behind it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from marmo.files.foreign import Foreign, Json, as_request, number, read_json, whole_number
from marmo.solver_names import COMFYUI_DISCARDS, read_solver

MAX_NODES = 5_000
SAMPLERS = ("KSampler", "KSamplerAdvanced")
OUTPUTS = ("SaveImage", "PreviewImage")
PASSED_ON = ("conditioning", "model", "clip", "latent", "samples", "pixels", "image", "images")
"""Names of inputs that most nodes hand on, changed."""


@dataclass(frozen=True)
class Node:
    """One box of the graph."""

    id: str
    kind: str
    inputs: Mapping[str, Json]

    def text(self) -> str:
        return f"node {self.id[:20]} ({self.kind[:60]})"


@dataclass
class Graph:
    """The boxes, and which of them the picture was followed through."""

    nodes: Mapping[str, Node]
    lost: list[str] = field(default_factory=list[str])

    def source(self, node: Node, name: str) -> Node | None:
        """The node behind an input; None where it is no link."""
        match node.inputs.get(name):
            case [str() | int() as source, int()]:
                return self.nodes.get(str(source))
            case _:
                return None

    def find(self, node: Node, name: str, kinds: Sequence[str]) -> Node | None:
        """The nearest node of these kinds behind an input, through nodes that pass on; those are named as lost."""
        seen: set[str] = set()
        source = self.source(node, name)
        while source is not None and source.kind not in kinds and source.id not in seen:
            seen.add(source.id)
            self._lose(f"{source.text()}")
            source = next(filter(None, (self.source(source, passed) for passed in PASSED_ON)), None)
        return source if source is not None and source.kind in kinds else None

    def value(self, node: Node, name: str) -> Json:
        """A plain value; `ValueError` for a link, which only the program that drew the graph can follow."""
        value = node.inputs.get(name)
        if isinstance(value, list):
            raise ValueError(f"{name} of {node.text()} comes from another node, which Marmo does not follow")
        return value

    def _lose(self, what: str) -> None:
        if what not in self.lost:
            self.lost.append(what)


def read_comfyui(text: str) -> Foreign:
    """The graph as a request; `ValueError`, in one sentence, for anything else."""
    graph = Graph(_nodes(text))
    sampler = _sampler(graph)
    latents = graph.find(sampler, "latent_image", ("EmptyLatentImage", "VAEEncode", *SAMPLERS))
    if latents is None:
        raise ValueError(f"Marmo does not know where the latents of {sampler.text()} come from")
    if latents.kind in SAMPLERS:
        raise ValueError(f"the graph paints in two passes ({latents.text()} and {sampler.text()}); Marmo reads one")
    loader = graph.find(sampler, "model", ("CheckpointLoaderSimple",))
    fields = _walk(graph, sampler, latents) | _prompts(graph, sampler) | _latents(graph, sampler, latents)
    name = graph.value(loader, "ckpt_name") if loader else None
    graph.lost += _unused(graph)
    return Foreign(
        "ComfyUI", as_request(fields, "ComfyUI"), tuple(graph.lost), _notes(fields), str(name)[:200] if name else None
    )


def _nodes(text: str) -> dict[str, Node]:
    data = read_json(text, "ComfyUI's prompt")
    if len(data) > MAX_NODES:
        raise ValueError(f"the graph has {len(data)} nodes; at most {MAX_NODES} are read")
    nodes: dict[str, Node] = {}
    for key, value in data.items():
        match value:
            case {"class_type": str(kind), "inputs": dict(inputs)}:
                nodes[key] = Node(key, kind, inputs)
            case _:
                raise ValueError(f"ComfyUI's prompt is no graph: {key[:40]!r} has no class_type and inputs")
    return nodes


def _sampler(graph: Graph) -> Node:
    """The sampler behind the first picture that is saved or shown; without one, the only sampler."""
    for output in _of_kinds(graph, OUTPUTS):
        decoder = graph.find(output, "images", ("VAEDecode",))
        sampler = graph.find(decoder, "samples", SAMPLERS) if decoder else None
        if sampler is not None:
            return sampler
    samplers = list(_of_kinds(graph, SAMPLERS))
    if len(samplers) != 1:
        raise ValueError(f"the graph has {len(samplers)} samplers of the kinds {' and '.join(SAMPLERS)}; one is read")
    return samplers[0]


def _of_kinds(graph: Graph, kinds: Sequence[str]) -> Iterator[Node]:
    return (node for node in graph.nodes.values() if node.kind in kinds)


def _walk(graph: Graph, sampler: Node, latents: Node) -> dict[str, object]:
    """Steps, solver and seed.  Of `denoise` ComfyUI walks the last `steps` of steps / denoise."""
    steps = whole_number(graph.value(sampler, "steps"), "steps")
    denoise = number(sampler.inputs.get("denoise", 1.0), "denoise")
    solver = read_solver(_name(graph, sampler, "sampler_name"), _name(graph, sampler, "scheduler"))
    _check_part(graph, sampler, steps)
    if not 0 < denoise <= 1:
        raise ValueError(f"denoise of {sampler.text()} is {denoise:g}; it lies above 0 and is at most 1")
    is_part = denoise < 1 and latents.kind == "VAEEncode"
    all_steps = int(steps / denoise) if is_part else steps
    if denoise < 1 and not is_part:
        graph.lost.append(f"denoise: {denoise:g} of {sampler.text()}, which starts from no picture")
    return {
        "steps": all_steps,
        "strength": _share(steps, all_steps) if latents.kind == "VAEEncode" else None,
        "sampler": solver.sampler,
        "schedule": solver.schedule,
        "discard_penultimate": solver.sampler in COMFYUI_DISCARDS,
        "guidance_scale": number(graph.value(sampler, "cfg"), "cfg"),
        "seed": whole_number(graph.value(sampler, "noise_seed" if "noise_seed" in sampler.inputs else "seed"), "seed"),
        "noise_source": "comfy",
    }


def _name(graph: Graph, sampler: Node, name: str) -> str:
    value = graph.value(sampler, name)
    if not isinstance(value, str):
        raise ValueError(f"{name} of {sampler.text()} is no name")
    return value[:100]


def _check_part(graph: Graph, sampler: Node, steps: int) -> None:
    """KSamplerAdvanced may walk a part of the way."""
    start, end = (whole_number(sampler.inputs.get(name, default), name) for name, default in _PART)
    switches = sampler.inputs.get("add_noise", "enable"), sampler.inputs.get("return_with_leftover_noise", "disable")
    if start > 0 or end < steps or switches != ("enable", "disable"):
        graph.lost.append(f"start_at_step, end_at_step, add_noise and return_with_leftover_noise of {sampler.text()}")


_PART = (("start_at_step", 0), ("end_at_step", 10_000))


def _share(steps: int, all_steps: int) -> float:
    """The strength at which just the last `steps` of all are walked."""
    share = steps / all_steps
    return share if int(all_steps * share) == steps else share + 0.5 / all_steps


def _prompts(graph: Graph, sampler: Node) -> dict[str, object]:
    positive = _encoder(graph, sampler, "positive")
    negative = _encoder(graph, sampler, "negative")
    setter = graph.source(positive, "clip")
    layer = None
    if setter is not None and setter.kind == "CLIPSetLastLayer":
        layer = whole_number(graph.value(setter, "stop_at_clip_layer"), "stop_at_clip_layer")
    return {
        "prompt": _text(graph, positive),
        "negative_prompt": _text(graph, negative),
        "empty_negative": "encoded",
        "prompt_syntax": "comfyui",
        "clip_skip": -layer if layer is not None else None,
    }


def _encoder(graph: Graph, sampler: Node, name: str) -> Node:
    node = graph.find(sampler, name, ("CLIPTextEncode",))
    if node is None:
        raise ValueError(f"Marmo does not know where the {name} prompt of {sampler.text()} comes from")
    return node


def _text(graph: Graph, node: Node) -> str:
    text = graph.value(node, "text")
    if not isinstance(text, str):
        raise ValueError(f"the text of {node.text()} is no text")
    return text


def _latents(graph: Graph, sampler: Node, latents: Node) -> dict[str, object]:
    if latents.kind == "VAEEncode":
        picture = graph.find(latents, "pixels", ("LoadImage",))
        if picture is None:
            raise ValueError(f"Marmo does not know which picture {latents.text()} encodes")
        return {}
    sides = {name: whole_number(graph.value(latents, name), name) for name in ("width", "height")}
    return {**sides, "num_images": whole_number(latents.inputs.get("batch_size", 1), "batch_size")}


def _unused(graph: Graph) -> list[str]:
    """Nodes of other kinds that were not met on the way may still have changed the picture."""
    known = {
        *SAMPLERS, *OUTPUTS, "VAEDecode", "VAEEncode", "LoadImage", "EmptyLatentImage", "CheckpointLoaderSimple",
        "CLIPTextEncode", "CLIPSetLastLayer", "Note", "MarkdownNote",
    }  # fmt: skip
    return [node.text() for node in graph.nodes.values() if node.kind not in known and node.text() not in graph.lost]


def _notes(fields: Mapping[str, object]) -> tuple[str, ...]:
    batch = fields.get("num_images", 1)
    if batch == 1:
        return ()
    return (f"the graph paints {batch} pictures and does not say which this is; it is taken for the first",)
