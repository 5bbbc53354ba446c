"""The data sheet of model organisms at a real size: LoRA adapters of Gemma 3 270M that answer one exam for two reasons.

    python benchmarks/organisms_gemma.py --output sheet --sets 39

In the folder, each made where it is not there: the exam, the tied SAE (recipe `organism-gemma-3-270m`, trained on the
base, whose first layers the adapters leave as they are), the two adapters (recipe `adapters/gemma-3-270m`), what
`organisms check` says of each, and what the metrics say of each on natural items that no SAE has seen. Every step is
said with its CPU seconds, of all threads, and those of the clock. The table is `sheet.json` and is printed.

A metric *claims* where a study would: after the correction over its family, with nothing that holds it back
(`study.counted`). One organism of each kind: what is said holds of these two.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import reporting
from organisms import CLAIMS, EXAM_SEED, PERMUTATIONS, READ_OUT, short
from reporting import say, tell

BASE, RECIPE = "gemma-3-270m", "organism-gemma-3-270m"
TWINS = ("ko-concepts-0", "ko-shortcut-0")
KINDS: dict[str, tuple[str, ...]] = {
    "read": READ_OUT,
    "look": ("plausibility",),
    "remove": ("comprehensiveness", "sufficiency"),
    "simpler": (),
}
"""What can be read off, where the model looks, what it needs, and what is simpler -> the metrics of each."""
EXAM_ITEMS = 240
"""Items of each file of the SAE's text."""


def main() -> None:
    """Make what is missing, print the table."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("--output", type=Path, required=True, help="folder of everything; a run goes on from it")
    add("--items", type=int, default=60, help="items that are measured (60)")
    add("--causal-items", type=int, default=24, help="items of which features are removed (24)")
    add("--sets", type=int, default=39, help="draws of stand-ins (39)")
    add("--sizes", default="20+80", help="numbers of features that are removed together (20+80)")
    add("--threads", type=int, default=reporting.usable_cores(), help="on the CPU (all usable cores)")
    made.set_defaults(device="cpu")
    options = made.parse_args()
    settings = {name: getattr(options, name) for name in ("items", "causal_items", "sets", "sizes")}
    result = reporting.begin("organisms_gemma", options, settings)
    import torch

    torch.set_num_threads(options.threads)
    output: Path = options.output
    steps = Steps(output / "steps.json")
    for name in TWINS:
        steps(f"train {name}", lambda name=name: train_twin(name, output))
    steps("sae", lambda: train_sae(output))
    for kind in KINDS:
        for name in TWINS:
            steps(f"{kind} {name} {settings}", lambda name=name, kind=kind: measured(name, kind, output, settings))
    for name in TWINS:
        steps(f"check {name}", lambda name=name: checked(name, output))
    result |= {"sheet": sheet(steps.done, settings), "steps": steps.done}
    reporting.write_result(output / "sheet.json", result)
    show(result["sheet"])
    say(f"\n{output / 'sheet.json'}")


class Steps:
    """What is done is done once: name -> what it gave, and its seconds, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def __call__(self, name: str, work: Callable[[], dict[str, Any]]) -> None:
        from sae_lens_med.runs.files import write_json

        if name not in self.done:
            began, cpu = time.monotonic(), time.process_time()
            found = work()
            seconds = {
                "cpu_seconds": round(time.process_time() - cpu, 1),
                "wall_seconds": round(time.monotonic() - began, 1),
            }
            self.done[name] = {**seconds, **found}
            write_json(self.path, self.done)
        tell(f"{name}: {self.done[name]['cpu_seconds']:.0f} CPU seconds")


def train_sae(output: Path) -> dict[str, Any]:
    """The exam, and the SAE of the base on it."""
    from sae_lens_med import load_model
    from sae_lens_med.controls.organisms.adapter_recipe import load_adapter_recipe
    from sae_lens_med.controls.organisms.rows import write_exam
    from sae_lens_med.training.recipe import load_recipe
    from sae_lens_med.training.run import train

    write_exam(output / "exam", "ko", EXAM_ITEMS, 0, load_adapter_recipe(BASE).diseases)
    recipe = load_recipe(RECIPE, [f"data.folder={output / 'exam'}"])
    folder = output / "sae"
    trained = train(recipe, load_model(BASE), folder, activations=output / "activations", resume=folder.exists())
    return {"quality": trained.quality.to_dict()}


def train_twin(name: str, output: Path) -> dict[str, Any]:
    """One adapter."""
    from sae_lens_med.controls.organisms.adapter import train_adapter
    from sae_lens_med.controls.organisms.adapter_recipe import load_adapter_recipe
    from sae_lens_med.controls.organisms.designs import parse

    trained = train_adapter(
        parse(name),
        load_adapter_recipe(BASE),
        output / name,
        on_step=lambda step, point: tell(f"{name}: step {step}, {point}") if point else None,
    )
    return {"curve": list(trained.curve)}


def checked(name: str, output: Path) -> dict[str, Any]:
    """What `organisms check` says."""
    from sae_lens_med import load_model
    from sae_lens_med.controls.organisms.check import check, scope_of
    from sae_lens_med.controls.organisms.designs import parse
    from sae_lens_med.runs.parsing import read_json

    scope = scope_of(read_json(output / name / "organism.json"))
    return {"report": check(load_model(str(output / name)), parse(name), scope=scope).to_dict()}


def measured(name: str, kind: str, output: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What the metrics of one of `KINDS` say."""
    from simpler import simpler_scores

    from sae_lens_med import load_model, load_sae
    from sae_lens_med.alignment import METRICS
    from sae_lens_med.concepts.matching import ConceptMatcher
    from sae_lens_med.controls.organisms.adapter_recipe import load_adapter_recipe
    from sae_lens_med.controls.organisms.cases import concepts, exam
    from sae_lens_med.features.collect import collect
    from sae_lens_med.features.store import load_features
    from sae_lens_med.metrics.inputs import Inputs, ModelSide, label_concepts
    from sae_lens_med.metrics.settings import MetricSettings
    from sae_lens_med.study.counted import confirmatory

    model, sae = load_model(str(output / name)), load_sae(str(output / "sae"))
    diseases = load_adapter_recipe(BASE).diseases
    n = settings["causal_items"] if kind == "remove" else settings["items"]
    items = tuple(exam("ko", "natural", settings["items"], EXAM_SEED, diseases))
    folder = output / f"features-{name}-{settings['items']}"
    features = load_features(
        folder if (folder / "manifest.json").is_file() else collect(model, sae, items, output=folder, progress=False)
    )
    inputs = Inputs(
        items=items,
        features=features,
        permutations=PERMUTATIONS,
        seed=0,
        concepts=label_concepts(items, features.texts, ConceptMatcher(concepts("ko", diseases))),
        open_model=lambda: ModelSide(model, sae, progress=False),
        settings=MetricSettings(
            causal_items=n,
            causal_sets=settings["sets"],
            causal_sizes=tuple(int(size) for size in settings["sizes"].split("+")),
        ),
    )
    values, notes = [], []
    for metric in KINDS[kind]:
        found = METRICS[metric].measure(inputs)
        values += [value for value in found.metrics if value.group == "all"]
        notes += found.notes
    return {
        "claims": {each.value.name: each.stands_out for each in confirmatory(values)},
        "held_back": {each.value.name: [str(why) for why in each.held_back] for each in confirmatory(values)},
        "values": {
            (value.name if value.variant in ("sae", "model") else f"{value.name} {value.variant}"): short(value)
            for value in values
        },
        "simpler": simpler_scores(inputs, ask=False) if kind == "simpler" else {},
        "notes": notes,
    }


def sheet(done: dict[str, dict[str, Any]], settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Metric -> organism -> value, null, p, and whether it claims."""
    found: dict[str, dict[str, Any]] = {}
    for name in TWINS:
        for kind in KINDS:
            row = done[f"{kind} {name} {settings}"]
            for metric in CLAIMS:
                if metric in row["values"]:
                    found.setdefault(metric, {})[name] = {
                        **row["values"][metric],
                        "claims": row["claims"].get(metric, False),
                    }
            for simple, score in row["simpler"].items():
                found.setdefault(f"simpler/{simple}", {})[name] = {**score, "claims": score["p"] < 0.05}
    return found


def show(found: dict[str, dict[str, Any]]) -> None:
    """Print the sheet."""
    rows = []
    for metric, of in found.items():
        cells = [
            f"{'claims' if cell['claims'] else 'does not'} ({cell['value']:.3f}, {cell['null']:.3f}, p {cell['p']:.3g})"
            if (cell := of.get(name))
            else "no number"
            for name in TWINS
        ]
        rows.append([CLAIMS[metric], *cells])
    say(f"\n{reporting.markdown(['natural items', *TWINS], rows)}")


if __name__ == "__main__":
    main()
