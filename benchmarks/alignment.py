"""The alignment metrics on arrays: seconds and memory of this package, beside loops written from the formulas.

    python benchmarks/alignment.py --json alignment.json
    python benchmarks/alignment.py --items 60 --features 500 --permutations 200

What runs, on made-up activations of the size and sparseness that real ones have (`--items` texts on each side,
`--features` features that fire at log-normal rates, `--l0` of them in a text on average, 40 concepts): retrieval,
matched minus mismatched (adjusted for length), overlap, concept AUROC and held-out F1 with coverage, saliency against
spans, agreement of concepts, RSA plain and partial, monosemanticity, kappa and alpha. Each with `--permutations`
permutations or draws, in a process of its own, which also says its peak memory above what the process had with the data
in it. Everything is compiled before the clock starts.

**The loops** compute the same statistic for every permutation anew, with plain Python over NumPy's arrays. They would
take days at full size, so they run on all the data with `--loop-permutations` permutations only, and their time for all
permutations is `first + (time for k - time for 1) / (k - 1) * permutations`: what a permutation costs does not depend
on how many there are. Values of both are compared: they must agree within 1e-9.

Then the cost of the permutations of #2 at n and 2n items: its growth must stay below fourfold.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import reporting
from reporting import say, tell
from scipy import sparse, stats

Array = np.ndarray
CONCEPTS = 40
LIMIT_SECONDS, LIMIT_GB = 60, 4
"""What all metrics together may take at 436 items, 10,240 features and 10,000 permutations on two cores."""


class Data:
    """One made-up study."""

    def __init__(self, items: int, features: int, l0: float, permutations: int, seed: int = 0) -> None:
        from sae_lens_med.features.vectors import idf_weights, weighted
        from sae_lens_med.statistics import coarsen_strata, stratified_permutations

        rng = np.random.default_rng(seed)
        rate = np.exp(rng.normal(0, 1.5, size=features))
        rate = np.minimum(rate / rate.sum() * l0, 0.9)
        length = np.exp(rng.normal(0, 0.4, size=(2, items)))

        def side(length: Array) -> sparse.csr_array:
            fires = rng.random((items, features)) < 1 - np.exp(-rate[None] * length[:, None])
            return sparse.csr_array(np.where(fires, rng.gamma(2.0, size=fires.shape), 0.0))

        stems, explanations = side(length[0]), side(length[1])
        weights = idf_weights(stems, explanations)
        self.acts = stems
        self.stems, self.explanations = weighted(stems, weights), weighted(explanations, weights)
        self.properties = tuple(np.column_stack([np.log(x), np.log(x) ** 2]) for x in length)
        subject, letter = rng.integers(0, 12, size=items), rng.integers(0, 5, size=items)
        self.strata = coarsen_strata([[(int(a), int(b)), int(a)] for a, b in zip(subject, letter, strict=True)])
        self.drawn = stratified_permutations(self.strata, permutations, rng)
        self.labels = rng.random((items, CONCEPTS)) < np.exp(rng.normal(-2.5, 0.5, size=CONCEPTS))
        self.labels[:4] = np.arange(4)[:, None] % 2 == 0
        self.held_out = np.arange(items) % 4 >= 2
        self.embeddings = rng.normal(size=(items, 128))
        tokens = rng.integers(60, 200, size=items)
        self.saliency = [rng.normal(size=n) for n in tokens]
        self.spans = [np.sort(rng.choice(n + 1, 6, replace=False)).reshape(3, 2) for n in tokens]
        self.of = np.repeat(np.arange(items), rng.integers(2, 9, size=items))
        self.about = np.arange(len(self.of)) % CONCEPTS
        self.effects, self.weights = rng.normal(size=(2, len(self.of)))
        self.ratings = np.where(rng.random((3, items)) < 0.1, np.nan, rng.integers(1, 6, size=(3, items)))
        self.permutations = permutations


# --- this package ---------------------------------------------------------------------------------------------------


def similarity(d: Data, _threads: int) -> Array:
    from sae_lens_med.alignment.difference import matched_minus_mismatched
    from sae_lens_med.alignment.retrieval import ranked
    from sae_lens_med.alignment.similarity import adjust_for_nuisance, cosine_matrix

    table = adjust_for_nuisance(cosine_matrix(d.stems, d.explanations), *d.properties)
    difference = matched_minus_mismatched(table, d.strata, d.drawn)
    ranks = ranked(table, d.drawn)
    return np.array([difference.differences.mean(), *difference.null[:3], ranks.null_mrr[0]])


def overlap(d: Data, _threads: int) -> Array:
    from sae_lens_med.alignment.overlap import overlap_tables
    from sae_lens_med.statistics import permuted_means

    found, everyone = overlap_tables(d.stems, d.explanations), np.arange(d.drawn.shape[1])
    nulls = [permuted_means(table, d.drawn, everyone) for table in (found.jaccard, found.precision, found.recall)]
    return np.array([np.diagonal(found.jaccard).mean(), *nulls[0][:3], nulls[1][0]])


def auroc(d: Data, threads: int) -> Array:
    from sae_lens_med.alignment.concept_scores import concept_auroc

    return concept_auroc(d.acts, d.labels, d.strata, d.drawn, threads=threads).null_max[:3].ravel()


def coverage(d: Data, threads: int) -> Array:
    from sae_lens_med.alignment.concept_scores import concept_f1

    found = concept_f1(d.acts, d.labels, d.held_out, d.drawn, threads=threads)
    return np.array([found.coverage, *found.null_coverage[:3]])


def plausible(d: Data, _threads: int) -> Array:
    from sae_lens_med.alignment.span_scores import span_scores

    found = span_scores(d.saliency, d.spans, d.permutations, np.random.default_rng(0))
    return np.array([found.value("auprc"), found.value("token_f1")])


def agreement(d: Data, _threads: int) -> Array:
    from sae_lens_med.alignment.causal_agreement import concept_agreement

    found = concept_agreement(d.effects, d.weights, d.of, d.about, d.permutations, np.random.default_rng(0))
    return np.array([found.pooled])


def rsa(d: Data, _threads: int) -> Array:
    from sae_lens_med.alignment.rsa import mantel

    x, y, z = _dissimilarities(d)
    plain, partial = mantel(x, y, d.drawn), mantel(x, y, d.drawn, partial=[z])
    return np.array([plain.value, *plain.null[:3], partial.value])


def monosemantic(d: Data, _threads: int) -> Array:
    from sae_lens_med.alignment.monosemanticity import monosemanticity, shuffled_mean

    found = monosemanticity(d.acts, d.embeddings)
    return np.array([found.mean, *shuffled_mean(found, np.ones(d.drawn.shape[1]), d.drawn)[0][:3]])


def raters(d: Data, _threads: int) -> Array:
    from sae_lens_med.alignment.agreement import (
        cohen_kappa,
        cohen_kappa_null,
        krippendorff_alpha,
        krippendorff_alpha_null,
    )

    complete = np.nan_to_num(d.ratings, nan=3.0)
    null = cohen_kappa_null(complete[0], complete[1], d.drawn, "quadratic")
    krippendorff_alpha_null(d.ratings, d.permutations, np.random.default_rng(0), "ordinal")
    values = cohen_kappa(complete[0], complete[1], "quadratic"), krippendorff_alpha(d.ratings, "ordinal")
    return np.array([*(v or 0.0 for v in values), *null[:3]])


def _dissimilarities(d: Data) -> tuple[Array, Array, Array]:
    from sae_lens_med.alignment.rsa import cosine_dissimilarity
    from sae_lens_med.alignment.similarity import cosine_matrix

    x, y = (cosine_dissimilarity(cosine_matrix(s, s)) for s in (d.stems, d.explanations))
    length = d.properties[0][:, 0]
    return x, y, np.abs(np.subtract.outer(length, length))


# --- the loops ------------------------------------------------------------------------------------------------------


def loop_similarity(d: Data, b: int) -> Array:
    """The similarity of each pair, then for each permutation the difference and the rank of each item."""
    from sae_lens_med.alignment.similarity import adjust_for_nuisance

    a, e = d.stems.toarray(), d.explanations.toarray()
    n = len(a)
    table = np.array(
        [[a[i] @ e[j] / (np.linalg.norm(a[i]) * np.linalg.norm(e[j])) for j in range(n)] for i in range(n)]
    )
    table = adjust_for_nuisance(table, *d.properties)

    def difference(order: Array) -> float:
        total, count = 0.0, 0
        for i in range(n):
            others = [j for j in range(n) if j != order[i] and d.strata.index[j] == d.strata.index[i]]
            if d.strata.index[i] >= 0:
                total += table[i, order[i]] - float(np.mean([table[i, j] for j in others]))
                count += 1
        return total / count

    def mrr(order: Array) -> float:
        return float(np.mean([1 / (1 + np.sum(table[i] > table[i, order[i]] + 1e-12)) for i in range(n)]))

    nulls = [(difference(order), mrr(order)) for order in d.drawn[:b]]
    return np.array([difference(np.arange(n)), *(x for x, _ in nulls[:3]), nulls[0][1]])


def loop_overlap(d: Data, b: int) -> Array:
    a, e = d.stems.toarray(), d.explanations.toarray()

    def measure(order: Array) -> tuple[float, float]:
        jaccard, precision = [], []
        for i, j in enumerate(order):
            jaccard.append(np.minimum(a[i], e[j]).sum() / np.maximum(a[i], e[j]).sum())
            top, other = (set(np.lexsort((np.arange(len(v)), -v))[:20][np.sort(-v)[:20] < 0]) for v in (a[i], e[j]))
            precision.append(len(top & other) / max(1, len(top)))
        return float(np.mean(jaccard)), float(np.mean(precision))

    nulls = [measure(order) for order in d.drawn[:b]]
    return np.array([measure(np.arange(len(a)))[0], *(x for x, _ in nulls[:3]), nulls[0][1]])


def loop_auroc(d: Data, b: int) -> Array:
    """Rank sums of every feature and concept, standardised within strata."""
    ranks = np.apply_along_axis(stats.rankdata, 0, d.acts.toarray())
    groups = [*d.strata.members(), *([k] for k in np.flatnonzero(~d.strata.exchangeable))]
    out = []
    for order in d.drawn[:b]:
        best = []
        for c in range(d.labels.shape[1]):
            own = d.labels[order, c]
            expected, variance = np.zeros(ranks.shape[1]), np.zeros(ranks.shape[1])
            for group in groups:
                k, size = own[group].sum(), len(group)
                expected += k * ranks[group].mean(axis=0)
                if size > 1:
                    variance += k * (size - k) / (size - 1) * ranks[group].var(axis=0)
            varies = variance > 1e-9
            z = (ranks[own].sum(axis=0) - expected)[varies] / np.sqrt(variance[varies])
            best.append(max(0.0, float(z.max(initial=0.0))))
        out.append(best)
    return np.array(out[:3]).ravel()


def loop_coverage(d: Data, b: int) -> Array:
    acts = d.acts.toarray()
    train = ~d.held_out
    top = acts[train].max(axis=0)
    fires = [(acts > share / 10 * top) & (top > 0) for share in range(10)]
    kept = [c for c in range(CONCEPTS) if d.labels[train, c].any() and d.labels[d.held_out, c].any()]

    def f1(predicted: Array, truth: Array) -> Array:
        both = (predicted & truth[:, None]).sum(axis=0)
        return 2 * both / np.maximum(1, predicted.sum(axis=0) + truth.sum())

    def measure(labels: Array) -> float:
        scores = []
        for c in kept:
            table = np.array([f1(each[train], labels[train, c]) for each in fires])
            feature = int(np.argmax(table.max(axis=0)))
            threshold = int(np.argmax(table[:, feature]))
            held = f1(fires[threshold][d.held_out][:, [feature]], labels[d.held_out, c])[0]
            scores.append(held if table.max() > 0 else 0.0)
        return float(np.mean(scores))

    return np.array([measure(d.labels), *(measure(d.labels[order]) for order in d.drawn[:b])])[:4]


def loop_rsa(d: Data, b: int) -> Array:
    x, y, z = _dissimilarities(d)
    upper = np.triu_indices(len(x), 1)
    right = y[upper]
    nulls = [stats.spearmanr(x[np.ix_(order, order)][upper], right)[0] for order in d.drawn[:b]]
    ranks = [stats.rankdata(m[upper]) for m in (x, y, z)]
    centred = (ranks[2] - ranks[2].mean()) / ranks[2].std()
    design = np.column_stack([np.ones(len(centred)), centred, centred**2, centred**3])
    # The moved residual is fitted again under every permutation.
    own = []
    for order in [np.arange(len(x)), *d.drawn[:b]]:
        moved = stats.rankdata(x[np.ix_(order, order)][upper])
        left, other = (r - design @ np.linalg.lstsq(design, r, rcond=None)[0] for r in (moved, ranks[1]))
        own.append(float(np.corrcoef(left, other)[0, 1]))
    return np.array([stats.spearmanr(x[upper], right)[0], *nulls[:3], own[0]])


def loop_monosemantic(d: Data, b: int) -> Array:
    acts = d.acts.toarray()
    span = acts.max(axis=0) - acts.min(axis=0)
    scaled = np.where(span > 0, (acts - acts.min(axis=0)) / np.where(span > 0, span, 1), 0.0)
    unit = d.embeddings / np.linalg.norm(d.embeddings, axis=1, keepdims=True)

    def measure(order: Array) -> float:
        cosine = (unit @ unit.T)[np.ix_(order, order)]
        scores = []
        for column in scaled.T:
            rows = np.flatnonzero(column)
            if len(rows) >= 2:
                weight = np.triu(np.outer(column[rows], column[rows]), 1)
                scores.append((weight * cosine[np.ix_(rows, rows)]).sum() / weight.sum())
        return float(np.mean(scores))

    return np.array([measure(np.arange(len(acts))), *(measure(order) for order in d.drawn[:b])])[:4]


Measure = Callable[[Data, int], Array]
METRICS: dict[str, tuple[str, Measure, Measure | None]] = {
    "similarity": ("#1 retrieval, #2 matched minus mismatched", similarity, loop_similarity),
    "overlap": ("#3 overlap", overlap, loop_overlap),
    "auroc": ("#4 concept AUROC", auroc, loop_auroc),
    "coverage": ("#4 held-out F1, #5 coverage", coverage, loop_coverage),
    "plausibility": ("#6 saliency and spans", plausible, None),
    "agreement": ("#9 agreement of concepts", agreement, None),
    "rsa": ("#12 RSA, plain and partial", rsa, loop_rsa),
    "monosemanticity": ("#14 monosemanticity", monosemantic, loop_monosemantic),
    "ratings": ("#15 kappa and alpha", raters, None),
}


# --- measuring ------------------------------------------------------------------------------------------------------


def _peak_gb() -> float:
    unit = 1e9 if sys.platform == "darwin" else 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def job(name: str, options: dict[str, Any], loop: bool, queue: Any) -> None:
    """One contender in a process of its own; puts what it measured into `queue`."""
    try:
        size = (options["items"], options["features"], options["l0"])
        _, own, slow = METRICS[name]
        own(Data(24, 60, 8, 3), options["threads"])
        data = Data(*size, options["permutations"])
        before = _peak_gb()
        if not loop:
            start = time.perf_counter()
            values = own(data, options["threads"])
            result = {"seconds": time.perf_counter() - start, "peak_gb": _peak_gb(), "data_gb": before}
        else:
            assert slow is not None
            k = max(3, options["loop_permutations"])
            times = []
            values = np.zeros(0)
            for draws in (1, k):
                start = time.perf_counter()
                values = slow(data, draws)
                times.append(time.perf_counter() - start)
            each = max(0.0, times[1] - times[0]) / (k - 1)
            result = {
                "seconds": times[0] + each * (options["permutations"] - 1),
                "measured_seconds": times,
                "per_permutation": each,
                "peak_gb": _peak_gb(),
                "data_gb": before,
            }
        queue.put(result | {"values": values.tolist()})
    except Exception as error:  # a benchmark says what failed and goes on
        queue.put({"error": f"{type(error).__name__}: {error}"})


def run(name: str, options: dict[str, Any], loop: bool) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=job, args=(name, options, loop, queue))
    process.start()
    result = queue.get()
    process.join()
    return result


def growth(options: dict[str, Any]) -> dict[str, Any]:
    """Seconds of #2 with all permutations, at n and at 2n items; the least of three runs each, taking turns."""
    from sae_lens_med.alignment.difference import matched_minus_mismatched
    from sae_lens_med.alignment.similarity import cosine_matrix

    sizes = (options["items"], 2 * options["items"])
    studies = [Data(n, min(500, options["features"]), options["l0"], options["permutations"]) for n in sizes]
    tables = [cosine_matrix(d.stems, d.explanations) for d in studies]
    seconds: list[list[float]] = [[], []]
    for _ in range(3):
        for k, (d, table) in enumerate(zip(studies, tables, strict=True)):
            start = time.perf_counter()
            matched_minus_mismatched(table, d.strata, d.drawn)
            seconds[k].append(time.perf_counter() - start)
    return {"items": sizes, "seconds": seconds, "ratio": min(seconds[1]) / min(seconds[0])}


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("--items", type=int, default=436, help="texts on each side (436)")
    add("--features", type=int, default=10_240, help="of the SAE (10,240)")
    add("--l0", type=float, default=300, help="features in a text on average (300)")
    add("--permutations", type=int, default=10_000, help="of every null (10,000)")
    add("--loop-permutations", type=int, default=3, help="that the loops compute, at least 3 (3)")
    add("--metrics", help=f"names with commas; all without it: {', '.join(METRICS)}")
    add("--no-loops", action="store_true", help="this package alone")
    add("--threads", type=int, default=reporting.usable_cores(), help="(all usable cores)")
    add("--json", type=Path, metavar="FILE", help="write the whole result there")
    options = made.parse_args()
    options.device = "cpu"
    names = list(METRICS) if options.metrics is None else options.metrics.split(",")
    for name in names:
        if name not in METRICS:
            made.error(f"--metrics: there is no {name!r}; there are {', '.join(METRICS)}")
    settings = {k: v for k, v in vars(options).items() if k not in ("json", "device")}
    result = reporting.begin("alignment", options, settings)
    rows, total, most = [], 0.0, 0.0
    for name in names:
        label, _, slow = METRICS[name]
        own = run(name, settings, loop=False)
        loops = run(name, settings, loop=True) if slow is not None and not options.no_loops else None
        entry: dict[str, Any] = {"metric": name, "label": label, "own": own, "loops": loops}
        cells = ["", "", "", ""]
        if "error" in own:
            tell(f"{name}: failed: {own['error']}")
        else:
            total, most = total + own["seconds"], max(most, own["peak_gb"])
            cells[:2] = [f"{own['seconds']:.2f}", f"{own['peak_gb']:.2f} (+{own['peak_gb'] - own['data_gb']:.2f})"]
            tell(f"{name}: {own['seconds']:.2f} s")
        if loops is not None and "error" in loops:
            tell(f"{name}: the loops failed: {loops['error']}")
        elif loops is not None and "error" not in own:
            entry["ratio"] = loops["seconds"] / own["seconds"]
            entry["largest_difference"] = float(np.abs(np.subtract(own["values"], loops["values"])).max())
            cells[2:] = [f"{loops['seconds']:.0f}", f"{entry['ratio']:.0f}"]
            if entry["largest_difference"] > 1e-9:
                tell(f"{name}: the loops give other values, {entry['largest_difference']:.2g} apart.")
        rows.append([label, *cells])
        result["sizes"].append(entry)
    say()
    say(reporting.markdown(["", "seconds", "peak GB (over data)", "loops, s (extrapolated)", "times as fast"], rows))
    result |= {"total_seconds": total, "peak_gb": most, "growth": growth(settings)}
    ratio = result["growth"]["ratio"]
    say()
    full = (options.items, options.features, options.permutations) >= (436, 10_240, 10_000)
    reached = "" if not full else (" reached" if total <= LIMIT_SECONDS and most <= LIMIT_GB else " NOT reached")
    goal = f"; {LIMIT_SECONDS} s and {LIMIT_GB} GB were to be kept:{reached}" if full else ""
    say(f"- All together {total:.1f} s, at most {most:.2f} GB{goal}.")
    n, double = result["growth"]["items"]
    say(
        f"- The permutations of #2 cost {ratio:.2f} times as much at {double} items as at {n} (below 4 was to be kept)."
    )
    if options.json:
        reporting.write_result(options.json, json.loads(json.dumps(result)))


if __name__ == "__main__":
    main()
