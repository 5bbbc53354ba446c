"""What the pages of the live model show, handed to their templates; out of scope: what is shown (`steering`, `edited`).

A run's findings are a piece of a page (`found`) that the page's script fetches after each event and puts in place, so
that words and figures are made in one place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sae_lens_med.app.index_files import FOLDER
from sae_lens_med.app.links import Links
from sae_lens_med.app.live.edited import KINDS, EditedView, editable
from sae_lens_med.app.live.kept import FILE
from sae_lens_med.app.live.runs import Run
from sae_lens_med.app.live.settings import MAX_CHARACTERS, MAX_FEATURES, MAX_STRENGTH, MAX_TOKENS
from sae_lens_med.app.live.steering import ENOUGH, HOWS, LEAST, FeatureEdit, SteerView
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.app.render import Reader, Renderer
from sae_lens_med.app.strings import text
from sae_lens_med.app.text import cut, visible
from sae_lens_med.app.texts import named, script_json
from sae_lens_med.app.views import FeatureName
from sae_lens_med.records import OPTION_LETTERS, McqItem

NEW_TOKENS = (0, 16, 64, MAX_TOKENS)
"""What the page offers to have written on."""
USUAL_TOKENS = NEW_TOKENS[1]
_OFFERED = 20
"""Features of each group of the case that can be added."""
_WORDS = (
    *("steer.status.sent", "steer.status.queued", "steer.status.loading", "steer.status.opened", "steer.status.band"),
    *("steer.status.token", "steer.status.done", "steer.status.cancelling", "steer.status.lost"),
    *("steer.status.refused", "edited.kept", "edited.failed"),
)
"""What the page's script says."""


@dataclass(frozen=True, slots=True)
class LivePages:
    """The pages."""

    renderer: Renderer
    running: bool
    """Whether the server runs a model."""

    def steer(
        self,
        study: OpenStudy,
        number: int,
        edits: Sequence[FeatureEdit],
        tokens: int,
        links: Links,
        reader: Reader,
    ) -> str:
        """A case whose features can be edited. Raises `NotFoundError` for a case or a feature that is not there."""
        code = reader.language.code
        case = study.case(number, "activation", _OFFERED)
        for edit in edits:
            study.require_feature(edit.feature)
        chosen = {edit.feature for edit in edits}
        offered = [
            (f.name.index, self._named(f.name, reader))
            for group in case.groups
            if group.kind != "expert"
            for f in group.features
            if f.name.index not in chosen
        ]
        rows = [
            {
                "edit": edit,
                "name": study.names.name(edit.feature),
                "remove": links.steer(number, [other for other in edits if other is not edit], tokens=tokens),
            }
            for edit in edits
        ]
        return self.renderer.page(
            "steer",
            "cases",
            links,
            reader,
            text("steer.title", code, number=number + 1),
            **self._case(study, number, reader),
            rows=rows,
            offered=offered,
            full=len(rows) >= MAX_FEATURES,
            hows=HOWS,
            most=MAX_STRENGTH,
            tokens=tokens,
            numbers_of_tokens=sorted({*NEW_TOKENS, tokens}),
            data=self._data(links, number, "steer", reader),
        )

    def edit(self, study: OpenStudy, number: int, links: Links, reader: Reader) -> str:
        """A case whose texts can be edited. Raises `NotFoundError` for a case that is not there."""
        case = self._case(study, number, reader)
        item: McqItem = case["item"]
        return self.renderer.page(
            "steer_edit",
            "cases",
            links,
            reader,
            text("edited.title", reader.language.code, number=number + 1),
            **case,
            fields=[("stem", editable(item.question)), *zip(OPTION_LETTERS, map(editable, item.options), strict=False)],
            most=MAX_CHARACTERS,
            file=f"{FOLDER}/{FILE}",
            data=self._data(links, number, "edit", reader),
        )

    def found(self, study: OpenStudy, run: Run, links: Links, reader: Reader) -> str:
        """What a run has found so far: a piece of a page."""
        view = run.job.view()
        name = "steer_found" if isinstance(view, SteerView) else "steer_edited"
        item = list(study.items.values())[run.job.case]
        values: dict[str, Any] = {
            "found": view,
            "run": run,
            "problem": text(run.problem, reader.language.code) if run.problem else "",
            "case_language": item.language,
            "enough": ENOUGH,
            "least": LEAST,
            "texts": [cut(option, 90) for option in item.options],
        }
        if isinstance(view, EditedView):
            values |= {"groups": {kind: [each for each in view.changes if each.kind == kind] for kind in KINDS}}
        return self.renderer.page(name, "cases", links, reader, "", **values)

    def _case(self, study: OpenStudy, number: int, reader: Reader) -> dict[str, Any]:
        case = study.case(number, "activation", 1)
        item = list(study.items.values())[number]
        why = ""
        if item.is_open:
            why = "steer.open_question"
        elif study.part is None or study.index is None:
            why = "steer.uncollected"
        elif not self.running:
            why = "steer.none"
        return {
            "number": number,
            "item": item,
            "row": case.row,
            "stem": visible(item.question[: self.renderer.settings.shown_characters]).text,
            "option_texts": [cut(option, 200) for option in item.options],
            "letters": OPTION_LETTERS[: len(item.options)],
            "why_not": text(why, reader.language.code) if why else "",
            "lacking_here": (list(study.missing) if why == "steer.uncollected" else [], []),
        }

    def _data(self, links: Links, number: int, do: str, reader: Reader) -> Any:
        code = reader.language.code
        places = {"n": "{n}", "k": "{k}"}
        words = {key.rpartition(".")[2]: text(key, code, **places) for key in _WORDS}
        return script_json({
            "do": do,
            "start": f"/{links.slot}/api/cases/{number}/{do}",
            "keep": f"/{links.slot}/api/cases/{number}/keep",
            "runs": f"/{links.slot}/api/steer/",
            "found": f"/{links.slot}/runs/",
            "view": reader.view,
            "words": words,
        })  # fmt: skip

    def _named(self, name: FeatureName, reader: Reader) -> str:
        return named(name, text("feature.unnamed", reader.language.code, feature=name.index))
