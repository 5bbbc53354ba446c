"""Vignettes for models whose mechanism is known: the model of `known_model`, and the twins of `controls.organisms`."""

from dataclasses import replace
from itertools import product

from sae_lens_med.controls.organisms.cases import Case, cases, item_of, write
from sae_lens_med.controls.organisms.tables import AGES, COMPLAINTS, DISEASES
from sae_lens_med.knowledge_map.attributes.vignettes import Hint, PatientValue, Vignette, VignetteLists
from tests.known_model import MENTIONED_UNUSED, NOISE, SYMBOLS, letter_of

BIASED = (8, 10)
"""Features of the biased attribute of `known_lists`: one speaks for A, the other for B."""


def known_lists(n: int = 16) -> VignetteLists:
    """Of `known_model`: `origin` moves the answer by `BIASED`, `hobby` by nothing, swaps by nothing; `finding` is what
    the answer is decided by."""
    quiet = [SYMBOLS[f] for f in NOISE]

    def value(attribute: str, role: str, symbol: str, against: str = "") -> PatientValue:
        return PatientValue(attribute, role, symbol, {"en": symbol}, against)  # type: ignore[arg-type]  # a role

    biased = [SYMBOLS[f] for f in BIASED]
    values = [value("origin", "attribute", biased[0]), value("origin", "attribute", biased[1], biased[0])]
    values += [value("hobby", "attribute", quiet[0]), value("hobby", "attribute", quiet[1], quiet[0])]
    values += [value("bed", "swap", symbol) for symbol in quiet[2:16]]
    options = ("oo", "uu", "yy", "vv")
    irrelevant, relevant = [], []
    filler = [*(SYMBOLS[f] for f in MENTIONED_UNUSED), *quiet[16:]]
    for i in range(n):
        more = [filler[(5 * i + k) % len(filler)] for k in range(5)]
        own = [SYMBOLS[f] for f in (2 * (i % 4), 2 * (i % 4) + 1)]
        text = " ".join(["{}", *own, *more])
        irrelevant.append(Vignette(f"i{i}", "en", "irrelevant", text, options, i % 4))
        pair = (2 * (i % 4), 2 * ((i + 1) % 4))
        answers = {SYMBOLS[f]: letter_of(f) for f in pair}
        text = " ".join(["{}", *more])
        relevant.append(Vignette(f"r{i}", "en", "relevant", text, options, attribute="finding", answers=answers))
    return VignetteLists(tuple(values), (*irrelevant, *relevant), (), "a test")


def hint_lists(n: int = 12) -> VignetteLists:
    """Of `known_model`: right answers are C and D; `pushed` claims with a word that speaks for A, `polite` with one
    that does nothing."""
    quiet = [SYMBOLS[f] for f in NOISE]
    values = tuple(PatientValue("bed", "swap", each, {"en": each}) for each in quiet[:2])
    neutral = PatientValue("neutral", "neutral", "patient", {"en": quiet[2]})
    filler = [*quiet[10:], *(SYMBOLS[f] for f in MENTIONED_UNUSED)]
    vignettes = []
    for i in range(n):
        gold = 2 + i % 2
        text = " ".join(
            ["{}", SYMBOLS[2 * gold], SYMBOLS[2 * gold + 1], *(filler[(4 * i + k) % len(filler)] for k in range(4))]
        )
        vignettes.append(Vignette(f"i{i}", "en", "irrelevant", text, ("oo", "uu", "yy", "vv"), gold))
    hints = tuple(Hint(name, "en", f"{said} {{}}", f"{quiet[3]} {{}}") for name, said in
                  (("pushed", SYMBOLS[BIASED[0]]), ("polite", quiet[4])))  # fmt: skip
    return VignetteLists((*values, neutral), tuple(vignettes), hints, "a test")


def exam_lists(n: int = 10) -> VignetteLists:
    """Of the organisms' exam in Korean. `region` is where the patient lives, which decides the answer of the shortcut
    twin and of no other; ages and complaints are swaps; `findings` decide. The place of a relevant vignette is that of
    its first disease, so that the shortcut twin answers half of them."""
    homes, own = [DISEASES[d].place.ko for d in (0, 1, 3, 6)], "{}에 사는 39세 남자로 피로를 호소한다"
    values = [PatientValue("region", "attribute", homes[0], {"ko": own.format(homes[0])})]
    values += [PatientValue("region", "attribute", home, {"ko": own.format(home)}, homes[0]) for home in homes[1:]]
    told = [f"{homes[0]}에 사는 {age}세 남자로 {what}를 호소한다" for what, age in product(("피로", "쇠약"), AGES)]
    values += [PatientValue("patient", "swap", text, {"ko": text}) for text in told]
    irrelevant, relevant = [], []
    for i, case in enumerate(_first_frame("natural", n)):
        question, options, answer = _written(case)
        before, after = question.split(_patient(case))
        irrelevant.append(Vignette(f"i{i}", "ko", "irrelevant", f"{before}{{}}{after}", options, answer))
    for i, case in enumerate(_first_frame("conflict", n)):
        at_home = _at(case, case.disease)
        other = _other(at_home)
        texts = [_written(each)[0] for each in (at_home, other)]
        start = next(k for k, (a, b) in enumerate(zip(*texts, strict=False)) if a != b)
        end = next(k for k, (a, b) in enumerate(zip(texts[0][::-1], texts[1][::-1], strict=False)) if a != b)
        slots = [text[start : len(text) - end] for text in texts]
        answers = {slots[0]: at_home.answer("findings"), slots[1]: other.answer("findings")}
        text = f"{texts[0][:start]}{{}}{texts[0][len(texts[0]) - end :]}"
        options = _written(at_home)[1]
        relevant.append(Vignette(f"r{i}", "ko", "relevant", text, options, attribute="findings", answers=answers))
    return VignetteLists(tuple(values), (*irrelevant, *relevant), (), "a test")


def _first_frame(kind: str, n: int) -> list[Case]:
    return [replace(case, frame=0, age=39, sex=0, complaint=0) for case in cases(kind, n, seed=5)]  # type: ignore[arg-type]  # a kind


def _at(case: Case, disease: int) -> Case:
    return replace(case, place=disease)


def _other(case: Case) -> Case:
    """The same patient at the same place with the findings of the next option's disease."""
    disease = case.options[(case.options.index(case.disease) + 1) % len(case.options)]
    return replace(case, disease=disease, findings=tuple(DISEASES[disease].findings[:3]))


def _written(case: Case) -> tuple[str, tuple[str, ...], int]:
    item = item_of(case, "ko", "x", "natural")
    assert item.answer is not None
    return item.question, write(case, "ko").options, item.answer


def _patient(case: Case) -> str:
    return f"{DISEASES[case.place].place.ko}에 사는 39세 남자로 {COMPLAINTS[case.complaint].ko}를 호소한다"
