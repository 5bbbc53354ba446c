"""The process in which `serve` runs a model: `python -m sae_lens_med.commands.model_process`, no command of its own.

Requests come on stdin, answers go to stdout (`app.live.process`); whatever libraries print goes to stderr.
"""

import os
import sys


def main() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    from sae_lens_med.app.live.child import serve
    from sae_lens_med.commands.align import open_side
    from sae_lens_med.metrics.inputs import ModelSide
    from sae_lens_med.records import Provenance

    def opener(provenance: Provenance, model: str | None, sae: str | None) -> ModelSide:
        return open_side(provenance, model, sae, "auto", None)

    serve(sys.stdin.buffer, answers, opener)


if __name__ == "__main__":
    main()
