"""`map layers`: which layer of a model knows what. Heavy imports are inside the command."""

from pathlib import Path
from typing import Annotated

import typer

from sae_lens_med.commands.maps.options import (
    Concepts,
    Domain,
    Language,
    RandomModels,
    Seed,
    Templates,
    languages_of,
    lists_of,
)
from sae_lens_med.commands.options import AsJson, BatchTokens, Device, Dtype, Model, Output
from sae_lens_med.commands.output import say, say_json


def register(app: typer.Typer) -> None:
    """Mount the command of this module."""
    app.command("layers")(map_layers)


def map_layers(
    model: Model,
    output: Output,
    domain: Domain = None,
    language: Language = None,
    concepts: Concepts = None,
    templates: Templates = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="geometry, saliency, lesion or patching. Repeatable; by default all. A folder takes more later."
        ),
    ] = None,
    statements: Annotated[
        Path | None, typer.Option(help="A table of your own statements, for saliency, lesion and patching.")
    ] = None,
    pairs: Annotated[int, typer.Option(help="Most pairs of statements of a domain, language and frame.")] = 8,
    permutations: Annotated[int, typer.Option(help="Draws of each null.")] = 1000,
    random_models: RandomModels = 3,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_tokens: BatchTokens = None,
    as_json: AsJson = False,
) -> None:
    """Which layer of a model knows what: symptoms, diseases, drugs, ages, doses, stages, in Korean and English.

    Four methods: geometry (what can be read off), saliency (the gradient of the answer on each block), lesion (a block
    is skipped) and patching (a concept's activations are put into another text). Every value stands beside what chance
    and models with permuted weights give, geometry also beside the spelling and the embedding, the others beside
    statements that are no medicine, and counts only where it lies above all of them. Writes map.svg, map.csv, map.json
    and, of several methods, combined.svg and combined.json, answers to seven registered claims (`map answer`), and a
    page, map.html; goes on where it was stopped.

    A read-out shows what a layer makes available, not what the model uses. The packaged lists and statements were
    reviewed by no clinician; --concepts and --templates, and --statements, take your own.

    Example: sae-lens-med map layers -m gemma-3-270m -o map-gemma

    Example: sae-lens-med map layers -m gemma-3-270m -o map-gemma --method lesion --method patching

    Example: sae-lens-med map layers -m hari-q3-8b -o map-hari --dtype bfloat16 --domain drugs --domain diseases
    """
    from sae_lens_med.knowledge_map.answering import answer_hypotheses, write_answers
    from sae_lens_med.knowledge_map.measure import METHODS
    from sae_lens_med.knowledge_map.pairs import read_statements
    from sae_lens_med.knowledge_map.report import write_map_page
    from sae_lens_med.knowledge_map.run import KIND, MapSettings, make_map
    from sae_lens_med.runs.folder import require_output
    from sae_lens_med.runs.parsing import parse_json

    require_output(output, KIND)
    settings = MapSettings(
        languages=languages_of(language),
        permutations=permutations,
        random_models=random_models,
        methods=tuple(method) if method else METHODS,
        pairs=pairs,
        seed=seed,
        batch_tokens=batch_tokens,
    )
    lists = lists_of(concepts, templates, domain)
    from sae_lens_med.commands.options import open_model

    own = read_statements(statements) if statements else None
    rows = make_map(lambda: open_model(model, None, device, dtype)[0], lists, output, settings, statements=own)
    answers = []
    if "geometry" in settings.methods:
        answers = answer_hypotheses(output, lists)
        write_answers(output, answers)
    page = write_map_page(output)[0]
    if as_json:
        say_json([row.to_dict() for row in rows if row.q])
        return
    for row in rows:
        if row.q:
            at = [depth for depth, out in enumerate(row.stands_out) if out]
            best = max(range(len(row.values)), key=lambda depth: row.values[depth])
            said = f"stands out at depth {_ranges(at)}" if at else "stands out nowhere"
            say(f"{row.name}: {said} (largest {row.values[best]:.3f} at depth {best}, p {row.p_best:.2g})")
    if (told := output / "pairs.json").is_file():
        places = parse_json(told.read_text(encoding="utf-8"))
        paired = sum(len(each["pairs"]) for each in places)
        alone = sum(sum(each["left_out"].values()) for each in places)
        say(f"{paired} pairs of statements; {alone} statements have no partner with this tokenizer ({told})")
    if (combined := output / "combined.json").is_file():
        for each in parse_json(combined.read_text(encoding="utf-8")):
            overlap, found = each["overlap"], [f"{a}-{b}" for a, b in each["segments"]]
            where = f"agree at depth {', '.join(found)}" if found else "agree no more than by chance"
            say(
                f"{each['domain']} ({each['language']}): methods {where} (overlap {overlap['value']}, by chance "
                f"{overlap['null_mean']:.1f}, q {each['q']:.2g})"
            )
    for answer in answers:
        say(f"{answer.hypothesis.id} {answer.hypothesis.claim['en']} {answer.sentence['en']}")
    say(f"Map: {output / 'map.svg'}; every value: {output / 'map.csv'}; page: {page}")


def _ranges(depths: list[int]) -> str:
    """`3-5, 8`"""
    runs: list[list[int]] = []
    for depth in depths:
        if runs and depth == runs[-1][1] + 1:
            runs[-1][1] = depth
        else:
            runs.append([depth, depth])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
