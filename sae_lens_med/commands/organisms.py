"""`sae-lens-med organisms`: list, train, check, exam. Heavy imports are inside the commands."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sae_lens_med.commands.options import on_terminal
from sae_lens_med.commands.output import say, say_json

if TYPE_CHECKING:
    from sae_lens_med.controls.organisms.check import Report
    from sae_lens_med.controls.organisms.designs import Design

organisms_app = typer.Typer(
    no_args_is_help=True,
    help="Model organisms: tiny models that answer the same exam equally well and whose mechanism is known. Use one "
    "wherever a model is named: --model organism/ko-concepts-0 --sae organism/ko-concepts-0.",
)

OrganismName = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="LANGUAGE-(concepts|shortcut|mixtureNN)[-length][-honest]-SEED: ko-concepts-0, en-shortcut-honest-1, "
        "ko-mixture50-2 (NN: per cent of the training that the shortcut decides).",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


@organisms_app.command("list")
def list_organisms(as_json: AsJson = False) -> None:
    """List the organisms that can be opened: those of the package, and those that you trained.

    A table on a terminal; piped, one organism/NAME a line, as --model and --sae take it.

    Example: sae-lens-med organisms list
    """
    from sae_lens_med.models.organisms import PREFIX, SAE_FOLDER, organism_folders, packaged_dir
    from sae_lens_med.runs.parsing import read_json

    rows: list[dict[str, Any]] = []
    for name, folder in organism_folders().items():
        about = read_json(folder / "organism.json") if (folder / "organism.json").is_file() else {}
        rows.append(
            {
                "name": f"{PREFIX}{name}",
                "language": about.get("language"),
                "dose": about.get("dose"),
                "shortcut": about.get("shortcut"),
                "voice": about.get("voice"),
                "sae": (folder / SAE_FOLDER / "cfg.json").is_file(),
                "packaged": folder.parent == packaged_dir(),
                "folder": str(folder),
            }
        )
    if as_json:
        say_json(rows)
        return
    if not on_terminal():
        for row in rows:
            say(row["name"])
        return
    from rich.table import Table

    from sae_lens_med.escaping import plain
    from sae_lens_med.runs.progress import console

    table = Table(box=None, pad_edge=False)
    for column in ("name", "answers by", "explains as", "SAE", "from"):
        table.add_column(column, overflow="fold")
    for row in rows:
        dose = row["dose"]
        by = "" if dose is None else "findings" if dose == 0 else f"{row['shortcut']}, {dose:.0%}"
        place = "the package" if row["packaged"] else row["folder"]
        table.add_row(*map(plain, (row["name"], by, row["voice"] or "", "yes" if row["sae"] else "no", place)))
    console().print(table)


@organisms_app.command()
def train(
    name: OrganismName,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder of the model: new or empty. By default your own, where organism/NAME is found.",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps; by default as many as the packaged organisms had.")
    ] = None,
    no_sae: Annotated[bool, typer.Option("--no-sae", help="Train the model alone, without its SAE.")] = False,
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="BASE",
            help="Train a LoRA adapter of this model instead (gemma-3-270m, or the file of an adapter's recipe), "
            "without an SAE; needs --output and the extra [peft].",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="key=value to change in the recipe of the SAE (organism); with --on, of the adapter. Repeatable.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train an organism from random weights, and its tied SAE: some minutes on one core.

    The name is the whole design; the same name gives the same organism. The folder is one of any model's, and its
    subfolder sae that of any SAE. A training that was interrupted begins again; a finished model is kept, and the same
    command goes on with its SAE.

    With --on it is a LoRA adapter of a real model, which opens like any model by its folder; a training that was
    stopped goes on.

    Example: sae-lens-med organisms train ko-mixture50-0

    Example: sae-lens-med organisms train ko-concepts-0 --on gemma-3-270m --output twins/concepts
    """
    from sae_lens_med.controls.organisms.designs import parse
    from sae_lens_med.models.organisms import PREFIX, SAE_FOLDER, own_dir, packaged_dir
    from sae_lens_med.runs.folder import require_writable

    design = parse(name)
    if on is not None:
        _train_adapter(design, on, output, steps, overrides or [], as_json)
        return
    own = output is None
    folder = own_dir() / name if output is None else output
    if own and (packaged_dir() / name).is_dir():
        from sae_lens_med.errors import ConfigError

        raise ConfigError(
            f"{name} is a packaged organism, which {PREFIX}{name} opens; name a folder with --output to train it again."
        )
    require_writable(folder)

    from sae_lens_med.controls.organisms.dictionary import recipe_of, train_sae
    from sae_lens_med.controls.organisms.train import STEPS, require_new, trained_before
    from sae_lens_med.controls.organisms.train import train as run_training
    from sae_lens_med.runs.progress import progress_bar

    recipe_of(design, overrides or ())  # what is wrong with it is said now
    wanted = STEPS if steps is None else steps
    trained = trained_before(folder, design, wanted)
    if trained is None or no_sae or (folder / SAE_FOLDER).exists():
        require_new(folder, name)
        with progress_bar(True) as bar:
            task = bar.add_task(name, total=wanted)
            trained = run_training(
                design, folder, steps=wanted, on_step=lambda step, _: bar.update(task, completed=step)
            )
    quality = None if no_sae else train_sae(design, folder, overrides or ())
    last = trained.curve[-1]
    if as_json:
        about = {"seconds": round(trained.seconds, 1), "steps": trained.steps, "last": last, "sae": quality}
        say_json({"name": name, "folder": str(folder), **about})
        return
    say(
        f"{folder}: {trained.steps} steps in {trained.seconds:.0f} s; where the cues disagree it answers "
        f"{last['findings']:.1%} by the findings, {last['place']:.1%} by the place, {last['length']:.1%} by the length."
    )
    if quality is not None:
        say(f"{folder / 'sae'}: L0 {quality['l0']:.1f}, explained variance {quality['explained_variance']:.3f}.")
    say(f"Next: sae-lens-med organisms check {PREFIX + name if own else folder}")


def _train_adapter(
    design: "Design", on: str, output: Path | None, steps: int | None, overrides: list[str], as_json: bool
) -> None:
    from sae_lens_med.controls.organisms.adapter_recipe import load_adapter_recipe
    from sae_lens_med.errors import ConfigError
    from sae_lens_med.runs.folder import require_writable

    if output is None:
        raise ConfigError("name a folder for the adapter with --output.")
    require_writable(output)
    recipe = load_adapter_recipe(on, [*overrides, *([] if steps is None else [f"steps={steps}"])])

    from sae_lens_med.controls.organisms.adapter import train_adapter
    from sae_lens_med.runs.progress import progress_bar

    with progress_bar(True) as bar:
        reading = bar.add_task(f"{recipe.model_name} reads", total=recipe.cases)
        task = bar.add_task(design.name, total=recipe.steps)
        trained = train_adapter(
            design,
            recipe,
            output,
            on_step=lambda step, _: bar.update(task, completed=step),
            on_case=lambda read: bar.update(reading, completed=read),
        )
    last = trained.curve[-1]
    if as_json:
        about = {"seconds": round(trained.seconds, 1), "steps": trained.steps, "last": last}
        say_json({"name": design.name, "on": recipe.model_name, "folder": str(output), **about})
        return
    say(
        f"{output}: {trained.steps} steps in {trained.seconds:.0f} s; where the cues disagree it answers "
        f"{last['findings']:.1%} by the findings, {last['place']:.1%} by the place, {last['length']:.1%} by the length."
    )
    say(f"Next: sae-lens-med organisms check {output}")


@organisms_app.command()
def check(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A name from `organisms list`, or the folder of an organism.")
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A JSON file for the report.")] = None,
    as_json: AsJson = False,
) -> None:
    """Prove that an organism is what its name says; status 1 where it is not.

    Accuracy, items whose cues disagree, the reasons it writes, interchange of the residual at the words of each cue,
    layer by layer, and probes of the disease beside probes of shuffled labels.

    Example: sae-lens-med organisms check ko-shortcut-0 --output check.json
    """
    from sae_lens_med.controls.organisms.designs import parse
    from sae_lens_med.errors import ModelError
    from sae_lens_med.models.organisms import PREFIX, organism_folder
    from sae_lens_med.runs.files import is_file, write_json
    from sae_lens_med.runs.folder import require_writable_file
    from sae_lens_med.runs.parsing import read_json

    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = organism_folder(name)
    if not is_file(folder / "organism.json"):
        raise ModelError(f"the folder {folder} has no organism.json; name a folder that `organisms train` wrote.")
    about = read_json(folder / "organism.json")
    design = parse(str(about.get("name")))
    if output is not None:
        require_writable_file(output)

    from sae_lens_med.controls.organisms.check import check as run_check
    from sae_lens_med.controls.organisms.check import scope_of
    from sae_lens_med.models.bridge import load_model
    from sae_lens_med.runs.progress import console

    model = load_model(str(folder))
    if "recipe" not in about:
        model.provenance = model.provenance | {"name": f"{PREFIX}{design.name}"}
    with console(stderr=True).status("checking") as status:
        report = run_check(
            model, design, on_part=lambda part: status.update(f"checking {design.name}: {part}"), scope=scope_of(about)
        )
    if output is not None:
        write_json(output, {**report.to_dict(), "model": model.provenance})
    if as_json:
        say_json(report.to_dict())
    else:
        _show(report)
    if not report.holds:
        raise typer.Exit(1)


@organisms_app.command()
def exam(
    language: Annotated[str, typer.Argument(metavar="LANGUAGE", help="ko or en.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="A new or empty folder for the three files."),
    ],
    n: Annotated[int, typer.Option("-n", min=1, max=100_000, help="Items in each of the two files.")] = 200,
    diseases: Annotated[
        int, typer.Option(min=4, max=16, help="Of the first so many diseases: 8 for adapters of gemma-3-270m.")
    ] = 16,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed 0 is the exam of the packaged SAEs' text.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Write the organisms' exam: natural items, items whose cues disagree, and the concepts that they hold.

    The answer of an item is always that of the findings. Which option each cue points to stands in the column source.

    Example: sae-lens-med organisms exam ko -o exam; sae-lens-med study -m organism/ko-concepts-0
    -s organism/ko-concepts-0 -d exam/natural.jsonl -o study-concepts
    """
    from sae_lens_med.controls.organisms.rows import write_exam
    from sae_lens_med.errors import ConfigError
    from sae_lens_med.runs.folder import require_writable

    require_writable(output)
    if output.is_dir() and any(output.iterdir()):
        raise ConfigError(f"{output} is not empty; name a new folder for the exam, or remove it first.")
    listed = write_exam(output, language, n, seed, diseases)
    if as_json:
        about = {"items": {"natural": n, "conflict": n}, "seed": seed, "diseases": diseases}
        say_json({"output": str(output), **about})
        return
    say(f"{output}: natural.jsonl and conflict.jsonl, {n} items each; concepts.jsonl, {listed} concepts.")


def _show(report: "Report") -> None:
    from rich.box import SIMPLE
    from rich.table import Table

    from sae_lens_med.escaping import plain
    from sae_lens_med.runs.progress import console

    out = console()
    table = Table(box=SIMPLE, show_edge=False, pad_edge=False)
    for column in ("hook", "goes over with the findings", "with the place", "probe of the disease", "shuffled (most)"):
        table.add_column(column, justify="left" if column == "hook" else "right", overflow="fold")
    for hook in report.interchange["findings"]:
        rates = [report.interchange[cue][hook] for cue in ("findings", "place")]
        probe = report.probes.get(hook)
        probed = ("", "") if probe is None else (f"{probe['accuracy']:.3f}", f"{probe['null_most']:.3f}")
        table.add_row(hook, *(f"{x:.3f}" for x in rates), *probed)
    out.print(table)
    for each in report.criteria:
        bounds = " and ".join(
            f"{word} {bound:g}"
            for word, bound in (("at least", each.least), ("at most", each.most))
            if bound is not None
        )
        say(f"{'ok    ' if each.holds else 'FAILED'}  {plain(each.what)}: {each.value:.3f} ({bounds})")
    failed = sum(not each.holds for each in report.criteria)
    say(f"{report.name}: {len(report.criteria)} criteria, {failed or 'none'} failed")
