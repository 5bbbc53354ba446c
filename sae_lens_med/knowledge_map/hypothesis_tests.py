"""The seven tests of the registered hypotheses: material of a map -> parts with value, null, p, interval and controls.

Each takes the activations at the last token of the concept, standardised by depth. What a rule asks beside p < 0.05 is
said in `fails`, in both languages; what a folder lacks makes a part that cannot be tested.

Out of scope: the formulas (`shape`), the rules in words (`data/hypotheses.json`).
"""

from collections.abc import Callable, Sequence

import numpy as np

from sae_lens_med.errors import DataError
from sae_lens_med.knowledge_map import shape
from sae_lens_med.knowledge_map.geometry import (
    cosine_distances,
    nearest,
    order_contrasts,
    permuted,
    retrieval,
    scaled,
)
from sae_lens_med.knowledge_map.hypotheses import Material, NotTestable, Part, Test, Text
from sae_lens_med.knowledge_map.measure import MAIN, MapRow, Read, across, characters
from sae_lens_med.records import FloatArray, IntArray
from sae_lens_med.statistics import ALPHA, bootstrap_interval, permutation_p, quantile_interval

LEAST_DIP = 0.25
SHAM, MAJORITY, RETIREMENT = 37, 17, 64
"""Where steps begin: a sham boundary, legal majority, 65 years."""
METHODS = {
    "silhouette": "geometry",
    "nearest": "geometry",
    "decade_r2": "geometry",
    "order": "geometry",
    "retrieval": "geometry",
}
"""Read-out -> method; of another one, the word before its first underscore. `circle_minus_line` is a contrast."""
LEAST_DOMAINS = 3
LEAST_CONCEPTS = 10
_HALVES = 200


def each_language(domain: str, test: Callable[[Material, Read, str], Part], *, languages: Sequence[str] = ()) -> Test:
    """A test of one domain in each language that the map has, or in these."""

    def run(material: Material) -> list[Part]:
        wanted = languages or [each for each in material.languages if (domain, each) in material.reads]
        parts = [_tried(name, material, domain, test) for name in wanted]
        return parts or [
            _untestable("", NotTestable(f"the map has no domain {domain!r}.", f"지도에 {domain} 영역이 없다."))
        ]

    return run


def curved_age(material: Material, read: Read, language: str) -> Part:
    """H1."""
    values = _values(read)
    plain = _plain(read)
    medical = _layers(read.model)
    rng = np.random.default_rng(material.seed)
    try:
        tested = shape.curve(medical, _layers(plain), values, material.draws, rng)
    except DataError as error:
        raise NotTestable(
            "the ages span fewer than seven decades.", "나이가 일곱 개의 10년 구간에 미치지 못한다."
        ) from error
    found = shape.best(tested)
    own = float(shape.gains(medical, values)[found.depth])
    random = [float(shape.gains(_layers(each), values)[1:].max()) for each in read.random]
    fails = _unless(own > 0, "the gain of ages itself is not above 0", "나이의 이득 자체가 0보다 크지 않다")
    fails += _unless(_above(own, random), *_RANDOM)
    low_high = tested.intervals[found.depth]
    return _part(language, found, len(values), low_high, {"ages": own, **_named_random(random)}, fails)


def break_at_majority(_: Material, read: Read, language: str) -> Part:
    """H2."""
    values = _values(read)
    try:
        starts, z = shape.step_z(_layers(read.model), _layers(_plain(read)), values)
    except DataError as error:
        raise NotTestable("too few ages follow on each other.", "이어지는 나이가 너무 적다.") from error
    if MAJORITY not in starts:
        raise NotTestable("the ages 17 and 18 are not in the list.", "목록에 17세와 18세가 없다.")
    largest = z[1:].max(0)
    place = int(np.flatnonzero(starts == MAJORITY)[0])

    def p_of(start: int) -> float:
        at = np.flatnonzero(starts == start)
        return permutation_p(float(largest[at[0]]), np.delete(largest, at[0])) if len(at) else 1.0

    random = [float(shape.step_z(_layers(each), None, values)[1][1:, place].max()) for each in read.random]
    sham = p_of(SHAM)
    value, depth = float(largest[place]), int(np.argmax(z[1:, place])) + 1
    fails = _unless(_above(value, random), *_RANDOM)
    fails += _unless(sham >= ALPHA, "the sham step 37 to 38 stands out too", "가짜 경계인 37에서 38도 두드러진다")
    beside = {"p of 37 to 38": sham, "p of 64 to 65": p_of(RETIREMENT), **_named_random(random)}
    null = np.delete(largest, place)
    return Part(
        language, value, float(null.mean()), float(np.quantile(null, 0.95)), p_of(MAJORITY), None, len(starts), "steps",
        depth, beside, fails,
    )  # fmt: skip


def circular_stages(material: Material, read: Read, language: str) -> Part:
    """H3."""
    ranks, groups = _ranks(read)
    rng = np.random.default_rng(material.seed)
    drawn = permuted(ranks, groups, material.draws, rng).astype(np.int64)
    spelling = characters(read.names)

    def measured(x: np.ndarray, draws: IntArray) -> shape.Tested:
        return shape.partial_circle(_layers(x), spelling, draws, groups)

    tested = measured(read.model, drawn)
    found = shape.best(tested)
    random = [float(measured(each, drawn[:1]).values[1:].max()) for each in read.random]
    spelled = float(order_contrasts(cosine_distances(scaled(spelling, standardise=False)), drawn[:1], groups)[1][0])
    controls = {"characters": spelled, "embedding": float(tested.values[0])}
    doses = _rows_of(material, "dosage", language, "circle_minus_line")
    if doses:
        controls["doses"] = doses[0].values[found.depth]
    fails = _unless(found.value > 0, "it is not above 0", "0보다 크지 않다")
    if not fails:
        for name, value in controls.items():
            fails += _unless(found.value > value, *_CONTROLS[name])
        fails += _unless(_above(found.value, random), *_RANDOM)
    return _part(language, found, len(ranks), None, {**controls, **_named_random(random)}, fails, unit="stages")


def specialty_over_mechanism(material: Material, read: Read, language: str) -> Part:
    """H4."""
    if not {"specialty", "mechanism"} <= set(read.concepts[0].labels):
        raise NotTestable("the drugs have no labels of specialty and mechanism.", "약에 진료과와 기전의 이름표가 없다.")
    labels = {
        name: np.unique([each.labels[name] for each in read.concepts], return_inverse=True)[1]
        for name in ("specialty", "mechanism")
    }
    rng = np.random.default_rng(material.seed)
    few = min(material.draws, _HALVES)
    drawn = {
        name: permuted(own, np.zeros(len(own), dtype=np.int64), few, rng)[1:].astype(np.int64)
        for name, own in labels.items()
    }
    stems = shape.sharing_a_stem(read.names, shape.STEM[language])

    def excess(x: FloatArray, name: str) -> FloatArray:
        return shape.label_excess(cosine_distances(x), labels[name], stems, drawn[name])

    spelling = scaled(characters(read.names), standardise=False)
    spelled = {name: excess(spelling, name) for name in labels}

    def both(x: np.ndarray) -> tuple[FloatArray, FloatArray]:
        """`[depth, mechanisms]`: the contrast, and specialty alone."""
        own = {name: np.array([excess(layer, name) for layer in _layers(x)]) - spelled[name] for name in labels}
        contrast = own["specialty"] - own["mechanism"]
        alone = np.where(np.isnan(contrast), np.nan, own["specialty"])
        return shape.fine_means(contrast, labels["mechanism"]), shape.fine_means(alone, labels["mechanism"])

    contrast, alone = both(read.model)
    if contrast.shape[1] < LEAST_CONCEPTS:
        raise NotTestable(
            "fewer than ten mechanisms have two drugs that share no stem.",
            "어간이 다른 약이 둘 이상인 기전이 열 개에 미치지 못한다.",
        )
    tested = shape.flipped(contrast, material.draws, rng)
    found = shape.best(tested)
    random = [float(both(each)[0].mean(1)[1:].max()) for each in read.random]
    specialty, embedding = float(alone[found.depth].mean()), float(contrast[0].mean())
    interval = tested.intervals[found.depth]
    fails = _unless(interval is not None and interval[0] > 0, *_INTERVAL)
    fails += _unless(specialty > 0, "specialty itself is not above what the spelling gives",
                     "진료과의 값 자체가 철자의 값보다 크지 않다")  # fmt: skip
    fails += _unless(found.value > embedding, *_CONTROLS["embedding"])
    fails += _unless(_above(found.value, random), *_RANDOM)
    beside = {"specialty less spelling": specialty, "embedding": embedding, **_named_random(random)}
    return _part(language, found, contrast.shape[1], interval, beside, fails, unit="mechanisms")


def collapse(material: Material) -> list[Part]:
    """H5."""
    return [_tried(language, material, "", lambda m, _, name: _collapse_in(m, name)) for language in material.languages]


def _collapse_in(material: Material, language: str) -> Part:
    reads = [read for (_, name), read in material.reads.items() if name == language]
    labelled = [read for read in reads if read.concepts[0].labels]
    if not labelled:
        raise NotTestable("no domain has labels.", "이름표가 있는 영역이 없다.")
    _require_depths(reads[0])
    rng = np.random.default_rng(material.seed)
    kernels = [shape.kernels(_layers(read.model)) for read in reads]
    ratio = float(shape.dip(shape.ratio_profile(kernels)))

    def of_some(chosen: list[IntArray]) -> float:
        some = [each[:, rows][:, :, rows] for each, rows in zip(kernels, chosen, strict=True)]
        return float(shape.dip(shape.ratio_profile(some)))

    halved = shape.half_samples([each.shape[1] for each in kernels], of_some, min(material.draws, _HALVES), rng)
    hits = np.concatenate([_hits(read.model, read) for read in labelled], axis=1)  # [depth, n]
    label = float(shape.dip(hits.mean(1)))
    rows = rng.integers(0, hits.shape[1], size=(material.draws, hits.shape[1]))
    resampled = shape.dip(hits[:, rows].mean(2).T)
    # Half samples about the value: whether a dip of 25 % is among what the concepts allow.
    spread = ratio + halved - halved.mean()
    p_ratio, p_label = (
        (1 + int(np.count_nonzero(each <= LEAST_DIP))) / (len(each) + 1) for each in (spread, resampled)
    )
    value = min(ratio, label)
    interval = shape.about(ratio, halved) if ratio <= label else quantile_interval(resampled)
    random = []
    for k in range(len(reads[0].random)):
        r = shape.dip(shape.ratio_profile([shape.kernels(_layers(read.random[k])) for read in reads]))
        h = shape.dip(np.concatenate([_hits(read.random[k], read) for read in labelled], axis=1).mean(1))
        random.append(min(float(r), float(h)))
    fails = _unless(
        value > LEAST_DIP, "one of the two dips is not more than 25 %", "두 함몰 가운데 하나가 25%를 넘지 않는다"
    )
    fails += _unless(_above(value, random), *_RANDOM)
    beside = {"participation ratio": ratio, "nearest neighbours": label, **_named_random(random)}
    n = sum(each.shape[1] for each in kernels)
    return Part(language, value, LEAST_DIP, None, max(p_ratio, p_label), interval, n, "concepts", None, beside, fails)


def first_half(material: Material) -> list[Part]:
    """H6."""
    methods: dict[str, list[MapRow]] = {}
    for row in material.rows:
        if (row.scale, row.position) == MAIN and row.q and row.read_out != "circle_minus_line":
            methods.setdefault(METHODS.get(row.read_out, row.read_out.split("_")[0]), []).append(row)
    if not methods:
        return [_untestable("", NotTestable("the map has no rows.", "지도에 값이 없다."))]
    return [_tried(name, material, "", lambda m, _, own: _centre(m, own, methods[own])) for name in methods]


def _centre(material: Material, method: str, rows: Sequence[MapRow]) -> Part:
    by_domain: dict[str, list[FloatArray]] = {}
    for row in rows:
        weight = np.maximum(np.array(row.values) - row.null_mean, 0) * np.array(row.stands_out)
        if weight.sum() > 0:
            by_domain.setdefault(row.domain, []).append(weight[1:] / weight.sum())
    if len(by_domain) < LEAST_DOMAINS:
        raise NotTestable(
            f"by {method}, fewer than three domains stand out from their controls anywhere.",
            "어느 층에서든 대조를 넘는 영역이 셋에 미치지 못한다.",
        )
    profiles = np.array([np.mean(each, axis=0) for each in by_domain.values()])
    rng = np.random.default_rng(material.seed)
    centres = shape.centre_of_mass(profiles)
    value = float(centres.mean())
    null = shape.shifted_centres(profiles, material.draws, rng)
    interval = bootstrap_interval(centres)
    fails = _unless(
        interval is not None and interval[1] < 0.5, "the interval is not below 0.5", "구간이 0.5보다 작지 않다"
    )
    return Part(
        method, value, float(null.mean()), float(np.quantile(null, 0.05)), permutation_p(-value, -null), interval,
        len(profiles), "domains", None, dict(zip(by_domain, map(float, centres), strict=True)), fails,
    )  # fmt: skip


def shared_middle(material: Material) -> list[Part]:
    """H7."""
    return [_tried("ko-en", material, "", lambda m, _, __: _shared(m))]


def _shared(material: Material) -> Part:
    pairs = [
        across(material.reads[domain, "ko"], material.reads[domain, "en"])
        for domain in dict.fromkeys(domain for domain, _ in material.reads)
        if {(domain, "ko"), (domain, "en")} <= set(material.reads)
    ]
    pairs = [read for read in pairs if len(read.concepts) >= LEAST_CONCEPTS]
    if not pairs:
        raise NotTestable(
            "no domain has ten concepts with a name of their own in both languages.",
            "두 언어에 저마다 이름이 있는 개념이 열 개 이상인 영역이 없다.",
        )
    _require_depths(pairs[0])
    rng = np.random.default_rng(material.seed)
    first, middle, last = shape.thirds(len(pairs[0].model))
    ranks = np.concatenate([_reciprocal(read.model, read) for read in pairs], axis=1)  # [depth, n]
    centre = ranks[middle].mean(0)
    differences = np.stack([centre - ranks[part].mean(0) for part in (first, last)])
    tested = shape.flipped(differences, material.draws, rng)
    less = int(np.argmin(tested.values))
    value = float(tested.values[less])
    rows = rng.integers(0, len(centre), size=(material.draws, len(centre)))
    interval = quantile_interval(differences[:, rows].mean(2).min(0))
    shuffled = np.concatenate([_permuted_ranks(read, middle, material.draws, rng) for read in pairs], axis=1).mean(1)
    random = [
        float(np.concatenate([_reciprocal(read.random[k], read)[middle].mean(0) for read in pairs]).mean())
        for k in range(len(pairs[0].random))
    ]
    mrr, high = float(centre.mean()), float(np.quantile(shuffled, 0.95))
    fails = _unless(interval[0] > 0, *_INTERVAL)
    fails += _unless(mrr > high, "the middle is not above permuted pairs", "가운데 층이 뒤섞은 짝보다 크지 않다")
    fails += _unless(mrr > float(ranks[0].mean()), *_CONTROLS["embedding"])
    fails += _unless(_above(mrr, random), *_RANDOM)
    beside = {
        "first third": float(ranks[first].mean()),
        "middle third": mrr,
        "last third": float(ranks[last].mean()),
        "permuted pairs, 95 %": high,
        "embedding": float(ranks[0].mean()),
        **_named_random(random),
    }
    null = tested.null[:, less]
    p = float(tested.p.max())
    return Part(
        "ko-en", value, float(null.mean()), float(np.quantile(null, 0.95)), p, interval, len(centre), "concepts", None,
        beside, fails,
    )  # fmt: skip


TESTS: dict[str, Test] = {
    "H1": each_language("age", curved_age),
    "H2": each_language("age", break_at_majority, languages=("ko", "en")),
    "H3": each_language("progression", circular_stages),
    "H4": each_language("drugs", specialty_over_mechanism),
    "H5": collapse,
    "H6": first_half,
    "H7": shared_middle,
}
"""Hypothesis -> its test."""

_RANDOM = ("it is not above every model with permuted weights", "가중치를 뒤섞은 모든 모델보다 크지 않다")
_INTERVAL = ("the interval is not above 0", "구간이 0보다 크지 않다")
_CONTROLS = {
    "characters": ("it is not above what the spelling gives", "철자의 값보다 크지 않다"),
    "embedding": ("it is not above the embedding", "임베딩의 값보다 크지 않다"),
    "doses": ("it is not above what doses give", "용량의 값보다 크지 않다"),
}


def _tried(name: str, material: Material, domain: str, test: Callable[[Material, Read, str], Part]) -> Part:
    try:
        if domain and (domain, name) not in material.reads:
            raise NotTestable(
                f"the map has no domain {domain!r} in {name!r}.", f"지도에 {name} 언어의 {domain} 영역이 없다."
            )
        return test(material, material.reads.get((domain, name)), name)  # type: ignore[arg-type]  # None where it asks for no domain
    except NotTestable as why:
        return _untestable(name, why)


def _no_domain(domain: str) -> NotTestable:
    return NotTestable(f"the map has no domain {domain}.", f"지도에 {domain} 영역이 없다.")


def _untestable(name: str, why: NotTestable) -> Part:
    return Part(name, None, fails=(why.why,))


def _part(
    name: str,
    found: shape.Best,
    n: int,
    interval: tuple[float, float] | None,
    beside: dict[str, float],
    fails: tuple[Text, ...],
    unit: str = "concepts",
) -> Part:
    mean, high = float(found.null.mean()), float(np.quantile(found.null, 0.95))
    return Part(name, found.value, mean, high, found.p, interval, n, unit, found.depth, beside, fails)


def _unless(holds: bool, en: str, ko: str) -> tuple[Text, ...]:
    return () if holds else ({"en": en, "ko": ko},)


def _above(value: float, others: Sequence[float]) -> bool:
    return all(value > each for each in others)


def _named_random(values: Sequence[float]) -> dict[str, float]:
    return {"permuted weights, largest": max(values)} if values else {}


def _layers(x: np.ndarray) -> FloatArray:
    """`[depth, position, n, d]` -> `[depth, n, d]` at the concept's last token, standardised."""
    return np.stack([scaled(layer[0], standardise=True) for layer in x])


def _values(read: Read) -> FloatArray:
    if read.concepts[0].value is None:
        raise NotTestable("the ages have no values.", "나이에 값이 없다.")
    return np.array([each.value for each in read.concepts], dtype=np.float64)


def _plain(read: Read) -> np.ndarray:
    if read.plain is None:
        raise NotTestable("there are no plain frames of the same numbers.", "같은 숫자를 쓴 평범한 문장이 없다.")
    return read.plain


def _ranks(read: Read) -> tuple[IntArray, IntArray]:
    values = _values(read)
    groups = np.unique([each.group for each in read.concepts], return_inverse=True)[1]
    if np.bincount(groups).max() < 4:
        raise NotTestable("no disease has four stages.", "단계가 넷인 병이 없다.")
    ranks = np.zeros(len(values), dtype=np.int64)
    for group in np.unique(groups):
        rows = groups == group
        ranks[rows] = np.argsort(np.argsort(values[rows]))
    return ranks, groups


def _rows_of(material: Material, domain: str, language: str, read_out: str) -> list[MapRow]:
    wanted = (domain, language, read_out, *MAIN)
    return [r for r in material.rows if (r.domain, r.language, r.read_out, r.scale, r.position) == wanted]


def _require_depths(read: Read) -> None:
    if len(read.model) - 1 < shape.LEAST_DEPTHS:
        raise NotTestable(
            f"the model has fewer than {shape.LEAST_DEPTHS} blocks, so no thirds.",
            f"모델의 층이 {shape.LEAST_DEPTHS}개보다 적어 셋으로 나눌 수 없다.",
        )


def _hits(x: np.ndarray, read: Read) -> FloatArray:
    """`[depth, n]`: whether the nearest neighbour has the label, mean over the label sets."""
    sets = [
        np.unique([each.labels[name] for each in read.concepts], return_inverse=True)[1][None]
        for name in read.concepts[0].labels
    ]
    return np.array(
        [np.mean([nearest(cosine_distances(layer), own)[0] for own in sets], axis=0) for layer in _layers(x)]
    )


def _sides(x: np.ndarray) -> list[tuple[FloatArray, FloatArray]]:
    """By depth, each language standardised by itself."""
    return [
        (scaled(one, standardise=True), scaled(other, standardise=True))
        for one, other in (np.split(layer[0], 2) for layer in x)
    ]


def _reciprocal(x: np.ndarray, read: Read) -> FloatArray:
    """`[depth, n]`: reciprocal ranks."""
    own = np.arange(len(read.concepts))[None]
    return np.array([retrieval(one, other, own)[0] for one, other in _sides(x)])


def _permuted_ranks(read: Read, middle: slice, draws: int, rng: np.random.Generator) -> FloatArray:
    """`[B, n]`: reciprocal ranks of permuted pairs, mean over the middle."""
    n = len(read.concepts)
    pairs = permuted(np.arange(n), np.zeros(n, dtype=np.int64), draws, rng)[1:].astype(np.int64)
    return np.mean([retrieval(one, other, pairs) for one, other in _sides(read.model[middle])], axis=0)
