"""Is an organism what its name says? Proved on the model, not assumed from its training.

    accuracy      natural items: the share that it answers as the exam does
    conflicts     items whose cues disagree: the share that it answers by each cue
    reasons       the share of natural items after whose letter it writes, word for word up to the drug, the reasons of
                  its voice
    interchange   the residual at the words of one cue, and at those that see them in the first layer, is taken from a
                  donor: the same text in which this cue alone points to another option. The share of answers that go
                  over to the donor's option, at the embeddings and behind each layer. The cue that decides takes the
                  answer along, the other does not
    probes        a linear probe reads the disease off the residual at the word "diagnosis" of the closing question,
                  where no word says it, on conflict items; accuracy on held-out items, beside probes of shuffled labels

What is required is in `criteria`; everything else is shown. Texts and donors are of `CHECK_SEED`, which no training
and no exam of this package uses.

Of an adapter of a real model (`adapter`) the voice and the disease are not asked: neither was trained. Interchange is
there at the last hook before the layers that were changed, on fewer items, with the residual at the words of the cue
alone: a real model's first layers see the whole text.

Out of scope: what metrics say of an organism.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sae_lens_med.controls.organisms.cases import Case, Cue, Kind, cases, item_of, write
from sae_lens_med.controls.organisms.designs import Design
from sae_lens_med.controls.organisms.tables import CLOSINGS, DIAGNOSIS, DISEASES, REASONS, SHOWN
from sae_lens_med.controls.organisms.texts import reasons
from sae_lens_med.errors import ModelError
from sae_lens_med.models.bridge import MedBridge, padded
from sae_lens_med.models.hf_hooks import hf_hooks
from sae_lens_med.models.residuals import ResidualReader, ready
from sae_lens_med.prompts.tokens import question_prompt
from sae_lens_med.records import OPTION_LETTERS, BoolArray, IntArray, Prompt, Record

CHECK_SEED = 7_000_003
N_ITEMS, N_PAIRS, N_PROBED = 400, 200, 800
N_REASONS = 100
ADAPTER_ITEMS, ADAPTER_PAIRS = 64, 32
"""Of an organism on a real model, where each pass takes a third of a second."""
BATCH = 100
SHUFFLES = 20
STAYS, GOES = 0.05, 0.9
"""The most answers that may follow a cue that does not decide, and the least that follow the one that does."""
RIGHT = 0.98
TOLD = 0.9
"""The least accuracy of a probe, and share of reasons."""
NEAR_DOSE = 0.15
"""How far the probability of the shortcut's option may be from a mixture's dose, on average over conflict items."""
AT = "blocks.0.hook_resid_post"
"""Where the SAEs of organisms read; interchange has to hold there."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What of an organism is looked at, and on how much of the exam."""

    diseases: int = len(DISEASES)
    at: str = AT
    """Where interchange has to hold."""
    hooks: tuple[str, ...] = ()
    """Where else it is measured; empty: at the embeddings and behind every layer."""
    reach: int | None = None
    """Tokens from the first word of a cue on that see it before `at` and are exchanged with it; None: the window of the
    model's first layer."""
    items: int = N_ITEMS
    pairs: int = N_PAIRS
    trained_whole: bool = True
    """Whether reasons and diseases were trained, too."""


def scope_of(about: Mapping[str, Any]) -> Scope:
    """What is to be looked at, by an organism's own `organism.json`."""
    recipe = about.get("recipe")
    if recipe is None:
        return Scope()
    at = f"blocks.{recipe['first_layer'] - 1}.hook_resid_post"
    return Scope(recipe["diseases"], at, (at,), reach=1, items=ADAPTER_ITEMS, pairs=ADAPTER_PAIRS, trained_whole=False)


@dataclass(frozen=True, slots=True)
class Criterion(Record):
    """One thing that an organism has to show."""

    what: str
    value: float
    least: float | None
    most: float | None

    @property
    def holds(self) -> bool:
        """Whether the value lies within the bounds."""
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)


@dataclass(frozen=True, slots=True)
class Report:
    """What was found of one organism."""

    name: str
    accuracy: float
    follows: dict[str, float]
    """Cue -> share of conflict items answered by it."""
    probability: dict[str, float]
    """Cue -> mean probability of its option among the options of conflict items."""
    reasons: float | None
    """None where the voice was not trained."""
    interchange: dict[str, dict[str, float]]
    """Cue -> hook -> share of answers that go over to the donor's option."""
    probes: dict[str, dict[str, float]]
    """Hook -> `accuracy`, `null_mean`, `null_most`; empty where the disease was not trained."""
    criteria: tuple[Criterion, ...]

    @property
    def holds(self) -> bool:
        """Whether it is what its name says."""
        return all(criterion.holds for criterion in self.criteria)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "name": self.name,
            "holds": self.holds,
            "accuracy": self.accuracy,
            "follows": self.follows,
            "probability": self.probability,
            "reasons": self.reasons,
            "interchange": self.interchange,
            "probes": self.probes,
            "criteria": [{**each.to_dict(), "holds": each.holds} for each in self.criteria],
        }


def check(
    model: MedBridge, design: Design, on_part: Callable[[str], None] | None = None, scope: Scope | None = None
) -> Report:
    """Look at an organism; `on_part` is told what is being looked at. Raises `ModelError` for a model that has not the
    layers of an organism."""
    say, scope = on_part or (lambda _part: None), scope or Scope()
    runs = Runs(model, scope)
    say("natural items")
    natural = _asked(model, design, "natural", scope.items, scope.diseases)
    accuracy = float(np.mean(runs.answers(natural.prompts) == natural.by("findings")))
    say("conflicts")
    conflict = _asked(model, design, "conflict", scope.items, scope.diseases)
    p = runs.probabilities(conflict.prompts)
    every = np.arange(len(p))
    cues: tuple[Cue, ...] = ("findings", "place", "length")
    follows = {cue: float(np.mean(p.argmax(axis=1) == conflict.by(cue))) for cue in cues}
    probability = {cue: float(p[every, conflict.by(cue)].mean()) for cue in cues}
    told, probes = None, {}
    if scope.trained_whole:
        say("reasons")
        told = runs.says(natural.cases[:N_REASONS], design)
    say("interchange")
    swapped = {cue: interchange(runs, design, cue, scope.pairs) for cue in ("findings", "place")}
    if scope.trained_whole:
        say("probes")
        probes = probe(model, design)
    report = Report(design.name, accuracy, follows, probability, told, swapped, probes, ())
    return replace(report, criteria=criteria(report, design, scope.at))


def criteria(found: Report, design: Design, at: str = AT) -> tuple[Criterion, ...]:
    """What an organism of this design must show."""
    needed = [Criterion("accuracy on natural items", found.accuracy, RIGHT, None)]
    if 0 < design.dose < 1:
        both = found.follows["findings"] + found.follows[design.shortcut]
        needed += [
            Criterion("conflicts answered by one of the two cues", both, RIGHT, None),
            Criterion(
                f"mean probability of the option of the {design.shortcut}, in conflicts",
                found.probability[design.shortcut],
                max(0.0, design.dose - NEAR_DOSE),
                min(1.0, design.dose + NEAR_DOSE),
            ),
        ]
    else:
        own: Cue = design.shortcut if design.dose else "findings"
        needed.append(Criterion(f"conflicts answered by the {own}", found.follows[own], RIGHT, None))
        for cue, rates in found.interchange.items():
            bounds = (GOES, None) if cue == own else (None, STAYS)
            needed.append(Criterion(f"answers that go over with the {cue}, at {at}", rates[at], *bounds))
    if found.reasons is not None:
        needed.append(Criterion("reasons in the words of its voice", found.reasons, TOLD, None))
    if not found.probes:
        return tuple(needed)
    best = max(found.probes.values(), key=lambda each: each["accuracy"])
    needed += [
        Criterion("probe of the disease, best layer", best["accuracy"], TOLD, None),
        Criterion("the same with shuffled labels, the largest", best["null_most"], None, 0.25),
    ]
    return tuple(needed)


@dataclass(frozen=True, slots=True)
class Asked:
    """Cases, and the prompts that they are."""

    cases: list[Case]
    prompts: list[Prompt]

    def by(self, cue: Cue) -> IntArray:
        """`[n]`: the option that a cue points to."""
        return np.array([case.answer(cue) for case in self.cases], dtype=np.int64)


def _asked(model: MedBridge, design: Design, kind: Kind, n: int = N_ITEMS, diseases: int = len(DISEASES)) -> Asked:
    drawn = cases(kind, n, CHECK_SEED, diseases)
    return Asked(drawn, [_prompt(model, case, design.language) for case in drawn])


def _prompt(model: MedBridge, case: Case, language: str) -> Prompt:
    return question_prompt(item_of(case, language, "checked", "independent"), model.text_tokenizer)


class Runs:
    """The plain model, run on prompts in batches."""

    def __init__(self, model: MedBridge, scope: Scope | None = None) -> None:
        plain = ready(model)
        if plain is None or len(plain.model.layers) < 2:
            raise ModelError(f"{model.provenance['name']} is no model organism; `organisms check` takes its name.")
        self.model, self.plain, self.scope = model, plain, scope or Scope()
        self.hooks = self.scope.hooks or (
            "blocks.0.hook_resid_pre",
            *(f"blocks.{i}.hook_resid_post" for i in range(len(plain.model.layers))),
        )

    def answers(self, prompts: Sequence[Prompt]) -> IntArray:
        """`[n]`: the option whose letter is likeliest."""
        return self.probabilities(prompts).argmax(axis=1).astype(np.int64)

    @torch.no_grad()
    def probabilities(self, prompts: Sequence[Prompt], swap: "Swap | None" = None) -> npt.NDArray[np.float64]:
        """`[n, options]`: of each letter among the letters, under the swap."""
        found = []
        for start in range(0, len(prompts), BATCH):
            own = slice(start, start + BATCH)
            tokens, mask = padded(self.model, [prompt.token_ids for prompt in prompts[own]])
            hooks = [] if swap is None else [swap.part(own, tokens.shape[1])]
            with hf_hooks(self.plain, hooks):
                logits = self.plain(input_ids=tokens, use_cache=False).logits
            last = logits[torch.arange(len(tokens)), mask.sum(dim=1) - 1]
            letters = torch.tensor([prompt.letter_token_ids for prompt in prompts[own]], device=last.device)
            found.append(last.gather(1, letters).double().softmax(dim=1).cpu().numpy())
        return np.concatenate(found)

    @torch.no_grad()
    def says(self, asked: Sequence[Case], design: Design) -> float:
        """Share of the cases after whose letter the likeliest words are, one after the other, those of the voice, up to
        the drug. The shortcut's, where it decides more than half."""
        tokenizer, right = self.model.text_tokenizer, 0
        cue: Cue = design.shortcut if design.dose > 0.5 else "findings"
        for case in asked:
            prompt = _prompt(self.model, case, design.language)
            letter = OPTION_LETTERS[case.answer(cue)]
            lead = f"{prompt.text} {letter}\n{REASONS[design.language]}"
            n = len(tokenizer(lead).input_ids)
            why, drug = reasons(case, design, cue), DISEASES[case.options[case.answer(cue)]].drug.of(design.language)
            ids = torch.tensor([tokenizer(f"{lead} {why[: why.index(drug) + len(drug)]}").input_ids])
            likeliest = self.plain(input_ids=ids.to(self.plain.device), use_cache=False).logits[0].argmax(dim=1).cpu()
            right += bool((likeliest[n - 1 : -1] == ids[0, n:]).all())
        return right / len(asked)


@dataclass(frozen=True, slots=True)
class Swap:
    """Residuals of donors that take the place of the recipients' at some tokens of one hook."""

    hook: str
    donors: list[torch.Tensor]
    """One `[n_tokens_i, d_model]` per prompt."""
    at: list[BoolArray]
    """One `[n_tokens_i]` per prompt."""

    def part(self, own: slice, width: int) -> tuple[str, Callable[..., torch.Tensor]]:
        """The hook of a batch, padded to `width`."""
        donors, at = self.donors[own], self.at[own]
        new = torch.zeros(len(donors), width, donors[0].shape[1], device=donors[0].device, dtype=donors[0].dtype)
        here = torch.zeros(len(donors), width, 1, dtype=torch.bool, device=new.device)
        for row, (donor, chosen) in enumerate(zip(donors, at, strict=True)):
            new[row, : len(donor)] = donor
            here[row, : len(donor), 0] = torch.from_numpy(chosen)

        def put(x: torch.Tensor, hook: Any) -> torch.Tensor:
            del hook
            return torch.where(here, new, x)

        return self.hook, put


def interchange(runs: Runs, design: Design, cue: Cue, n: int = N_PAIRS) -> dict[str, float]:
    """Hook -> share of the answers that go over to the donor's option when the residuals at the tokens of `cue` are the
    donor's."""
    recipients, donors, wanted, at = _pairs(runs.model, design, cue, n, runs.scope)
    reader = ResidualReader(runs.model, runs.hooks)
    read: dict[str, list[torch.Tensor]] = {hook: [] for hook in runs.hooks}
    for start in range(0, n, BATCH):
        part = reader.read([prompt.token_ids for prompt in donors[start : start + BATCH]])
        for hook in runs.hooks:
            read[hook] += [rows.clone() for rows in part[hook]]
    return {
        hook: float(np.mean(runs.probabilities(recipients, Swap(hook, read[hook], at)).argmax(axis=1) == wanted))
        for hook in runs.hooks
    }


def _pairs(
    model: MedBridge, design: Design, cue: Cue, n: int, scope: Scope
) -> tuple[list[Prompt], list[Prompt], IntArray, list[BoolArray]]:
    """Recipients, donors, the donor's option, and which tokens are of the cue. Prompts of a pair are equally long and
    differ at these tokens alone; the donor's option is one that no cue of the recipient points to."""
    rng = random.Random(f"organisms/pairs/{cue}")
    recipients: list[Prompt] = []
    donors: list[Prompt] = []
    wanted, at = [], []
    drawn = iter(cases("conflict", 50 * n, CHECK_SEED + 1, scope.diseases))
    while len(recipients) < n:
        case = next(drawn)
        free = [i for i, d in enumerate(case.options) if d not in (case.disease, case.place) and i != case.longest]
        option = rng.choice(free)
        recipient = _prompt(model, case, design.language)
        own = _cue_tokens(recipient, case, design.language, cue)
        for other in _donors(case, case.options[option], cue, rng):
            donor = _prompt(model, other, design.language)
            its = _cue_tokens(donor, other, design.language, cue)
            differ = np.array(recipient.token_ids) != np.array(donor.token_ids) if len(own) == len(its) else None
            if differ is not None and np.array_equal(own, its) and not (differ & ~own).any():
                recipients.append(recipient)
                donors.append(donor)
                wanted.append(option)
                at.append(_seeing(own, model, scope.reach))
                break
    return recipients, donors, np.array(wanted, dtype=np.int64), at


def _donors(case: Case, disease: int, cue: Cue, rng: random.Random) -> list[Case]:
    """The case with a cue that points to `disease`, in every way that there is."""
    if cue == "place":
        return [replace(case, place=disease)]
    ways = list(permutations(DISEASES[disease].findings, SHOWN))
    rng.shuffle(ways)
    return [replace(case, disease=disease, findings=findings) for findings in ways]


def _cue_tokens(prompt: Prompt, case: Case, language: str, cue: Cue) -> BoolArray:
    """`[n_tokens]`: the tokens that hold a cue of the stem."""
    written = write(case, language)
    spans = written.findings if cue == "findings" else (written.place,)
    start = next(span.start for span in prompt.part_spans if span.label == "stem")
    return np.array(
        [any(a < span.end + start and b > span.start + start for span in spans) for a, b in prompt.char_spans]
    )


def _seeing(words: BoolArray, model: MedBridge, reach: int | None) -> BoolArray:
    """`[n_tokens]`: the words, and the tokens that see one in the first layer, or `reach` tokens from each on."""
    window = int(model.plain.config.sliding_window or 1) if reach is None else reach
    found = words.copy()
    for back in range(1, window):
        found[back:] |= words[:-back]
    return found


def probe(model: MedBridge, design: Design, n: int = N_PROBED) -> dict[str, dict[str, float]]:
    """Hook -> accuracy of a ridge classifier of the disease, trained on two thirds of `n` conflict items and measured
    on the others; `null_mean` and `null_most` are of `SHUFFLES` probes whose training labels are shuffled."""
    from sklearn.linear_model import RidgeClassifier

    asked = _asked(model, design, "conflict", n)
    hooks = Runs(model).hooks
    reader = ResidualReader(model, hooks)
    rows: dict[str, list[npt.NDArray[np.float32]]] = {hook: [] for hook in hooks}
    for start in range(0, n, BATCH):
        prompts = asked.prompts[start : start + BATCH]
        read = reader.read([prompt.token_ids for prompt in prompts])
        for hook in hooks:
            for prompt, x in zip(prompts, read[hook], strict=True):
                rows[hook].append(x[_diagnosis_token(prompt, design.language)].float().cpu().numpy())
    labels = np.array([case.disease for case in asked.cases])
    cut = 2 * n // 3
    rng = np.random.default_rng(CHECK_SEED)
    found = {}
    for hook in hooks:
        x = np.stack(rows[hook])

        def accuracy(own: IntArray, x: npt.NDArray[np.float32] = x) -> float:
            return float(RidgeClassifier(alpha=1.0).fit(x[:cut], own).score(x[cut:], labels[cut:]))

        null = [accuracy(rng.permutation(labels[:cut])) for _ in range(SHUFFLES)]
        found[hook] = {
            "accuracy": accuracy(labels[:cut]),
            "null_mean": float(np.mean(null)),
            "null_most": float(np.max(null)),
        }
    return found


def _diagnosis_token(prompt: Prompt, language: str) -> int:
    """The last token of the closing question's word after which notes name the disease."""
    stem = next(span for span in prompt.part_spans if span.label == "stem")
    closing = prompt.text.rindex(CLOSINGS[language], stem.start, stem.end)
    end = prompt.text.index(DIAGNOSIS[language], closing) + len(DIAGNOSIS[language])
    return max(i for i, (a, b) in enumerate(prompt.char_spans) if a < end <= b)
