"""`study` and `demo`: the main job. Heavy imports are inside the commands."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sae_lens_med.commands.options import (
    AnswersFrom,
    AsJson,
    BatchTokens,
    Data,
    Device,
    Dtype,
    Encoding,
    Exclude,
    ExplanationSource,
    ExtraColumns,
    Limit,
    Model,
    Output,
    Permutations,
    Reading,
    Sae,
    Seed,
    Shots,
    SkipBadItems,
    Split,
    leave_out_unfit,
    load_data,
    open_model,
    print_json,
    print_tables,
)
from sae_lens_med.commands.output import say

if TYPE_CHECKING:
    from sae_lens_med.data import LoadedItems
    from sae_lens_med.metrics.inputs import ModelSide
    from sae_lens_med.study.run import StudyResult

DEMO_MODEL = "gemma-3-270m"
DEMO_SAE = "sae-lens-med-gemma-3-270m-res/blocks.9.hook_resid_post"
DEMO_DATA = "sample"


def register(app: typer.Typer) -> None:
    """Mount the commands of this module."""
    app.command()(study)
    app.command()(demo)


def study(
    model: Model,
    sae: Sae,
    data: Data,
    output: Output,
    split: Split = None,
    shots: Shots = 0,
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_tokens: BatchTokens = None,
    permutations: Permutations = 2000,
    seed: Seed = 0,
    n_shown: Annotated[int, typer.Option(min=0, max=10_000, help="How many items the report shows in full.")] = 6,
    skip_bad_items: SkipBadItems = False,
    exclude: Exclude = None,
    encoding: Encoding = None,
    answers_from: AnswersFrom = None,
    extra_columns: ExtraColumns = "refuse",
    limit: Limit = None,
    as_json: AsJson = False,
    explanation_source: ExplanationSource = None,
) -> None:
    """The main job: answers, SAE features, and their alignment with the explanations, in one folder with a report.

    Started again on the same folder, it skips what is finished; if the model, SAE, data or a setting differs, it stops
    and says what changed.

    Example: sae-lens-med study --model gemma-3-270m --sae sae-lens-med-gemma-3-270m-res/blocks.9.hook_resid_post
    --data sample --output my-study
    """
    from sae_lens_med.records import require_explanation_sources

    _require_output(output)
    reading = Reading(split, skip_bad_items, limit, explanation_source, exclude, encoding, answers_from, extra_columns)
    loaded = load_data(data, reading)
    require_explanation_sources(loaded.items, loaded.source)
    _run_study(
        model,
        sae,
        loaded,
        output,
        shots=shots,
        device=device,
        dtype=dtype,
        batch_tokens=batch_tokens,
        permutations=permutations,
        seed=seed,
        n_shown=n_shown,
        skip_bad_items=skip_bad_items,
        as_json=as_json,
    )


def demo(
    output: Output = Path("demo-study"),
    device: Device = "auto",
    batch_tokens: BatchTokens = None,
    permutations: Permutations = 2000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """What this tool shows, in minutes on two cores and without a network: two models whose reasons are known, then the
    study of a real one.

    The study is of gemma-3-270m and the packaged SAE on the packaged sample, and lies in the output folder. Then two
    model organisms that answer one exam equally well for different reasons are measured alike (twins/), and twins.html
    sets them beside each other.

    The sample's questions are illustrative: written for this package, not taken from an exam, not reviewed by a
    clinician. The demo shows how the tool works, not what a model knows.

    Example: sae-lens-med demo
    """
    from shlex import quote

    from sae_lens_med.study.twins import FOLDER, TWINS, run_twins, write_twins

    _require_output(output)
    loaded = load_data(DEMO_DATA, Reading())
    _run_study(
        DEMO_MODEL,
        DEMO_SAE,
        loaded,
        output,
        shots=0,
        device=device,
        dtype="float32",
        batch_tokens=batch_tokens,
        permutations=permutations,
        seed=seed,
        n_shown=6,
        skip_bad_items=False,
        as_json=as_json,
    )
    run_twins(output, _organism, on_stage=_tell)
    pages = write_twins(output)
    if not as_json:
        say(f"Twins:  {pages[1]}")
        say(f"        {pages[3]}")
        say(f"In the browser: sae-lens-med serve {quote(str(output))}")
        say(f"                sae-lens-med serve {' '.join(quote(str(output / FOLDER / name)) for name in TWINS)}")


def _organism(name: str) -> "ModelSide":
    from sae_lens_med.metrics.inputs import ModelSide

    opened, attached = open_model(name, name, "cpu", "float32")
    assert attached is not None
    return ModelSide(opened, attached)


def _tell(name: str, state: str) -> None:
    say(f"{name}{_STATES.get(state, f': {state}')}", err=True)


_STATES = {"run": "", "measure": "", "skip": ": done before, skipped"}


def _require_output(output: Path) -> None:
    from sae_lens_med.runs.folder import require_output
    from sae_lens_med.study.run import KIND

    require_output(output, KIND)


def _run_study(
    model: str,
    sae: str,
    data: "LoadedItems",
    output: Path,
    *,
    shots: int,
    device: str,
    dtype: str,
    batch_tokens: int | None,
    permutations: int,
    seed: int,
    n_shown: int,
    skip_bad_items: bool,
    as_json: bool,
) -> None:
    from sae_lens_med.errors import ReleaseError
    from sae_lens_med.features.collect import require_fit
    from sae_lens_med.prompts.shots import choose_shots
    from sae_lens_med.records import require_options
    from sae_lens_med.study.run import run_study

    require_options(data.items, "a study")
    examples, data = choose_shots(data, shots)
    opened, attached = open_model(model, sae, device, dtype)
    if attached is None:
        raise ReleaseError("a study needs an SAE; choose one with --sae (`sae-lens-med releases list`).")
    data = leave_out_unfit(data, skip_bad_items, lambda items: require_fit(opened, items, examples))
    result = run_study(
        opened,
        attached,
        data,
        output,
        shots=examples,
        permutations=permutations,
        seed=seed,
        n_shown=n_shown,
        batch_tokens=batch_tokens,
        on_stage=_tell,
    )
    if as_json:
        print_json(output, result.metrics)
        return
    title = f"{opened.provenance['name']} with {attached.source} on {data.source}, {len(data.items)} items"
    # By subject and by gold letter are in the report: dozens of rows of few items say little here.
    print_tables(title, [m for m in result.metrics if "=" not in m.group])
    _print_end(result)


def _print_end(result: "StudyResult") -> None:
    from sae_lens_med.runs.files import DISCLAIMER

    say(DISCLAIMER)
    # Not through rich, which would wrap a long path.
    say(f"Report: {result.report_html}")
    say(f"        {result.report_md}")
    say(f"        {result.folder / 'report.ko.html'}")
