"""A study as a folder of pages that open from disk, without a server: to be mailed, archived, put on any web space.

    DIR/index.html             chooses the language
    DIR/ko/, DIR/en/           cases-1.html, case-12.html, feature-7.html, search.html, study.html, metrics.svg/png/csv
    DIR/static/                the same style sheet and scripts as on the server

Files are named by numbers, never by ids. Scripts are classic ones and nothing is fetched: the data for painting stand
in the page, the texts for searching in files beside it. Only features that a case of the folder shows have a page.
Lists can be ordered and narrowed in the ways that are written out. The folder appears when it is whole, and never
replaces another.

Out of scope: writing labels, several studies, any other ranking of features than by activation.
"""

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

from sae_lens_med.app.create import static_texts
from sae_lens_med.app.links import Links
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.app.overview import FIGURES, Numbers, figure, overview
from sae_lens_med.app.render import Reader, Renderer
from sae_lens_med.app.settings import Settings
from sae_lens_med.app.strings import text
from sae_lens_med.app.texts import named
from sae_lens_med.app.views import CaseOrder, FeaturePage, FeatureRow, FeatureView, Filters
from sae_lens_med.errors import NotFoundError, StudyError
from sae_lens_med.languages import ENGLISH, KOREAN, Language
from sae_lens_med.runs.files import DISCLAIMER, DISCLAIMER_KO, follow_umask, write_text

POLICY = (
    "default-src 'none'; script-src 'self' file:; style-src 'self' file:; img-src 'self' file: data:; base-uri 'none'"
)
MOST_FEATURES = 2_000
SHARD_CHARACTERS = 100_000
"""Of the texts for searching in one file: at most 400 kB."""
_SHOWN_CHARACTERS = 20_000
Advance = Callable[[int], None]


class FileLinks(Links):
    """Addresses within the folder, seen from one page of a language's folder."""

    static_site = True
    policy = POLICY

    def __init__(self, here: str, features: frozenset[int]) -> None:
        """`here`: the file's name; `features`: those that have a page."""
        super().__init__(1, here, {})
        self._features = features

    def cases(self, **changes: object) -> str:
        """The list, narrowed by the answer or ordered: whichever was written out."""
        return self.all_cases(**changes)

    def all_cases(self, **filters: object) -> str:
        """The first page of the list that was written out for these filters; of the whole one for others."""
        return list_name(str(filters.get("answer") or ""), str(filters.get("sort") or ""), 1)

    def case(self, number: int, **changes: object) -> str:
        """A case."""
        return self._with(f"case-{number}.html", changes, ("feature",))

    def features(self, **changes: object) -> str:
        """The list of features."""
        return f"features-{changes.get('page', 1)}.html"

    def feature(self, index: int, **_: object) -> str:
        """A feature's page, or the list where it has none."""
        return f"feature-{index}.html" if index in self._features else "features-1.html"

    def search(self, **_: object) -> str:
        """The search page."""
        return "search.html"

    def study(self, **_: object) -> str:
        """What the whole study says."""
        return "study.html"

    def figure(self, name: str) -> str:
        """A figure or a table beside the page."""
        return name

    def static(self, name: str) -> str:
        """A file of the interface."""
        return f"../static/{name}"

    def here(self, **changes: object) -> str:
        """This page in another language, painted, or the next page of a list."""
        if "lang" in changes:
            return f"../{changes['lang']}/{self.path}"
        if (page := changes.get("page")) is not None:
            return f"{self.path.rpartition('-')[0]}-{page}.html"
        return self._with(self.path, changes, ("feature", "view"))

    def _with(self, path: str, changes: Mapping[str, object], names: tuple[str, ...]) -> str:
        query = {name: changes[name] for name in names if changes.get(name) is not None}
        return path + (f"?{urlencode(query)}" if query else "")


def list_name(answer: str, sort: str, page: int) -> str:
    """The file of one page of a list of cases: `cases-wrong-1.html`, `cases-up-margin-1.html`."""
    order = f"down-{sort[1:]}-" if sort.startswith("-") else f"up-{sort}-" if sort else ""
    return f"cases-{answer + '-' if answer else order}{page}.html"


def export_study(
    study: OpenStudy, folder: Path, *, most_features: int = MOST_FEATURES, advance: Advance | None = None
) -> int:
    """Write the pages of `study` to `folder`, which must not exist or be empty; returns the number of files.

    Args:
        study: what to write.
        folder: where to.
        most_features: features with a page of their own, those shown in most cases first.
        advance: told the number of pages that were written since it was last called.

    Raises `StudyError` where the folder holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StudyError(f"{folder} holds something already: name a folder that does not exist, or an empty one.")
    settings = Settings(shown_characters=_SHOWN_CHARACTERS)
    writer = _Writer(study, Renderer((study,), settings, static_site=True), settings, most_features, advance)
    with _whole(folder) as place:
        writer.write(place)
    return writer.written


def n_pages(study: OpenStudy, most_features: int = MOST_FEATURES) -> int:
    """About how many pages `export_study` writes: for a bar."""
    known = min(most_features, study.features("maximum", 1, 1).total)
    return 2 * (len(study.items) + known)


class _Writer:
    def __init__(
        self, study: OpenStudy, renderer: Renderer, settings: Settings, most: int, advance: Advance | None
    ) -> None:
        self.study, self.renderer, self.settings = study, renderer, settings
        self.most, self.advance, self.written = most, advance, 0
        self.features: frozenset[int] = frozenset()

    def write(self, place: Path) -> None:
        shown: Counter[int] = Counter()
        for number in range(len(self.study.items)):
            shown.update(set(self.study.shown(number, self.settings.groups_of)))
        chosen = [index for index, _ in shown.most_common(self.most)]
        self.features = frozenset(chosen)
        for name, content in static_texts().items():
            self._put(place / "static" / name, content)
        self._put(place / "index.html", _start())
        self._cases(place)
        views = [self.study.feature(index) for index in sorted(chosen)]
        for language in (KOREAN, ENGLISH):
            self._language(place / language.code, language, views)

    def _cases(self, place: Path) -> None:
        """The pages of the cases, each in both languages: reading one takes longer than writing it."""
        last = len(self.study.items) - 1
        for number in range(len(self.study.items)):
            name = f"case-{number}.html"
            view = self.study.case(number, "activation", self.settings.groups_of)
            beside = (number - 1 if number else None, number + 1 if number < last else None)
            for language in (KOREAN, ENGLISH):
                page = self.renderer.case(
                    view, self._links(name), Reader(language), neighbours=beside, orders=("activation",)
                )
                self._put(place / language.code / name, page)
                self._tell()

    def _language(self, place: Path, language: Language, views: list[FeatureView]) -> None:
        reader = Reader(language)
        for filters in _lists(self.study.case_orders):
            self._lists(place, filters, reader)
        for view in views:
            name = f"feature-{view.name.index}.html"
            self._put(place / name, self.renderer.feature(_bounded(view), self._links(name), reader, None))
            self._tell()
        self._feature_lists(place, views, reader)
        shards = list(_shards(self._texts(views, language)))
        for number, rows in enumerate(shards):
            self._put(place / f"texts-{number}.js", _script(rows))
        search = self.renderer.search("", (), self._links("search.html"), reader, 0, shards=len(shards))
        self._put(place / "search.html", search)
        numbers = Numbers.of(self.study)
        shown = overview(numbers, language)
        self._put(place / "study.html", self.renderer.study(shown, self._links("study.html"), reader))
        for name in FIGURES:
            try:
                content = figure(numbers, name, language)
            except NotFoundError:  # a study without such numbers; its page links to none
                continue
            (place / name).write_bytes(content)
            follow_umask(place / name)
            self.written += 1

    def _lists(self, place: Path, filters: Filters, reader: Reader) -> None:
        page, pages = 1, 1
        while page <= pages:
            listed = self.study.cases(filters, page, self.settings.page_size)
            pages = max(1, listed.pages)
            name = list_name(filters.answer, filters.order, page)
            self._put(place / name, self.renderer.cases(listed, self._links(name), reader, None))
            page += 1

    def _feature_lists(self, place: Path, views: list[FeatureView], reader: Reader) -> None:
        rows = [
            FeatureRow(
                name=view.name,
                density=view.density or 0.0,
                n_items=view.n_items or 0,
                mean=view.mean or 0.0,
                left_out=view.left_out,
                verdict=view.verdict,
                effect=view.effect,
                concept=view.concepts[0].concept if view.concepts else None,
                auroc=view.concepts[0].auroc if view.concepts else None,
            )
            for view in sorted(views, key=lambda view: -(view.name.maximum or 0.0))
        ]
        size = self.settings.page_size
        pages = max(1, -(-len(rows) // size))
        for page in range(1, pages + 1):
            listed = tuple(rows[(page - 1) * size : page * size])
            name = f"features-{page}.html"
            shown = FeaturePage(rows=listed, order="maximum", total=len(rows), page=page, pages=pages)
            self._put(place / name, self.renderer.features(shown, self._links(name), reader))

    def _texts(self, views: list[FeatureView], language: Language) -> Iterator[dict[str, object]]:
        code = language.code
        for view in views:
            index = view.name.index
            unnamed = text("feature.unnamed", code, feature=index)
            words = [view.name.label or "", *view.name.phrases, *(concept.concept for concept in view.concepts)]
            words += [label.label for label in view.labels[:1]]
            title = named(view.name, unnamed)
            yield {"kind": "feature", "number": index, "title": title, "text": " ".join(filter(None, words))}
        for number, item in enumerate(self.study.items.values()):
            whole = " ".join([item.question, *item.options, item.explanation or "", item.subject])
            title = text("feature.case", code, number=number + 1)
            yield {"kind": "case", "number": number, "title": title, "text": whole[:_SHOWN_CHARACTERS]}

    def _links(self, name: str) -> FileLinks:
        return FileLinks(name, self.features)

    def _put(self, path: Path, content: str) -> None:
        write_text(path, content)
        self.written += 1

    def _tell(self) -> None:
        if self.advance is not None:
            self.advance(1)


def _lists(orders: Iterable[CaseOrder]) -> Iterator[Filters]:
    for order in orders:
        yield Filters(order=order)
    for answer in ("right", "wrong", "none"):
        yield Filters(answer=answer)


def _bounded(view: FeatureView) -> FeatureView:
    """Without contexts that would make a page larger than anybody sends."""
    kept, characters = [], 0
    for context in view.contexts:
        characters += len(context.text)
        if characters <= SHARD_CHARACTERS:
            kept.append(context)
    return replace(view, contexts=tuple(kept))


def _shards(rows: Iterable[dict[str, object]]) -> Iterator[list[dict[str, object]]]:
    shard: list[dict[str, object]] = []
    size = 0
    for row in rows:
        length = len(str(row["text"]))
        if shard and size + length > SHARD_CHARACTERS:
            yield shard
            shard, size = [], 0
        shard.append(row)
        size += length
    yield shard


def _script(rows: list[dict[str, object]]) -> str:
    """A classic script; U+2028 and U+2029 would end a line of it in older browsers."""
    listed = json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
    for separator in "\u2028\u2029":
        listed = listed.replace(separator, f"\\u{ord(separator):04x}")
    return f"window.llmxaiTexts.push({listed});\n"


def _start() -> str:
    return (
        '<!DOCTYPE html>\n<html lang="ko">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n<title>LLMXAI</title>\n'
        '<link rel="icon" href="data:,">\n<link rel="stylesheet" href="static/app.css">\n</head>\n<body>\n'
        f'<p class="notice">{DISCLAIMER_KO}</p>\n<p class="notice" lang="en">{DISCLAIMER}</p>\n'
        "<main>\n<h1>LLMXAI</h1>\n"
        '<ul class="block"><li><a href="ko/cases-1.html">한국어</a></li>'
        '<li><a href="en/cases-1.html" lang="en">English</a></li></ul>\n</main>\n</body>\n</html>\n'
    )


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that becomes it when the block ends without an error, and goes otherwise."""
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(dir=folder.absolute().parent, prefix=f".{folder.name}."))
    try:
        yield place
        place.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        place.rename(folder)
    finally:
        shutil.rmtree(place, ignore_errors=True)
