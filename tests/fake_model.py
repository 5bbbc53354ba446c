"""Stands for the model's process in tests of the server: the same lines of JSON, without a model, at a pace of its own.

    python fake_model.py [SECONDS between two steps]

A request may say how it goes: `"act": "die" | "fail" | "fail.short" | "stuck" | "garbage" | "slow"`. What a steering
gives: option 1 is the answer; switching off feature 3 takes 6 from its logit, any other edited feature 0.01 for each.
"""

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

waiting: "queue.SimpleQueue[dict[str, Any]]" = queue.SimpleQueue()
cancelled: set[str] = set()
opened: set[str] = set()


def command(pause: float = 0.0) -> list[str]:
    """That starts it."""
    return [sys.executable, __file__, str(pause)]


def read() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        if "cancel" in message:
            cancelled.add(message["cancel"])
        else:
            waiting.put(message)
    os._exit(0)


def say(run: str, event: str, **data: object) -> None:
    sys.stdout.write(json.dumps({"run": run, "event": event, "data": data}) + "\n")
    sys.stdout.flush()


def logits(n: int, edit: dict[str, Any]) -> list[float]:
    off = [feature for feature, value in edit["put"] if value == 0]
    strong = 6.0 * (3 in off)
    weak = 0.01 * sum(feature for feature, _ in (*edit["put"], *edit["add"])) / 100
    return [1.0, 3.0 - strong - weak, *[0.0] * (n - 2)]


def steps(request: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    act = request.get("act")
    if act == "die":
        os._exit(9)
    if act == "garbage":
        sys.stdout.write('{"run": "half a line')
        sys.stdout.flush()
        os._exit(1)
    if act == "fail":
        yield "failed", {"sentence": "the model is not there."}
        return
    if act == "fail.short":
        yield "failed", {"problem": "steer.problem.short", "sentence": ""}
        return
    if request.get("folder", "") not in opened:
        yield "loading", {}
        if act == "slow":
            time.sleep(1)  # opening looks at nothing
        opened.add(request.get("folder", ""))
    yield "opened", {}
    while act == "stuck":
        time.sleep(0.01)  # looks at nothing
    if request["do"] == "steer":
        with open(os.path.join(request["folder"], "questions.jsonl"), encoding="utf-8") as lines:
            n = len(json.loads(list(lines)[request["case"]])["options"])
        yield "baseline", {"logits": [1.0, 3.0, *[0.0] * (n - 2)]}
        yield "edited", {"logits": logits(n, request["edits"][0]), "size": 1.0}
        for first in range(1, len(request["edits"]), 5):
            yield "band", {"logits": [logits(n, edit) for edit in request["edits"][first : first + 5]]}
        if request["new_tokens"]:
            for side in ("before", "after"):
                yield "token", {"side": side, "text": f"<b>{side}</b>"}
    if request["do"] == "compare":
        n, changed = len(request["options"]), "아니다" in request["question"]
        yield "baseline", {"logits": [1.0, 3.0, *[0.0] * (n - 2)], "features": [3, 4], "values": [2.0, 1.0]}
        yield (
            "edited",
            {
                "logits": [4.0 if changed else 1.0, 3.0, *[0.0] * (n - 2)],
                "features": [3, 6],
                "values": [5.0, 4.0],
            },
        )
    yield "done", {}


def main() -> None:
    pause = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
    threading.Thread(target=read, daemon=True).start()
    while True:
        request = waiting.get()
        for event, data in steps(request):
            if request["run"] in cancelled:
                say(request["run"], "cancelled")
                break
            say(request["run"], event, **data)
            time.sleep(pause)


if __name__ == "__main__":
    main()
