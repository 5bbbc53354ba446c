"""The instrument's data sheet: what each metric says of model organisms, whose mechanism is known.

    python benchmarks/organisms.py --output sheet
    python benchmarks/organisms.py --output sheet --organisms ko-concepts-0,ko-shortcut-0 --items 60

Each organism (`docs/organisms.md`) sits its own draw of the exam, which no SAE has seen: natural items, and items whose
cues disagree. Organisms that are not there are trained first. Beside the organism as it is stand the same with the
directions of its SAE shuffled and with its weights shuffled (`controls.untrained`): nothing may be claimed of them.

What counts is what a study would say: a metric *claims* where its number stands out after the correction over its
family (`study.counted`), and verdicts claim shared reasoning where at least one feature is mentioned and causal, the
larger p of both corrected (`feature_verdicts`, `both_q_rejects`). Over the seeds:

    sensitivity     share of organisms that answer by the findings of which a metric claims
    specificity     share of those that answer by a shortcut of which it does not

with Clopper-Pearson intervals. A metric that gives no number claims nothing, and is counted with the others.

Beside them what is simpler (`simpler`): the words that the organism names when it is asked why, the gradient times the
input at its embeddings, and RelP, each scored against the expert's spans by the code and the nulls of #6.

Every measurement is a process of its own, and a line of `rows.jsonl`; a run that was ended goes on from there. The
table is `sheet.json` and is printed.
"""

import argparse
import csv
import io
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import reporting
from reporting import say, tell

if TYPE_CHECKING:
    from sae_lens_med.controls.organisms.cases import Kind

FAMILIES = ("concepts", "shortcut", "mixture25", "mixture50", "mixture75", "shortcut-honest", "shortcut-length")
SEEDS = {"concepts": 10, "shortcut": 10}
"""Seeds of a family; of the others `OTHER_SEEDS`."""
OTHER_SEEDS = 3
KINDS: "tuple[Kind, ...]" = ("natural", "conflict")
ALTERED = ("shuffled_decoder", "random_model")
READ_OUT = ("retrieval", "difference")
CAUSAL = ("plausibility", "comprehensiveness", "sufficiency", "causal-agreement", "verdicts", "reasoning")
PERMUTATIONS = 1999
EXAM_SEED = 1000
"""Of the exam of seed 0; no SAE's text has it."""


@dataclass(frozen=True, slots=True)
class Job:
    """One measurement."""

    organism: str
    kind: "Kind"
    altered: str
    items: int
    sets: int

    @property
    def seed(self) -> int:
        """Of the organism."""
        return int(self.organism.rsplit("-", 1)[1])

    @property
    def family(self) -> str:
        """The name without language and seed."""
        return self.organism.rsplit("-", 1)[0].split("-", 1)[1]


def main() -> None:
    """Train what is missing, measure what is missing, print the table."""
    options = arguments()
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    names = options.organisms.split(",") if options.organisms else every_organism(options.language)
    result = reporting.begin("organisms", options, {"items": options.items, "sets": options.sets})
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are started below: the models are small
    pool = ProcessPoolExecutor(options.threads, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1)
    with pool:
        for _ in every(pool, trained, [name for name in names if not is_there(name)]):
            pass
        jobs = [job for name in names for job in jobs_of(name, options.items, options.sets)]
        jobs.sort(key=lambda job: (job.altered, KINDS.index(job.kind)))  # what matters most first
        rows_file = output / "rows.jsonl"
        done = [json.loads(line) for line in rows_file.read_text().splitlines()] if rows_file.is_file() else []
        missing = [job for job in jobs if asdict(job) not in [row["job"] for row in done]]
        for row in every(pool, measured, missing):
            with rows_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            done.append(row)
    wanted = [asdict(job) for job in jobs]
    rows = [row for row in done if row["job"] in wanted]
    result |= {"sheet": sheet(rows), "rows": rows}
    reporting.write_result(output / "sheet.json", result)
    show(result["sheet"])
    say(f"\n{output / 'sheet.json'}")


def arguments() -> argparse.Namespace:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("--output", type=Path, required=True, help="folder of rows.jsonl and sheet.json; a run goes on from it")
    add("--organisms", help="names, with commas; without it, those of the data sheet")
    add("--language", default="ko", help="of the organisms of the data sheet (ko)")
    add("--items", type=int, default=160, help="items of each exam (160)")
    add("--sets", type=int, default=59, help="draws of stand-ins (59)")
    add("--threads", type=int, default=reporting.usable_cores(), help="processes side by side (all usable cores)")
    made.set_defaults(device="cpu")
    return made.parse_args()


def every_organism(language: str) -> list[str]:
    """The organisms of the data sheet, seed by seed."""
    most = max(SEEDS.values())
    return [
        f"{language}-{family}-{seed}"
        for seed in range(most)
        for family in FAMILIES
        if seed < SEEDS.get(family, OTHER_SEEDS)
    ]


def jobs_of(name: str, items: int, sets: int) -> list[Job]:
    """What is measured of an organism: both kinds of items, and of the first seeds of the twins what is altered."""
    jobs = [Job(name, kind, "", items, sets) for kind in KINDS]
    first = jobs[0].family in SEEDS and jobs[0].seed < OTHER_SEEDS
    return jobs + [Job(name, "natural", altered, items, sets) for altered in ALTERED if first]


def every(pool: ProcessPoolExecutor, work: Any, given: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """The results of `work` as they come; each is said with its seconds."""
    for future in as_completed([pool.submit(work, each) for each in given]):
        row = future.result()
        tell(f"{work.__name__} {row['what']}: {row['seconds']:.0f} s")
        yield row


def is_there(name: str) -> bool:
    """Whether an organism is trained, with its SAE, and checked."""
    from sae_lens_med.models.organisms import SAE_FOLDER, organism_folders, own_dir

    folder = organism_folders().get(name)
    return folder is not None and (folder / SAE_FOLDER / "cfg.json").is_file() and checked(own_dir(), name).is_file()


def checked(own: Path, name: str) -> Path:
    """Where the report of `organisms check` on an organism is kept."""
    return own / "checks" / f"{name}.json"


# --- what the processes do ------------------------------------------------------------------------------------------


def trained(name: str) -> dict[str, Any]:
    """Train an organism with its SAE where it is not there, and check that it is what its name says."""
    from sae_lens_med import load_model
    from sae_lens_med.controls.organisms.check import check
    from sae_lens_med.controls.organisms.designs import parse
    from sae_lens_med.controls.organisms.dictionary import train_sae
    from sae_lens_med.controls.organisms.train import STEPS, train, trained_before
    from sae_lens_med.models.organisms import SAE_FOLDER, organism_folders, own_dir
    from sae_lens_med.runs.files import is_file, write_json
    from sae_lens_med.runs.parsing import read_json

    began, design = time.monotonic(), parse(name)
    folder = organism_folders().get(name, own_dir() / name)
    if trained_before(folder, design, STEPS) is None:
        train(design, folder)
    if not is_file(folder / SAE_FOLDER / "cfg.json"):
        train_sae(design, folder)
    kept = checked(own_dir(), name)
    if not is_file(kept):
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, check(load_model(f"organism/{name}"), design).to_dict())
    report = read_json(kept)
    failed = [each["what"] for each in report["criteria"] if not each["holds"]]
    return {"what": f"{name}{': ' if failed else ''}{'; '.join(failed)}", "seconds": time.monotonic() - began}


def measured(job: Job) -> dict[str, Any]:
    """What the metrics say of one job."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="organisms-") as name:
        row = _measured(job, Path(name))
    what = " ".join(filter(None, (job.organism, job.kind, job.altered)))
    return {"what": what, "job": asdict(job), **row, "seconds": round(time.monotonic() - began, 1)}


def _measured(job: Job, folder: Path) -> dict[str, Any]:
    from simpler import simpler_scores

    from sae_lens_med import load_model, load_sae
    from sae_lens_med.alignment import METRICS
    from sae_lens_med.concepts.matching import ConceptMatcher
    from sae_lens_med.controls.collect import firing_rates
    from sae_lens_med.controls.organisms.cases import concepts, exam
    from sae_lens_med.features.collect import collect
    from sae_lens_med.features.store import load_features
    from sae_lens_med.metrics.inputs import Inputs, ModelSide, label_concepts
    from sae_lens_med.metrics.settings import MetricSettings
    from sae_lens_med.models.organisms import own_dir
    from sae_lens_med.runs.files import is_file
    from sae_lens_med.runs.parsing import read_json
    from sae_lens_med.study.counted import confirmatory

    model, sae = load_model(f"organism/{job.organism}"), load_sae(f"organism/{job.organism}")
    language = job.organism.split("-", 1)[0]
    items = tuple(exam(language, job.kind, job.items, seed=EXAM_SEED + job.seed))
    features = load_features(collect(model, sae, items, output=folder / "own", progress=False))
    if job.altered:
        rates = firing_rates(features)
        model, sae = _altered(job.altered, model, sae, items, rates)
        features = load_features(collect(model, sae, items, output=folder / "altered", progress=False))
    inputs = Inputs(
        items=items,
        features=features,
        permutations=PERMUTATIONS,
        seed=job.seed,
        concepts=label_concepts(items, features.texts, ConceptMatcher(concepts(language))),
        open_model=lambda: ModelSide(model, sae, progress=False),
        settings=MetricSettings(causal_items=job.items, causal_sets=job.sets),
    )
    values, notes, files = [], [], {}
    names = (*READ_OUT, *CAUSAL) if not job.altered else tuple(each for each in CAUSAL if each != "reasoning")
    seconds = {}
    for name in names:
        at = time.monotonic()
        found = METRICS[name].measure(inputs)
        seconds[name] = round(time.monotonic() - at, 1)
        values += [value for value in found.metrics if value.group == "all"]
        notes += found.notes
        files |= found.files
    claims = {each.value.name: each.stands_out for each in confirmatory(values)}
    verdict = next((value for value in values if value.name == "alignment/verdict_shared_reasoning"), None)
    if verdict is not None:
        claims[verdict.name] = verdict.extra["both_q_rejects"] > 0
    check = checked(own_dir(), job.organism)
    return {
        "claims": claims,
        "values": {
            (value.name if value.variant in ("sae", "model") else f"{value.name} {value.variant}"): short(value)
            for value in values
        },
        "drivers": _drivers(inputs, files.get("verdicts.csv")),
        "simpler": {} if job.altered else simpler_scores(inputs),
        "holds": read_json(check)["holds"] if is_file(check) else None,
        "notes": notes,
        "metric_seconds": seconds,
    }


def _altered(how: str, model: Any, sae: Any, items: Any, rates: Any) -> tuple[Any, Any]:
    """The organism with shuffled weights, or its SAE with shuffled directions; features fire as often as before."""
    from sae_lens_med.controls.collect import activations
    from sae_lens_med.controls.untrained import match_rates, permute_weights, shuffled_sae
    from sae_lens_med.metrics.inputs import ModelSide

    if how == "random_model":
        permute_weights(model)
    else:
        sae = shuffled_sae(sae)
    return model, match_rates(sae, activations(ModelSide(model, sae, progress=False), items), rates)


def short(value: Any) -> dict[str, Any]:
    """What is kept of a value."""
    kept = ("span_low", "alone_low", "matched_ratio_min", "matched_ratio_max", "pairs", "both_q_rejects")
    extra = {name: x for name, x in value.extra.items() if name in kept or name.startswith("n_")}
    return {"value": value.value, "null": value.null_mean, "p": value.p, "n": value.n, **extra}


def _drivers(inputs: Any, table: str | None) -> dict[str, int]:
    """How many features of places, and how many others, are called hidden drivers, or shared reasoning."""
    from sae_lens_med.alignment.concept_features import concept_features

    found = {
        f"{who}_{what}": 0 for who in ("place", "other") for what in ("tested", "hidden_driver", "shared_reasoning")
    }
    if table is None:
        return found
    category = {concept.id: concept.category for concept in inputs.concepts.concepts}
    places = {f for concept, own in concept_features(inputs).items() if category[concept] == "place" for f in own}
    for row in csv.DictReader(io.StringIO(table)):
        who = "place" if int(row["feature"]) in places else "other"
        if row["verdict"] != "untested":
            found[f"{who}_tested"] += 1
        if row["verdict"] in ("hidden_driver", "shared_reasoning"):
            found[f"{who}_{row['verdict']}"] += 1
    return found


# --- the table ------------------------------------------------------------------------------------------------------


def sheet(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Kind of items -> family (and what was altered) -> metric -> how many organisms, and of how many it claims."""
    found: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    for row in rows:
        job = Job(**row["job"])
        family = " ".join(filter(None, (job.family, job.altered)))
        of = found.setdefault(job.kind, {}).setdefault(family, {})
        said = {name: row["claims"].get(name, False) for name in CLAIMS}
        said |= {f"simpler/{name}": score["p"] < 0.05 for name, score in row["simpler"].items()}
        said["hidden driver"] = row["drivers"]["place_hidden_driver"] > 0
        for name, claimed in said.items():
            value = row["values"].get(name) or row["simpler"].get(name.removeprefix("simpler/")) or {}
            cell = of.setdefault(name, {"organisms": 0, "claims": 0, "values": []})
            cell["organisms"] += 1
            cell["claims"] += bool(claimed)
            if "value" in value:
                cell["values"].append(value["value"])
    for families in found.values():
        for cells in families.values():
            for cell in cells.values():
                cell["interval"] = clopper_pearson(cell["claims"], cell["organisms"])
    return found


CLAIMS = {
    "alignment/retrieval_mrr": "#1 retrieval, MRR",
    "alignment/matched_minus_mismatched": "#2 matched - mismatched",
    "alignment/plausibility_auprc": "#6 where the expert looks, AUPRC",
    "alignment/comprehensiveness": "#7 comprehensiveness",
    "alignment/sufficiency": "#8 sufficiency",
    "alignment/causal_agreement_excess": "#9 causal agreement",
    "alignment/reasoning_agreement": "#11 its reasons name what moves it",
    "alignment/verdict_shared_reasoning": "#16 shared reasoning",
    "hidden driver": "#16 hidden driver: the place",
    "simpler/ask": "simpler: what it says",
    "simpler/gradient": "simpler: gradient x input",
    "simpler/relp": "simpler: RelP",
}
"""What can be claimed -> its row of the table."""


def clopper_pearson(k: int, n: int) -> tuple[float, float]:
    """The exact 95 % interval of a share."""
    from scipy.stats import binomtest

    interval = binomtest(k, n).proportion_ci(0.95, method="exact")
    return float(interval.low), float(interval.high)


def show(found: dict[str, Any]) -> None:
    """Print the sheet: for each kind of items, in how many organisms of each family a metric claims."""
    for kind, families in found.items():
        header = [f"{kind} items", *families]
        rows = []
        for name, label in CLAIMS.items():
            cells = []
            for cells_of in families.values():
                cell = cells_of.get(name)
                if cell is None:
                    cells.append("")
                    continue
                mean = f" ({sum(cell['values']) / len(cell['values']):.3g})" if cell["values"] else ""
                cells.append(f"{cell['claims']} of {cell['organisms']}{mean}")
            if any(cells):
                rows.append([label, *cells])
        say(f"\n{reporting.markdown(header, rows)}")


if __name__ == "__main__":
    main()
