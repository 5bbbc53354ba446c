"""Figures hold the numbers they were given, on the axes they were given; their SVG is whole, escaped, reproducible."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sae_lens_med import plots
from sae_lens_med.errors import DataError
from sae_lens_med.languages import KOREAN


class Deferred(NamedTuple):
    deferred: float
    n: int
    accuracy: float
    null_mean: float
    null_interval: tuple[float, float]


class Point(NamedTuple):
    hook_name: str
    curve: str
    l0: float
    explained_variance: float


SVG = "{http://www.w3.org/2000/svg}"
PAYLOAD = '<script>alert("x")</script>&$a_1$'
RNG = np.random.default_rng(0)
OWN, OTHERS = RNG.normal(0.3, 0.05, 60), RNG.normal(0.2, 0.05, 60)
NULL = RNG.normal(0, 0.01, 400)
ROWS = [
    plots.IntervalRow("황달", 0.25, (0.1, 0.42), 0.2, 20),
    plots.IntervalRow(PAYLOAD, 0.5, None, None, 7),
    plots.IntervalRow("against a null", 0.6, (0.5, 0.7), 0.3, null_interval=(0.2, 0.4)),
]
CURVE = [
    {"step": 10, "loss": 9.0, "l0": 50.0, "explained_variance": 0.1, "dead_fraction": 0.5},
    {"step": 20, "loss": 4.0, "l0": 30.0, "explained_variance": 0.6, "dead_fraction": 0.2, "revived": 12},
    {"step": 30, "loss": 3.0, "l0": 25.0, "explained_variance": 0.8, "dead_fraction": 0.0},
]
STEERED = [
    plots.SteeringPoint("s@2", 2.0, 0.3, (0.2, 0.4), (0.1, 0.5), 0.25, 0.5),
    plots.SteeringPoint("plain", 0.0, 0.6, (0.5, 0.7), (0.6, 0.6), 0.6, plain=True),
    plots.SteeringPoint("s@-1", -1.0, 0.4, None, (0.3, 0.7), 0.5, 0.9),
]
ENTRIES = [
    plots.SteeringEntry(PAYLOAD, tuple(STEERED), tuple(STEERED[:1])),
    plots.SteeringEntry("two", *[(STEERED[2],)] * 2),
]
DEFERRED = [Deferred(0.0, 40, 0.35, 0.35, (0.35, 0.35)), Deferred(0.5, 20, 0.7, 0.35, (0.25, 0.45))]
LETTERS = (["A", "B", "no answer"], [0.5, 0.5, 0.0], [0.8, 0.1, 0.1])


def point(l0: float, ev: float, curve: str = "tied_l1", hook: str = "blocks.1.hook_resid_post") -> Point:
    return Point(hook, curve, l0, ev)


POINTS = [point(100, 0.9), point(25, 0.7), point(50, 0.8), point(40, 0.95, PAYLOAD), point(30, 0.6, hook="blocks.2")]

FOREST = [
    plots.ForestRow("MRR", 0.43, 0.12, (0.08, 0.16), (0.34, 0.53), q=0.013, stands_out=True),
    plots.ForestRow(PAYLOAD, -0.5, 0.0, (-1.0, 1.0)),
]

PAIRS = [
    plots.PairRow("MRR", FOREST[0], plots.ForestRow("", 0.1, 0.12, (0.08, 0.16)), heading="read off"),
    plots.PairRow(PAYLOAD, None, FOREST[1]),
]

FIGURES: dict[str, Callable[..., Axes]] = {
    "intervals": lambda ax=None: plots.intervals(ROWS, ax),
    "forest": lambda ax=None: plots.forest(FOREST, ax),
    "pairs": lambda ax=None: plots.pairs(PAIRS, ("first", PAYLOAD), ax),
    "letter_shares": lambda ax=None: plots.letter_shares(*LETTERS, ax),
    "similarity_histogram": lambda ax=None: plots.similarity_histogram(OWN, OTHERS, ax),
    "null_histogram": lambda ax=None: plots.null_histogram(NULL, 0.05, ax),
    "frontier": lambda ax=None: plots.frontier(POINTS, ax),
    "training_curve": lambda ax=None: plots.training_curve(CURVE, "dead_fraction", ax),
    "steering": lambda ax=None: plots.steering(STEERED, ax, plain=0.6),
    "deferral": lambda ax=None: plots.deferral(DEFERRED, ax),
}
PANELS: dict[str, Callable[[], Sequence[Axes]]] = {
    "frontier_panels": lambda: plots.frontier_panels(POINTS),
    "training_panels": lambda: plots.training_panels(CURVE),
    "steering_panels": lambda: plots.steering_panels(ENTRIES, plain_accuracy=0.6, n_sets=10, heading=PAYLOAD),
}
BOTH: dict[str, Any] = FIGURES | PANELS


def xs(line: Line2D) -> list[float]:
    return [float(x) for x in np.asarray(line.get_xdata())]


def corners(band: Collection) -> set[tuple[float, float]]:
    return {(float(x), float(y)) for x, y in np.asarray(band.get_paths()[0].vertices)}


def xy(ax: Axes) -> list[list[tuple[float, float]]]:
    """The points of every line."""
    lines = (np.asarray(line.get_xydata(), dtype=float) for line in ax.lines)
    return [[(float(x), float(y)) for x, y in line] for line in lines]


def settings() -> dict[str, Any]:
    """Those of matplotlib; reading the backend would choose one."""
    return {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"}


def texts(svg: str) -> list[str]:
    return ["".join(e.itertext()) for e in ElementTree.fromstring(svg).iter(f"{SVG}text")]


# --- what is drawn --------------------------------------------------------------------------------------------------


def test_every_drawing_function_is_tested_here() -> None:
    public = {name for name in plots.__all__ if name[0].islower() and not name.startswith("describe_")}
    assert public - {"svg"} == set(BOTH)


def test_pairs_draws_both_values_as_far_from_their_nulls_as_they_lie_in_spreads() -> None:
    ax = plots.pairs(PAIRS, ("A", "B"))
    marks = [(line.get_marker(), xs(line)[0], line.get_markerfacecolor()) for line in ax.lines if len(xs(line)) == 1]
    spread = (0.16 - 0.08) / 3.92
    assert [mark for mark, _, _ in marks] == ["o", "s", "s"]
    assert [far for _, far, _ in marks] == pytest.approx([(0.43 - 0.12) / spread, -0.02 / spread, -0.5 * 1.96])
    assert [face != "none" for _, _, face in marks] == [True, False, False]
    said = plots.describe_pairs(PAIRS, ("A", "B"))
    assert said == f"MRR: A 0.4300 (null 0.1200*), B 0.1000 (null 0.1200); {PAYLOAD}: A –, B -0.5000 (null 0.0000)."
    with pytest.raises(DataError, match="pairs needs at least one number"):
        plots.pairs([plots.PairRow("none", None, None)], ("A", "B"))


def test_forest_draws_each_value_as_far_from_its_null_as_it_lies_in_spreads() -> None:
    ax = plots.forest(FOREST)
    lines = {label: [line for line in ax.lines if line.get_label() == label] for label in ("value", "interval")}
    # 95 % of a null is 2 * 1.96 standard deviations: (0.16 - 0.08) / 3.92 = 0.020408.
    assert [xs(line)[0] for line in lines["value"]] == pytest.approx([0.31 / 0.0204082, -0.5 / 0.5102041], rel=1e-5)
    assert xs(lines["interval"][0]) == pytest.approx([0.22 / 0.0204082, 0.41 / 0.0204082], rel=1e-5)
    assert [line.get_markerfacecolor() == "none" for line in lines["value"]] == [False, True]
    for band in ax.collections:
        assert {round(x, 6) for x, _ in corners(band)} == {-1.96, 1.96}
    assert plots.describe_forest(FOREST).startswith("MRR: 0.4300 (0.3400 to 0.5300), null 0.1200 (0.0800 to 0.1600), q")
    with pytest.raises(DataError, match="at least one row"):
        plots.forest([])
    with pytest.raises(DataError, match="null without a spread"):
        plots.ForestRow("x", 1.0, 0.0, (0.5, 0.5))


def test_figures_of_reports_speak_korean() -> None:
    """Every text that is not a number, a letter or a label that was given has Korean in it, descriptions too."""
    drawn = [
        (plots.intervals(ROWS[:1], language=KOREAN), plots.describe_intervals(ROWS[:1], language=KOREAN)),
        (plots.forest(FOREST[:1], language=KOREAN), plots.describe_forest(FOREST[:1], language=KOREAN)),
        (plots.letter_shares(*LETTERS, language=KOREAN), plots.describe_letter_shares(*LETTERS, language=KOREAN)),
        (
            plots.similarity_histogram(OWN, OTHERS, language=KOREAN),
            plots.describe_similarity_histogram(OWN, OTHERS, language=KOREAN),
        ),
        (plots.null_histogram(NULL, 0.05, language=KOREAN), plots.describe_null_histogram(NULL, 0.05, language=KOREAN)),
        (plots.deferral(DEFERRED, language=KOREAN), plots.describe_deferral(DEFERRED, language=KOREAN)),
    ]
    for ax, description in drawn:
        assert re.search("[가-힣]", description)
        for text in texts(plots.svg(ax, title="t", description="d")):
            words = re.findall(r"[A-Za-z]{3,}", text)
            assert not set(words) - {"MRR", "answer"}, text


def test_intervals_holds_every_value_interval_and_chance() -> None:
    ax = plots.intervals(ROWS)
    labels = ("value", "interval", "chance")
    lines = {label: [line for line in ax.lines if line.get_label() == label] for label in labels}
    assert xs(lines["value"][0]) == [0.25, 0.5, 0.6]
    assert [xs(line) for line in lines["interval"]] == [[0.1, 0.42], [0.5, 0.7]]
    assert [xs(line)[0] for line in lines["chance"]] == [0.2, 0.3]
    (band,) = ax.collections
    assert {x for x, _ in corners(band)} == {0.2, 0.4}
    # The first row is on top.
    heights = ax.transData.transform(np.column_stack([np.zeros(3), lines["value"][0].get_ydata()]))[:, 1]
    assert list(heights) == sorted(heights, reverse=True)
    assert {"황달", PAYLOAD, "0.250 · n 20", "0.600"} <= {text.get_text() for text in ax.texts}


def test_letter_shares_has_a_bar_for_each_share() -> None:
    ax = plots.letter_shares(*LETTERS)
    widths = [[bar.get_width() for bar in bars] for bars in ax.containers]  # type: ignore[attr-defined]  # bars are rectangles
    assert widths == [LETTERS[1], LETTERS[2]]
    assert [label.get_text() for label in ax.get_yticklabels()] == LETTERS[0]


def test_histograms_count_every_value_once() -> None:
    ax = plots.similarity_histogram(OWN, OTHERS)
    for patch in ax.patches:
        assert float(patch.get_data().values.sum()) == pytest.approx(1)  # type: ignore[attr-defined]  # steps
    assert [xs(line)[0] for line in ax.lines] == [OWN.mean(), OTHERS.mean()]
    ax = plots.null_histogram(NULL, 0.05)
    steps = [patch for patch in ax.patches if hasattr(patch, "get_data")]
    values, edges, _ = steps[0].get_data()  # type: ignore[attr-defined]  # chosen for it
    assert values.sum() == 400 and edges[0] < min(NULL) and edges[-1] > 0.05
    assert xs(ax.lines[0]) == [0.05, 0.05]
    assert plots.null_histogram([0.0] * 5, 0.0).lines  # equal values have a width, too


def test_frontier_draws_a_line_a_curve_on_a_logarithmic_axis() -> None:
    ax = plots.frontier(POINTS)
    assert ax.get_xscale() == "log"
    curves = {line.get_label(): line for line in ax.lines}
    assert len(curves) == 3  # a curve of another hook is another curve
    assert [(25, 0.7), (50, 0.8), (100, 0.9)] in xy(ax) and "blocks.1.hook_resid_post tied_l1" in curves
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in ax.lines}
    assert len(looks) == 2
    legend = ax.get_legend()
    assert legend is not None
    # In the order in which the curves end.
    assert [text.get_text().split(" ", 1)[1] for text in legend.get_texts()] == [PAYLOAD, "tied_l1", "tied_l1"]


def test_many_curves_look_different() -> None:
    ax = plots.frontier([point(10 * i + 10, 0.5, f"curve {k}") for k in range(18) for i in range(2)])
    assert len({(line.get_color(), line.get_linestyle()) for line in ax.lines}) == 18


def test_panels_of_a_frontier_share_axes_and_looks() -> None:
    one, two = plots.frontier_panels(POINTS)
    assert one.get_title(loc="left") == "blocks.1.hook_resid_post" and two.get_title(loc="left") == "blocks.2"
    assert one.get_xlim() == two.get_xlim() and one.get_ylim() == two.get_ylim()
    looks = [{line.get_label(): line.get_color() for line in ax.lines} for ax in (one, two)]
    assert looks[0]["tied_l1"] == looks[1]["tied_l1"]


@pytest.mark.parametrize("l0s", [(30.0,), (30.0, 30.0), (0.02, 4000.0), (27.2, 159.1), (60.0, 61.0)])
def test_every_logarithmic_axis_has_ticks(l0s: tuple[float, ...]) -> None:
    (ax,) = plots.frontier_panels([point(l0, 0.5 - 40 * i) for i, l0 in enumerate(l0s)])
    low, high = ax.get_xlim()
    assert low < min(l0s) <= max(l0s) < high
    assert len([tick for tick in ax.get_xticks() if low <= tick <= high]) >= 3


def test_what_has_no_place_on_the_axis_is_left_out_and_said() -> None:
    odd = [point(0.0, 0.5), point(float("nan"), 0.5), point(3.0, float("inf"))]
    ax = plots.frontier(odd)
    assert not ax.lines and [text.get_text() for text in ax.texts] == ["No run with an L0 above 0."]
    assert plots.describe_frontier(odd) == "No run with an L0 above 0."
    assert len(plots.frontier([*odd, point(3, 0.2)]).lines) == 1


def test_training_panels_hold_each_quantity_and_the_revivals() -> None:
    axes = plots.training_panels(CURVE)
    for ax, key in zip(axes, ("loss", "l0", "explained_variance", "dead_fraction"), strict=True):
        assert xy(ax)[0] == [(p["step"], p[key]) for p in CURVE]
    assert [len(ax.lines) for ax in axes] == [1, 1, 1, 2]
    assert xs(axes[3].lines[1]) == [20, 20]
    assert "12 dead features resampled at step 20" in plots.describe_training(CURVE)
    assert plots.describe_training([]) == "No step was recorded."
    assert len(plots.training_panels([])) == 4
    with pytest.raises(DataError, match=r"has no 'l1'; did you mean l0\?; it has loss"):
        plots.training_curve(CURVE, "l1")


def test_steering_draws_the_line_its_intervals_and_the_band() -> None:
    ax = plots.steering(STEERED, plain=0.6)
    drawn = xy(ax)
    assert [(-1, 0.4), (0, 0.6), (2, 0.3)] in drawn
    assert [(-1, 0.5), (0, 0.6), (2, 0.25)] in drawn  # the mean of the random sets
    assert [(2, 0.2), (2, 0.4)] in drawn and [(0, 0.5), (0, 0.7)] in drawn
    assert {y for _, y in drawn[0]} == {0.6}
    (band,) = ax.collections
    assert {(-1, 0.3), (-1, 0.7), (2, 0.1), (2, 0.5)} <= corners(band)
    (plain,) = [line for line in ax.lines if line.get_label() == "plain" and line.get_marker() == "o"]
    assert plain.get_markerfacecolor() == "none"
    low, high = ax.get_ylim()
    assert low < 0.1 and high > 0.7


def test_steering_panels_share_their_scales_and_explain_the_marks() -> None:
    axes = plots.steering_panels(ENTRIES, plain_accuracy=0.6, n_sets=10, heading="gemma on 질문")
    assert len(axes) == 4
    assert axes[0].get_ylim() == axes[2].get_ylim() and axes[1].get_ylim() == axes[3].get_ylim()
    words = texts(plots.svg(axes, title="t", description="d"))
    assert {"10 matched random sets: 95 % and mean", "gemma on 질문", "two"} <= set(words)
    none = texts(plots.svg(plots.steering_panels(ENTRIES, plain_accuracy=0.6), title="t", description="d"))
    assert not any("random" in word for word in none)
    described = plots.describe_steering(ENTRIES)
    assert "s@2: accuracy 0.300 (0.200 to 0.400), random sets 0.100 to 0.500, p 0.500; plain: accuracy 0.6" in described


def test_deferral_draws_the_curve_and_its_null() -> None:
    ax = plots.deferral(DEFERRED)
    assert [(0, 0.35), (0.5, 0.7)] in xy(ax) and [(0, 0.35), (0.5, 0.35)] in xy(ax)
    (band,) = ax.collections
    assert {(0.5, 0.25), (0.5, 0.45)} <= corners(band)
    assert plots.describe_deferral(DEFERRED).startswith("40 items. Accuracy 0.350 with none deferred, 0.700 on the 20")


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.intervals([]), "needs at least one row"),
        (lambda: plots.similarity_histogram([], [1.0]), "matched must be a list of at least one finite number"),
        (lambda: plots.similarity_histogram([[1.0]], [1.0]), r"not of shape \(1, 1\)"),
        (lambda: plots.null_histogram([0.0, float("nan")], 1.0), "null must be a list of"),
        (lambda: plots.null_histogram([0.0], float("inf")), "observed must be a list of"),
        (lambda: plots.letter_shares(["A"], [float("nan")], [1.0]), "gold must be a list of"),
        (lambda: plots.steering([]), "needs at least one point"),
        (lambda: plots.steering_panels([], plain_accuracy=0.5), "needs at least one entry"),
        (lambda: plots.deferral([]), "needs scored items that have a confidence"),
    ],
)
def test_what_cannot_be_drawn_is_said(draw: Callable[[], Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        draw()


# --- where it is drawn ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_given_axes_are_used_and_returned(name: str) -> None:
    left, right = Figure().subplots(1, 2)
    assert FIGURES[name](right) is right
    assert right.has_data() and not left.has_data()


@pytest.mark.parametrize("name", BOTH)
def test_the_users_settings_do_not_change_the_packages_own_figures(name: str) -> None:
    usual = svg_of(name)
    mine: dict[Any, Any] = {
        "axes.facecolor": "red",
        "text.color": "white",
        "xtick.color": "white",
        "axes.edgecolor": "white",
    }
    mine |= {"lines.linewidth": 9.0, "font.size": 30.0, "svg.fonttype": "path"}
    before = settings()
    with matplotlib.rc_context(mine):
        assert svg_of.__wrapped__(name) == usual
    assert settings() == before


def test_on_the_users_axes_the_users_colour_of_text_is_taken() -> None:
    with matplotlib.rc_context({"text.color": "white"}):
        ax = plots.steering(STEERED, Figure().subplots())
    assert ax.lines[0].get_color() == "white"


def test_importing_loads_no_matplotlib_and_drawing_no_pyplot() -> None:
    code = (
        "import sys, json, sae_lens_med as slm; slm.plots.frontier; first = 'matplotlib' in sys.modules; "
        "slm.plots.svg(slm.plots.null_histogram([0, 1], 2), title='t', description='d'); "
        "print(json.dumps([first, *(name in sys.modules for name in ('matplotlib', 'matplotlib.pyplot', 'torch'))]))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [False, True, False, False]


# --- as SVG ---------------------------------------------------------------------------------------------------------


@cache
def svg_of(name: str) -> str:
    return plots.svg(BOTH[name](), title="A title", description="What it shows.")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", BOTH)
def test_the_text_is_whole_described_and_the_same_twice(name: str) -> None:
    said = {"title": PAYLOAD, "description": f"황달 {PAYLOAD}"}
    text = plots.svg(BOTH[name](), **said)
    assert text == plots.svg(BOTH[name](), **said)
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg" and root.get("role") == "img"
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert len(ids) == len(set(ids))
    by_id = {e.get("id"): e for e in root.iter()}
    title, desc = (by_id[part] for part in root.attrib["aria-labelledby"].split())
    assert (title.tag, title.text) == (f"{SVG}title", PAYLOAD)
    assert (desc.tag, desc.text) == (f"{SVG}desc", f"황달 {PAYLOAD}")
    tags = {e.tag.removeprefix(SVG) for e in root.iter()}
    assert tags <= {"svg", "title", "desc", "style", "g", "path", "text", "defs", "clipPath", "rect"}
    for element in root.iter():
        assert not any(attribute.startswith("on") or attribute.endswith("href") for attribute in element.attrib)
        for value in element.attrib.values():
            if "url(" in value:
                assert value.removeprefix("url(#").removesuffix(")") in by_id
    assert "nan" not in text and "<!--" not in text and "2026" not in text


@pytest.mark.parametrize("name", BOTH)
def test_ink_and_ground_are_those_of_the_page(name: str) -> None:
    root = ElementTree.fromstring(svg_of(name))
    assert root.get("fill") == "currentColor"
    coloured = " ".join(e.get("style", "") for e in root.iter())
    assert "currentColor" in coloured and "#000000" not in coloured and "#ffffff" not in coloured
    (style,) = [e.text or "" for e in root.iter(f"{SVG}style")]
    # Rules hold in a file of its own only: inside a page they would change the page.
    rules = [rule for rule in style.replace("@media screen and (prefers-color-scheme:dark){", "").split("}") if rule]
    assert len(rules) == 2 and all(rule.startswith("svg:root{color:#") for rule in rules)


def test_labels_are_text_and_never_markup() -> None:
    words = texts(svg_of("intervals"))
    assert "황달" in words and PAYLOAD in words
    for name in ("frontier", "frontier_panels", "steering_panels"):
        assert any(PAYLOAD in word for word in texts(svg_of(name)))
    assert "script" not in {e.tag.removeprefix(SVG) for e in ElementTree.fromstring(svg_of("intervals")).iter()}


@pytest.mark.parametrize("label", ["a\x00b\x0bc", "a\ud800b", "two\nlines", "_under", "", "x" * 500])
def test_what_cannot_be_shown_in_a_label_is_replaced(label: str) -> None:
    for ax in (
        plots.intervals([plots.IntervalRow(label, 0.5)]),
        plots.frontier_panels([point(3, 0.5, label, label)]),
        plots.letter_shares([label], [0.5], [0.5]),
        plots.steering_panels([plots.SteeringEntry(label, *[tuple(STEERED)] * 2)], plain_accuracy=0, heading=label),
    ):
        text = plots.svg(ax, title=label, description=label)
        ElementTree.fromstring(text).iter()
        text.encode()
    assert plots.svg(plots.intervals(ROWS), title="a\x00b", description="").count("a�b") == 1


def test_pictures_in_one_page_share_no_id() -> None:
    ids = [{e.get("id") for e in ElementTree.fromstring(svg_of(n)).iter() if e.get("id")} for n in BOTH]
    assert len(set().union(*ids)) == sum(map(len, ids))


def test_axes_of_pyplot_and_what_is_drawn_with_it_survive() -> None:
    """Colours, a picture and hatches are kept; black is the page's ink."""
    fig = Figure()
    ax = fig.subplots()
    ax.plot([0, 1], [0, 1], color="#123456")
    ax.bar([0.5], [0.5], hatch="//", color="#abcdef")
    ax.imshow(np.eye(2), extent=(0, 1, 0, 1))
    text = plots.svg(ax, title="t", description="d")
    root = ElementTree.fromstring(text)
    assert "#123456" in text and "#abcdef" in text
    (image,) = root.iter(f"{SVG}image")
    assert image.attrib["href"].startswith("data:image/png;base64,")
    assert fig.get_facecolor() == (1.0, 1.0, 1.0, 1.0), "the user's figure stays as it was"
