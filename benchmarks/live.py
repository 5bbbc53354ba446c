"""LLMXAI's live model: how long a reader waits for a steered answer, and what that costs those who only read.

    python benchmarks/live.py demo-study/twins/shortcut              a twin; `sae-lens-med demo` writes it
    python benchmarks/live.py demo-study/twins/shortcut my-study --json live.json

Each study is served by `sae-lens-med serve` with its model opened, and asked through HTTP as a page asks. What is
measured, of `--runs` steerings, each of another case and of the feature that fires most in it and is no expert's alone,
switched off or amplified by turns, with twenty matched random sets beside it:

- **open**: seconds from the start of the server to the first answer of its model, opening it included;
- **first number**: seconds from the click until the changed answer is there; median and the longest;
- **band**: until all random sets have been run;
- **cancel**: seconds from Cancel, in the midst of a band, until the run says that it is, and until the next one begins;
- **reading**: milliseconds of a case, a feature and a search by one reader with nothing running, and while steerings
  run one after another; 95th percentiles of `--requests` each.

The reader and the model run on the same cores.
"""

import argparse
import http.client
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import reporting
from reporting import say, tell

TARGETS = {"twin": (1.0, 3.0), "other": (2.0, 10.0)}
"""Seconds to the first number and to the band of twenty on two quiet cores: a model organism, and Gemma 3 270M."""
WAIT = 0.01


class Server:
    """`sae-lens-med serve` on a study, with its model."""

    def __init__(self, study: Path) -> None:
        self.began = time.perf_counter()
        command = [sys.executable, "-m", "sae_lens_med", "serve", str(study), "--no-open", "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.search(r"http://[^:/]+:(\d+)", line):
                self.port = int(found[1])
                break
        else:
            raise RuntimeError(f"the server of {study} ended before it answered")
        while self.process.poll() is None:  # its address is said before it listens there
            try:
                page = self.ask("GET", "/1/cases/0").decode()
                break
            except ConnectionRefusedError:
                time.sleep(0.02)
        else:
            raise RuntimeError(f"the server of {study} ended before it answered")
        found = re.search(r'name="llmxai-token" content="([^"]+)"', page)
        assert found is not None, "the page holds no token"
        self.headers = {
            "x-llmxai-token": found[1],
            "origin": f"http://127.0.0.1:{self.port}",
            "content-type": "application/json",
        }

    def ask(self, method: str, path: str, body: Any = None) -> bytes:
        """The body of an answer that is 200 or 202."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            headers = self.headers if method != "GET" else {}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            found = answer.read()
            if answer.status not in (200, 202):
                raise RuntimeError(f"{method} {path}: status {answer.status}: {found[:300]!r}")
            return found
        finally:
            connection.close()

    def steer(self, case: int, feature: int, how: str) -> str:
        """Start a run; its name."""
        edits = [{"feature": feature, "how": how, "strength": 2.0}]
        return json.loads(self.ask("POST", f"/1/api/cases/{case}/steer", {"edits": edits}))["id"]

    def state(self, run: str) -> dict[str, Any]:
        """What a run has found so far."""
        return json.loads(self.ask("GET", f"/1/api/steer/{run}"))

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def waited(server: Server, case: int, feature: int, how: str) -> dict[str, float]:
    """Seconds of one steering."""
    begin = time.perf_counter()
    run, first = server.steer(case, feature, how), 0.0
    while True:
        state = server.state(run)
        now = time.perf_counter() - begin
        if state["error"]:
            raise RuntimeError(f"case {case}, feature {feature}: {state['error']}")
        if not first and state["steering"]["change"] is not None:
            first = now
        if state["state"] == "done":
            return {"first_s": first, "band_s": now, "sets": state["steering"]["n_sets"]}
        time.sleep(WAIT)


def cancelled(server: Server, case: int, feature: int) -> tuple[float, float]:
    """Seconds from Cancel, when the band is begun, until the run says so, and until the next one begins."""
    run = server.steer(case, feature, "amplify")
    while not (state := server.state(run))["steering"]["change"] and state["state"] != "done":
        time.sleep(WAIT)
    begin = time.perf_counter()
    server.ask("DELETE", f"/1/api/steer/{run}")
    while server.state(run)["state"] not in ("cancelled", "done"):
        time.sleep(WAIT)
    told = time.perf_counter() - begin
    after = server.steer(case, feature, "off")
    while server.state(after)["state"] in ("queued", "loading"):
        time.sleep(WAIT)
    begun = time.perf_counter() - begin
    while server.state(after)["state"] != "done":
        time.sleep(WAIT)
    return told, begun


def reading(server: Server, cases: int, features: list[int], requests: int) -> dict[str, float]:
    """95th percentiles in milliseconds."""
    rng = np.random.default_rng(0)
    found = {}
    for name, address in {
        "case": "/1/api/cases/{case}",
        "feature": "/1/api/features/{feature}",
        "search": "/1/api/search?q=a",
    }.items():
        times = []
        for _ in range(requests):
            path = address.format(case=rng.integers(cases), feature=features[rng.integers(len(features))])
            begin = time.perf_counter()
            server.ask("GET", path)
            times.append(1e3 * (time.perf_counter() - begin))
        found[f"{name}_p95_ms"] = float(np.percentile(times, 95))
    return found


def strongest(server: Server, case: int) -> int:
    """The first feature of a case that the model uses."""
    groups = json.loads(server.ask("GET", f"/1/api/cases/{case}"))["groups"]
    return next(each["name"]["index"] for group in groups if group["kind"] != "expert" for each in group["features"])


def measured(study: Path, runs: int, requests: int) -> dict[str, Any]:
    """All numbers of one study."""
    model = json.loads((study / "manifest.json").read_text(encoding="utf-8"))["provenance"]["model"]["name"]
    server = Server(study)
    try:
        cases = len((study / "questions.jsonl").read_text(encoding="utf-8").splitlines())
        chosen = [(case % cases, strongest(server, case % cases)) for case in range(runs)]
        features = [feature for _, feature in chosen]
        waited(server, *chosen[0], "off")
        opened = time.perf_counter() - server.began
        hows = ("off", "amplify")
        steered = [waited(server, *each, hows[k % 2]) for k, each in enumerate(chosen)]
        quiet = reading(server, cases, features, requests)
        over = threading.Event()

        def go_on() -> None:
            k = 0
            while not over.is_set():
                waited(server, *chosen[k % runs], hows[k % 2])
                k += 1

        busy = threading.Thread(target=go_on)
        busy.start()
        beside = reading(server, cases, features, requests)
        over.set()
        busy.join()
        ended = [cancelled(server, *each) for each in chosen[:5]]
        found = {
            "study": study.name,
            "model": model,
            "cases": cases,
            "opened_s": opened,
            **{f"{name}_p50": float(np.median([each[name] for each in steered])) for name in ("first_s", "band_s")},
            **{f"{name}_max": max(each[name] for each in steered) for name in ("first_s", "band_s")},
            "least_sets": min(each["sets"] for each in steered),
            "cancel_s": max(told for told, _ in ended),
            "after_cancel_s": max(begun for _, begun in ended),
            "reading": quiet,
            "reading_beside": beside,
        }
    finally:
        server.end()
    tell(f"{study.name}: {found}")
    return found


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("studies", type=Path, nargs="+", help="folders of studies, each with its features collected")
    add("--runs", type=int, default=20, help="steerings of each study (20)")
    add("--requests", type=int, default=200, help="of each kind, by one reader (200)")
    add("--json", type=Path, metavar="FILE", help="write the whole result there")
    options = made.parse_args()
    options.device, options.threads = "cpu", reporting.usable_cores()
    result = reporting.begin("live", options, {"runs": options.runs, "requests": options.requests})
    rows = []
    for study in options.studies:
        found = measured(study, options.runs, options.requests)
        result["sizes"].append(found)
        first, band = TARGETS["twin" if found["model"].startswith("organism/") else "other"]
        rows.append(
            [
                f"{found['model']}, {found['cases']} cases",
                f"{found['opened_s']:.1f}",
                f"{found['first_s_p50']:.2f}; {found['first_s_max']:.2f} (at most {first:g})",
                f"{found['band_s_p50']:.2f}; {found['band_s_max']:.2f} (at most {band:g})",
                f"{found['cancel_s']:.2f}; {found['after_cancel_s']:.2f}",
                ", ".join(
                    f"{name.split('_')[0]} {found['reading'][name]:.0f} / {found['reading_beside'][name]:.0f}"
                    for name in found["reading"]
                ),
            ]
        )
    head = [
        "study",
        "opened, s",
        "first number, s",
        "band, s",
        "cancelled; next begins, s",
        "reading alone / beside, p95 ms",
    ]
    say(reporting.markdown(head, rows))
    if options.json is not None:
        reporting.write_result(options.json, result)


if __name__ == "__main__":
    main()
