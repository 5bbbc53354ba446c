"""LLMXAI on a study of the size of an exam: building its index, starting, and answering readers.

    python benchmarks/app.py --json app.json                     5,000 cases of 1,000 tokens, 32,768 features
    python benchmarks/app.py --cases 500 --json app-tenth.json   a tenth of the cases

The study is made up in a temporary folder and removed afterwards: texts in the layout of real ones, `--l0` features a
token drawn by a power law (far more different features a case than real SAEs have), answers at random. At full size it
takes 2.2 GB. What is measured, each in a process of its own:

- **index**: `sae-lens-med index`, without and with what Numba compiled before; seconds, peak memory, megabytes written;
- **server**: `sae-lens-med serve --no-index`; seconds until it answers, resident memory when it does and at the end;
- **one reader**: a case, a feature, what fires at a token and a search, through HTTP, as JSON and as the page that a
  browser gets; medians and 95th percentiles of `--requests` each, of cases and features that were not asked before;
- **painting**: in Chromium (by Playwright; left out with a sentence where either is missing), milliseconds that the
  page's script takes when a feature is pointed at that fires at 1,000 segments, and until the frame that shows it is
  done, which waits for the screen's clock (16.7 ms) twice; medians and 95th percentiles of `HOVERS`;
- **everything**: the pages that are none of these (lists, the study, its numbers) are opened once, as they stay in
  memory, too;
- **many readers**: `--readers` at once, each waiting 2 to 5 s between two requests, for `--seconds`; the first
  `RAMP` seconds, in which all of them start, do not count.

The clients run on the same cores as the server.
"""

import argparse
import http.client
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import reporting
from reporting import say, tell

RAMP = 5.0
HOVERS = 50
PAINTED = 1_000
"""Segments that the feature which is pointed at fires at."""
SHARD_ITEMS = 64
D_IN = 8
TARGETS = {
    "index_s": 90,
    "index_peak_mb": 500,
    "index_mb": 100,
    "ready_s": 3,
    "resident_mb": 250,
    "case_p95_ms": 60,
    "feature_p95_ms": 60,
    "search_p95_ms": 50,
    "token_p95_ms": 10,
    "page_kb": 150,
    "paint_p95_ms": 16,
    "readers_p95_ms": 300,
    "readers_errors": 0,
}
"""What the interface is to keep at full size on two quiet cores."""
SYLLABLES = [chr(code) for code in range(0xAC00, 0xD7A4, 17)]


# --- the study ------------------------------------------------------------------------------------------------------


class Words:
    """Made-up words, the commonest first, drawn by a power law."""

    def __init__(self, rng: np.random.Generator, n: int = 8_000) -> None:
        self.rng = rng
        lengths = rng.integers(2, 5, n)
        self.words = ["".join(rng.choice(SYLLABLES, length)) for length in lengths]
        share = 1 / (np.arange(n) + 5.0)
        self.cumulative = np.cumsum(share / share.sum())

    def text(self, tokens: int) -> tuple[str, list[tuple[int, int]]]:
        """About so many tokens of at most two syllables, each with its characters; a space belongs to the token after
        it."""
        pieces: list[str] = []
        spans: list[tuple[int, int]] = []
        length = 0
        while len(spans) < tokens:
            for place in np.searchsorted(self.cumulative, self.rng.random(64)).tolist():
                word = self.words[min(place, len(self.words) - 1)]
                start = length
                if length:
                    pieces.append(" ")
                    length += 1
                pieces.append(word)
                for first in range(0, len(word), 2):
                    end = length + min(2, len(word) - first)
                    spans.append((start, end))
                    start = length = end
                if len(spans) >= tokens:
                    break
        return "".join(pieces), spans


def make_study(folder: Path, cases: int, tokens: int, l0: int, features: int) -> None:
    """A study folder of this size."""
    from sae_lens_med.features.store import join_shards, open_collection, write_apart
    from sae_lens_med.prompts.templates import find_templates
    from sae_lens_med.records import PARTS, ItemResult, McqItem, MetricValue, Provenance
    from sae_lens_med.runs.files import json_sha256, write_json, write_jsonl

    rng = np.random.default_rng(0)
    words = Words(rng)
    share = (np.arange(features) + 20.0) ** -0.7
    cumulative = np.cumsum(share / share.sum())
    place_of = rng.permutation(features)
    templates = find_templates("letter")
    items: list[McqItem] = []
    shown: list[list[tuple[int, int, int, int]]] = []
    texts: list[dict[str, Any]] = []
    for i in range(cases):
        stem, stem_spans = words.text(int(tokens * 0.6))
        options = [words.text(max(tokens // 50, 2)) for _ in range(5)]
        explanation, explanation_spans = words.text(int(tokens * 0.3))
        item = McqItem(
            f"case {i}",
            f"subject{i % 20}",
            "ko",
            stem,
            tuple(text for text, _ in options),
            i % 5,
            explanation,
            "expert",
        )
        rendered = templates.of(item).render(item)
        starts = {span.label: span.start for span in rendered.spans}
        rows = [(0, 0, PARTS.index("other"), 0)]
        rows += [(a + starts["stem"], b + starts["stem"], PARTS.index("stem"), 0) for a, b in stem_spans]
        for letter, (_, spans) in zip("ABCDE", options, strict=True):
            at = starts[f"option:{letter}"]
            rows += [(a + at, b + at, PARTS.index("option"), 0) for a, b in spans]
        rows += [(a, b, PARTS.index("explanation"), 1) for a, b in explanation_spans]
        items.append(item)
        shown.append(rows)
        texts.append({"id": item.id, "question": rendered.text, "explanation": explanation})
    sae = {"source": "made up", "sae_id": "x", "sha256": "a" * 64, "hook_name": "blocks.0.hook_resid_post"}
    sae_settings = {"d_sae": features, "d_in": D_IN}
    provenance = Provenance(
        created="2026-01-01T00:00:00+00:00",
        versions=reporting.versions(),
        model={"name": "made-up", "source": "local", "dtype": "float32", "sha256": "b" * 64},
        sae={**sae, "settings": sae_settings},
        data={"source": "made up", "sha256": json_sha256([len(items)]), "n_items": len(items)},
        settings={"method": "option_letter", "shots": [], "permutations": 10, "left_out": None},
        seed=0,
    )
    folder.mkdir(parents=True)
    write_json(folder / "manifest.json", {"format": 1, "provenance": provenance.to_dict(), "stages": {}, "notes": []})
    write_jsonl(folder / "questions.jsonl", (item.to_dict() for item in items))
    results = []
    for i, item in enumerate(items):
        said = "ABCDE"[(i * 7) % 5]
        logprobs = tuple(rng.normal(-2, 1, 5).tolist())
        results.append(ItemResult(item.id, item.subject, item.gold_letter, said, logprobs, said == item.gold_letter))
    write_jsonl(folder / "items.jsonl", (result.to_dict() for result in results))
    right = sum(result.correct is True for result in results) / len(results)
    write_json(folder / "metrics.json", [MetricValue("accuracy", right, (0.0, 1.0), len(results)).to_dict()])
    run = open_collection(folder / "features", {"model": provenance.model, "sae": {**sae, "d_sae": features}}, cases,
                          SHARD_ITEMS)  # fmt: skip
    run.begin()
    for index, first in enumerate(range(0, cases, SHARD_ITEMS)):
        own = range(first, min(first + SHARD_ITEMS, cases))
        about = np.array([row for i in own for row in shown[i]], dtype=np.int32)
        n = len(about)
        drawn = np.sort(place_of[np.minimum(np.searchsorted(cumulative, rng.random((n, l0))), features - 1)], axis=1)
        fresh = np.ones(drawn.shape, dtype=bool)
        fresh[:, 1:] = drawn[:, 1:] != drawn[:, :-1]
        values = rng.gamma(2.0, size=drawn.shape).astype(np.float32) + np.float32(1e-3)
        arrays = {
            "data": values[fresh],
            "indices": drawn[fresh],
            "indptr": np.concatenate([[0], np.cumsum(fresh.sum(axis=1))]),
            "token_item": np.repeat(own, [len(shown[i]) for i in own]),
            "token_part": about[:, 2],
            "token_text": about[:, 3],
            "token_id": np.arange(n),
            "char_start": about[:, 0],
            "char_end": about[:, 1],
            "norm": np.ones(n),
            "error_norm": np.zeros(n),
            "excluded": about[:, 1] == 0,
            "raw_mean_stem": np.zeros((len(own), D_IN)),
            "raw_mean_explanation": np.zeros((len(own), D_IN)),
            "has_explanation": np.ones(len(own), dtype=bool),
        }
        counts = {"n_tokens": n, "n_active": int(fresh.sum())}
        write_apart(folder / "features", index, arrays, [texts[i] for i in own], counts)
        join_shards(run)
        tell(f"made {own.stop} of {cases} cases")


# --- the index ------------------------------------------------------------------------------------------------------


def measure_index(study: Path) -> dict[str, float]:
    """Seconds and peak memory of the command, in a process of its own, and what it wrote."""
    code = (
        "import json, re, sys, time\n"
        "begin = time.perf_counter()\n"
        "from pathlib import Path\n"
        "from sae_lens_med.app.index import build_index\n"
        "assert build_index(Path(sys.argv[1]), rebuild=True, progress=False)\n"
        # Not `ru_maxrss`: a process inherits it from the one that started it, which has just made the study.
        "status = Path('/proc/self/status').read_text()\n"
        "peak = int(re.findall(r'VmHWM:\\s+(\\d+)', status)[0]) / 1024\n"
        "print(json.dumps({'s': time.perf_counter() - begin, 'peak_mb': peak}))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(study)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    return {**found, "mb": sum(path.stat().st_size for path in (study / "app").iterdir()) / 1e6}


# --- the server -----------------------------------------------------------------------------------------------------


class Server:
    """`sae-lens-med serve` on a study."""

    def __init__(self, study: Path) -> None:
        begin = time.perf_counter()
        command = [sys.executable, "-m", "sae_lens_med", "serve", str(study), "--no-index", "--no-open", "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.search(r"http://[^:/]+:(\d+)", line):
                self.port = int(found[1])
                break
        else:
            raise RuntimeError("the server ended before it answered")
        # Its address is said before it listens there.
        while self.process.poll() is None:
            try:
                self.get("/1/api/cases")
                break
            except ConnectionRefusedError:
                time.sleep(0.02)
        self.ready_s = time.perf_counter() - begin

    def get(self, path: str) -> bytes:
        """The body of an answer that is 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{path}: status {answer.status}")
            return body
        finally:
            connection.close()

    def resident_mb(self) -> float:
        """Of the server's process now."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1024

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def asked(cases: int, features: int, words: list[str], rng: np.random.Generator) -> dict[str, Any]:
    """What a reader asks for: name -> an endless row of addresses, of cases and features in random order."""

    def addresses(form: str) -> Iterator[str]:
        while True:
            for case, feature in zip(rng.permutation(cases), rng.integers(0, features, cases), strict=True):
                yield form.format(case=case, feature=feature, word=quote(words[int(rng.integers(len(words)))]),
                                  segment=int(rng.integers(50)))  # fmt: skip

    return {
        "case": addresses("/1/api/cases/{case}"),
        "feature": addresses("/1/api/features/{feature}"),
        "token": addresses("/1/api/cases/{case}/token?part=stem&segment={segment}"),
        "search": addresses("/1/api/search?q={word}"),
        "case page": addresses("/1/cases/{case}"),
        "feature page": addresses("/1/features/{feature}"),
        "search page": addresses("/1/search?q={word}"),
    }


def one_reader(server: Server, rows: dict[str, Any], requests: int) -> dict[str, dict[str, float]]:
    """Milliseconds and kilobytes by kind of request, one after another."""
    found = {}
    for name, addresses in rows.items():
        times, sizes = [], []
        for _ in range(requests):
            address = next(addresses)
            if name == "token":  # a click is on a case that is open
                server.get(address.split("/token")[0])
            begin = time.perf_counter()
            sizes.append(len(server.get(address)))
            times.append(1e3 * (time.perf_counter() - begin))
        found[name] = {
            "p50_ms": float(np.percentile(times, 50)),
            "p95_ms": float(np.percentile(times, 95)),
            "kb": float(np.percentile(sizes, 95)) / 1e3,
        }
        tell(f"{name}: {found[name]}")
    return found


def many_readers(server: Server, rows: dict[str, Any], readers: int, seconds: float) -> dict[str, float]:
    """`readers` at once with pauses of 2 to 5 s: milliseconds of what was asked after the first `RAMP` seconds."""
    guard = threading.Lock()
    times: list[float] = []
    errors: list[str] = []
    begin = time.perf_counter()
    kinds = ["case page", "case page", "feature page", "search", "token", "case"]

    def read(number: int) -> None:
        rng = np.random.default_rng(number)
        time.sleep(rng.uniform(0, RAMP))
        while (now := time.perf_counter()) < begin + RAMP + seconds:
            with guard:
                address = next(rows[kinds[int(rng.integers(len(kinds)))]])
            try:
                server.get(address)
            except (OSError, RuntimeError, http.client.HTTPException) as error:
                errors.append(str(error))
            if now > begin + RAMP:
                times.append(1e3 * (time.perf_counter() - now))
            time.sleep(rng.uniform(2, 5))

    threads = [threading.Thread(target=read, args=(number,)) for number in range(readers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "requests": float(len(times)),
        "p50_ms": float(np.percentile(times, 50)),
        "p95_ms": float(np.percentile(times, 95)),
        "errors": float(len(errors)),
    }


# --- the browser ----------------------------------------------------------------------------------------------------

HOVER = """async ([times, painted]) => {
  const link = document.querySelector('a.paint'), own = [];
  const data = JSON.parse(document.getElementById('case-data').textContent);
  const frame = () => new Promise(done => requestAnimationFrame(() => { const c = new MessageChannel();
    c.port1.onmessage = done; c.port2.postMessage(null); }));
  let n = 0;
  for (let i = 0; i < times; i++) {
    await new Promise(done => setTimeout(done, 30));
    await frame();
    const begin = performance.now();
    link.dispatchEvent(new PointerEvent('pointerover', { bubbles: true }));
    const script = performance.now() - begin;
    for (const name of ['h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'h7', 'h8'])
      if (i === 0 && CSS.highlights.has(name)) n += CSS.highlights.get(name).size;
    document.body.getBoundingClientRect();
    await frame();
    own.push([script, performance.now() - begin]);
    link.dispatchEvent(new PointerEvent('pointerout', { bubbles: true }));
  }
  return { segments: n, times: own };
}"""
"""A frame begins, the feature is pointed at, and the frame after it has been painted."""


def painting(server: Server) -> dict[str, float] | None:
    """Milliseconds of the script and until the frame with the paint is done; None without a browser."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None or find_spec("playwright") is None:
        say("Painting is not measured: it needs Playwright and Chromium.")
        return None
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--disable-gpu", "--disable-dev-shm-usage"])
        page = browser.new_page()
        page.route("**/cases/0", _everywhere)
        page.goto(f"http://127.0.0.1:{server.port}/1/cases/0")
        page.locator("main.has-tabs").wait_for()
        found = page.evaluate(HOVER, [HOVERS, PAINTED])
        browser.close()
    script, frame = zip(*found["times"], strict=True)
    return {
        "segments": float(found["segments"]),
        "script_p50_ms": float(np.percentile(script, 50)),
        "script_p95_ms": float(np.percentile(script, 95)),
        "frame_p50_ms": float(np.percentile(frame, 50)),
        "frame_p95_ms": float(np.percentile(frame, 95)),
    }


def _everywhere(route: Any) -> None:
    """The page, with its first feature painted at the first `PAINTED` segments of the texts."""
    answer = route.fetch()
    before, start, rest = answer.text().partition('id="case-data">')
    text, end, after = rest.partition("</script>")
    data = json.loads(text)
    first = re.search(r'class="paint"[^>]*data-feature="(\d+)"', before)
    assert first is not None, "the case shows no feature"
    places = [(p, s) for p, part in enumerate(data["parts"]) for s in range(len(part["segments"]) // 2)][:PAINTED]
    feature = data["features"][first[1]]
    top = feature["maximum"] or 1.0
    feature["paint"] = [[p, s, top * (1 + n % 8) / 8] for n, (p, s) in enumerate(places)]
    changed = json.dumps(data, ensure_ascii=True).replace("<", "\\u003c")
    route.fulfill(response=answer, body=before + start + changed + end + after)


# --- all of it ------------------------------------------------------------------------------------------------------


def against_targets(measured: dict[str, Any]) -> dict[str, float]:
    """The numbers that `TARGETS` are about."""
    one = measured["one_reader"]
    return {
        "index_s": measured["index"]["s"],
        "index_peak_mb": measured["index"]["peak_mb"],
        "index_mb": measured["index"]["mb"],
        "ready_s": measured["server"]["ready_s"],
        "resident_mb": measured["server"]["resident_mb"],
        **{f"{name}_p95_ms": one[name]["p95_ms"] for name in ("case", "feature", "search", "token")},
        "page_kb": max(one[name]["kb"] for name in one if name.endswith("page")),
        **({"paint_p95_ms": measured["painting"]["script_p95_ms"]} if measured["painting"] else {}),
        "readers_p95_ms": measured["many_readers"]["p95_ms"],
        "readers_errors": measured["many_readers"]["errors"],
    }


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("--cases", type=int, default=5_000)
    add("--tokens", type=int, default=1_000, help="of a case, options among them (1000)")
    add("--l0", type=int, default=50, help="features drawn for a token; one that is drawn twice counts once (50)")
    add("--features", type=int, default=32_768)
    add("--requests", type=int, default=200, help="of each kind, by one reader (200)")
    add("--readers", type=int, default=50)
    add("--seconds", type=float, default=60.0, help="that the readers read (60)")
    add("--folder", type=Path, help="where the temporary folder is made; by default where the system makes them")
    add("--json", type=Path, metavar="FILE", help="write the whole result there")
    options = made.parse_args()
    options.device, options.threads = "cpu", reporting.usable_cores()
    size = {name: getattr(options, name) for name in ("cases", "tokens", "l0", "features")}
    result = reporting.begin("app", options, {**size, "requests": options.requests, "readers": options.readers})
    work = Path(tempfile.mkdtemp(prefix="llmxai-", dir=options.folder))
    try:
        measured = _measured(work / "study", options)
    finally:
        shutil.rmtree(work)
    result["sizes"].append({**size, **measured})
    found = against_targets(measured)
    say(reporting.markdown(
        ["", "measured", "at most"], [[name, f"{value:.4g}", str(TARGETS[name])] for name, value in found.items()]
    ))  # fmt: skip
    if missed := [name for name, value in found.items() if value > TARGETS[name]]:
        say(f"Missed: {', '.join(missed)}.")
    if options.json is not None:
        reporting.write_result(options.json, result)


def _measured(study: Path, options: argparse.Namespace) -> dict[str, Any]:
    make_study(study, options.cases, options.tokens, options.l0, options.features)
    stored = sum(path.stat().st_size for path in (study / "features").iterdir()) / 1e6
    first = measure_index(study)
    tell(f"index: {first}")
    index = measure_index(study)
    tell(f"index again: {index}")
    words = json.loads((study / "app" / "words.json").read_text(encoding="utf-8"))
    server = Server(study)
    try:
        about = {"ready_s": server.ready_s, "resident_at_start_mb": server.resident_mb()}
        rows = asked(options.cases, options.features, words, np.random.default_rng(1))
        one = one_reader(server, rows, options.requests)
        many = many_readers(server, rows, options.readers, options.seconds)
        tell(f"{options.readers} readers: {many}")
        for path in ("/1/cases", "/1/features", "/1/study", "/1/study?lang=en", "/1/files/metrics.csv"):
            server.get(path)
        about["resident_mb"] = server.resident_mb()
        painted = painting(server)
        tell(f"painting: {painted}")
    finally:
        server.end()
    return {
        "features_mb": stored,
        "index": index,
        "index_first_time": first,
        "server": about,
        "one_reader": one,
        "many_readers": many,
        "painting": painted,
    }


if __name__ == "__main__":
    main()
