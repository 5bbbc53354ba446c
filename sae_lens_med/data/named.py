"""Named data sets: `medqa`, `pubmedqa`, `casimedicos:es`, ... from the Hub or from files, read by their mapping.

    NAME                    the Hub's copy; `split` chooses one of its splits
    NAME:FILE[,FILE...]     local files with the same columns: no network
    NAME:VARIANT[:FILE]     a language of a set that has several

Every row is first written in this package's own schema, by the form of the mapping (`mappings`) whose columns it has,
and then checked as any other row is (`rows`). What a whole file has wrong is said of the file: answers that count from
the other end, columns that no form has.

Counts: a copy on the Hub that has not the counts of the mapping is refused where these are certain, and noted where
they are not. Local files may hold a part of a set, so that their count is only compared. `LoadedItems.notes` says it,
with what else the mapping says: which share of the answers the commonest one is, what the explanations are.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sae_lens_med.data.hub import Rows, load_splits
from sae_lens_med.data.local import local_paths
from sae_lens_med.data.mappings import AnswerColumn, AnswerKind, Form, SourceMapping, Variant, find_mapping
from sae_lens_med.data.rows import ItemCollector, LoadedItems
from sae_lens_med.data.tables import ACCEPTED_FORMS, RawRow, read_rows
from sae_lens_med.errors import DataError, nearest
from sae_lens_med.records import OPTION_LETTERS, McqItem
from sae_lens_med.runs.parsing import ParseError, parse_json, read_text

Loader = Callable[[str | None], Mapping[str, Rows]]
"""Config -> its splits."""


def is_named(source: str) -> bool:
    """Whether `source` begins with the name, or the Hub's id, of a mapping."""
    return find_mapping(source.split(":")[0]) is not None


def load_named(
    source: str,
    split: str | None = None,
    *,
    skip_bad_rows: bool = False,
    limit: int | None = None,
    exclude: Collection[str] = (),
    encoding: str | None = None,
    answers_from: int | None = None,
    loader: Loader | None = None,
) -> LoadedItems:
    """The items of a named data set. `encoding` and `answers_from` are of local files, as for `load_items`; without the
    latter, answers count as the mapping says. `loader` replaces the download (a mirror, a copy on disk).

    Raises `DataError` for an unknown variant or split, a file or copy that is not what the mapping says, what the Hub
    does not give, and a bad row (with `skip_bad_rows` it is left out and reported).
    """
    mapping, variant, files = _parsed(source)
    language = mapping.language if variant is None else variant.language
    collector = ItemCollector(skip_bad_rows=skip_bad_rows, exclude=exclude)
    provenance = {"dataset": mapping.dataset or mapping.hub, "licence": mapping.licence}
    notes: list[str] = []
    name = mapping.name
    if files:
        if split is not None:
            raise DataError(f"{source}: local files have no splits (got {split!r}); name the file of the split.")
        mapping = _counting_from(mapping, answers_from)
        paths = local_paths(files)
        for number, path in enumerate(paths, 1):
            rows = list(_read(path, encoding))
            alike = sum(each.stem == path.stem for each in paths) > 1
            id_prefix = f"{name}-{number}-{path.stem}" if alike else f"{name}-{path.stem}"
            _collect(collector, rows, mapping, language, str(path), provenance, notes, id_prefix)
    else:
        if encoding is not None or answers_from is not None:
            raise DataError(f"{source}: encoding and answers_from are of local files ({name}:FILE); leave them out.")
        split = mapping.default_split if split is None else split
        if split not in mapping.splits:
            known = ", ".join(mapping.splits)
            raise DataError(
                f"{source} has no split {split!r}; use one of {known}{nearest(split, mapping.splits) or '.'}"
            )
        provenance["split"] = split
        for config in mapping.configs if variant is None else (variant.config,):
            splits = _from_hub(mapping, source, config) if loader is None else loader(config)
            if split not in splits:
                raise DataError(
                    f"{source}: has the splits {', '.join(splits)} instead of {', '.join(mapping.splits)}; the data "
                    "set on the Hub has changed, or this copy is incomplete."
                )
            rows = [RawRow(number, dict(row)) for number, row in enumerate(splits[split], 1)]
            where = f"{source} {split}" if config is None else f"{source} {config} {split}"
            _collect(collector, rows, mapping, language, where, provenance, notes, f"{name}-{split}")
    _compare_counts(collector, mapping, source, None if files else split, notes)
    loaded = collector.loaded(source, split, limit)
    notes += _about(mapping, loaded.items, None if files else split)
    return replace(loaded, notes=tuple(dict.fromkeys(notes)))


def _parsed(source: str) -> tuple[SourceMapping, Variant | None, str]:
    name, _, rest = source.partition(":")
    mapping = find_mapping(name)
    if mapping is None:
        raise DataError(f"{source}: there is no named data set {name!r}.")
    if not mapping.variants:
        return mapping, None, rest
    first, _, more = rest.partition(":")
    if first in mapping.variants:
        return mapping, mapping.variants[first], more
    if rest and "." not in rest:
        known = ", ".join(f"{name}:{each}" for each in mapping.variants)
        raise DataError(f"{source}: there is no variant {first!r}; use one of {known}, or {name}:FILE.")
    assert mapping.default_variant is not None  # read_mapping
    return mapping, mapping.variants[mapping.default_variant], rest


def _counting_from(mapping: SourceMapping, first: int | None) -> SourceMapping:
    """The mapping for files whose answers count from `first`; None: as it is."""
    if first is None:
        return mapping
    kind: AnswerKind = "from_1" if first else "from_0"
    forms = tuple(
        replace(form, answer=replace(form.answer, kind=kind))
        if form.answer is not None and form.answer.kind in ("from_0", "from_1")
        else form
        for form in mapping.forms
    )
    return replace(mapping, forms=forms)


def _from_hub(mapping: SourceMapping, source: str, config: str | None) -> Mapping[str, Rows]:
    instead = f"local files with the same columns ({source.split(':')[0]}:FILE, {ACCEPTED_FORMS})"
    return load_splits(mapping.hub, config, source, instead)


# --- rows -----------------------------------------------------------------------------------------------------------


def _collect(
    collector: ItemCollector,
    rows: Sequence[RawRow],
    mapping: SourceMapping,
    language: str | None,
    where: str,
    provenance: dict[str, str],
    notes: list[str],
    id_prefix: str,
) -> None:
    columns = frozenset(str(name) for row in rows for name in row.values or ())
    form = _form_of(mapping, columns, where)
    kept = [row for row in rows if row.values is None or _is_kept(row.values, form, mapping)]
    if len(kept) < len(rows):
        notes.append(f"{where}: {len(rows) - len(kept)} rows of other subjects were left out.")
    if not kept:
        raise DataError(f"{where}: no row is of one of the subjects {', '.join(mapping.keep_subjects)}.")
    if form.own_schema:
        collector.add(kept, where, id_prefix=id_prefix, provenance=provenance)
        return
    if unused := sorted(columns - form.known):
        notes.append(f"{where}: columns that the mapping does not know were not used: {', '.join(unused)}.")
    _require_count(kept, form, where)
    numbers: Counter[str] = Counter()
    collector.add(
        [_in_own_schema(row, form, language, numbers) for row in kept],
        where,
        id_prefix=id_prefix,
        provenance=provenance,
        open_questions=mapping.open_questions,
    )


def _form_of(mapping: SourceMapping, columns: frozenset[str], where: str) -> Form:
    for form in mapping.forms:
        if form.fits(columns):
            return form
    wanted = " or ".join(", ".join(sorted(form.needed or form.question)) for form in mapping.forms)
    raise DataError(
        f"{where}: the columns {', '.join(sorted(columns)) or '(none)'} are not those of {mapping.name}, which has "
        f"{wanted}; name the data set that the file is of, or use {ACCEPTED_FORMS} in one of this package's schemas."
    )


def _is_kept(values: Mapping[str, Any], form: Form, mapping: SourceMapping) -> bool:
    if not mapping.keep_subjects or form.subject is None or form.subject not in values:
        return True
    return values[form.subject] in mapping.keep_subjects


def _in_own_schema(row: RawRow, form: Form, language: str | None, numbers: Counter[str]) -> RawRow:
    """The row in the schema of `rows`, or with its problem."""
    if row.values is None:
        return row
    values = row.values
    try:
        own: dict[str, Any] = {"question": _question(values, form)}
        if form.subject is not None and (subject := _cell(values, form.subject)) is not None:
            own["subject"] = str(subject).strip()
        if form.id_by_subject and "subject" in own:
            numbers[own["subject"]] += 1
            own["id"] = f"{own['subject']}-{numbers[own['subject']]:04d}"
        elif form.id is not None and (given := _cell(values, form.id)) is not None:
            own["id"] = given if isinstance(given, int) else str(given)
        said = _cell(values, form.language) if form.language is not None else None
        if (said or language) is not None:
            own["lang"] = said or language
        if form.explanation is not None and (text := _text(_at(values, form.explanation))) is not None:
            own |= {"explanation": text, "explanation_source": form.explanation_source}
        if form.answer is not None:
            options = list(form.fixed_options) or _options(values, form)
            own |= {"options": options, "answer": _answer(values, form.answer, options)}
    except DataError as error:
        return RawRow(row.number, None, str(error))
    return RawRow(row.number, own)


def _question(values: Mapping[str, Any], form: Form) -> str:
    parts = [text for name in form.question if (text := _text(_at(values, name))) is not None]
    if not parts or (not form.first_of and _text(_at(values, form.question[-1])) is None and len(form.question) == 1):
        raise DataError(f"field {form.question[-1]!r}: is empty")
    return parts[0] if form.first_of else "\n\n".join(parts)


def _options(values: Mapping[str, Any], form: Form) -> list[Any]:
    if len(form.options) > 1:
        found: list[Any] = [_at(values, name) for name in form.options]
    else:
        column = next(iter(form.options))
        found = _several(_at(values, column), column)
    # The last ones are empty where other questions have more.
    while found and _is_empty(found[-1]):
        found.pop()
    return found


def _several(value: Any, name: str) -> list[Any]:
    """A list, or the values of an object in the order of its keys; in a cell of a CSV file both are JSON."""
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ParseError as error:
            raise DataError(
                f"field {name!r}: must be a list or an object written as JSON, got {_short(value)}"
            ) from error
    if isinstance(value, dict):
        return [value[key] for key in sorted(value, key=lambda key: (len(key), key))]
    if isinstance(value, list | tuple):
        # MedQA's bigbio copy: [{"key": "A", "value": "..."}]
        return [each["value"] if isinstance(each, dict) and "value" in each else each for each in value]
    raise DataError(f"field {name!r}: must be a list or an object of options, got {_short(value)}")


def _answer(values: Mapping[str, Any], answer: AnswerColumn, options: Sequence[Any]) -> int | None:
    """The right option, counted from 1, or None where it is not published."""
    value = _at(values, answer.column)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and answer.kind in ("from_0", "from_1") and value.strip().lstrip("-").isdecimal():
        value = int(value.strip()[:9])
    if _is_empty(value) or value in answer.unknown:
        return None
    place = _place(value, answer, options)
    if place is None:
        raise DataError(f"field {answer.column!r}: {_short(value)} names none of the {len(options)} options")
    if answer.text is not None and answer.text in values:
        text = _text(values[answer.text])
        if text is not None and text.strip() != str(options[place]).strip():
            raise DataError(
                f"field {answer.text!r}: {_short(text)} is not the text of the option that {answer.column!r} names"
            )
    return place + 1


def _place(value: Any, answer: AnswerColumn, options: Sequence[Any]) -> int | None:
    if answer.kind in ("from_0", "from_1"):
        place = value - (answer.kind == "from_1") if isinstance(value, int) and not isinstance(value, bool) else -1
        return place if 0 <= place < len(options) else None
    if not isinstance(value, str):
        return None
    if answer.kind == "letter":
        letter = value.strip().upper()
        found = OPTION_LETTERS.find(letter) if len(letter) == 1 else -1
        return found if 0 <= found < len(options) else None
    folded = [str(option).strip().casefold() for option in options]
    return folded.index(value.strip().casefold()) if value.strip().casefold() in folded else None


def _require_count(rows: Iterable[RawRow], form: Form, where: str) -> None:
    """Refuse a file whose answers count from the other number: each of its answers would be another option."""
    answer = form.answer
    if answer is None or answer.kind not in ("from_0", "from_1") or not form.options:
        return
    found: list[tuple[int, int, int]] = []
    for row in rows:
        value = None if row.values is None else _at(row.values, answer.column)
        if isinstance(value, str) and value.strip().isdecimal():
            value = int(value.strip()[:9])
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and row.values is not None:
            try:
                found.append((row.number, value, len(_options(row.values, form))))
            except DataError:  # told of this row later
                continue
    own, other = (0, 1) if answer.kind == "from_0" else (1, 0)
    odd = next((each for each in found if each[1] == (each[2] if own == 0 else 0)), None)
    same = any(value == (0 if own == 0 else n) for _, value, n in found)
    if odd is not None and not same:
        raise DataError(
            f"{where}: its answers count from {other} (row {odd[0]} has {answer.column} {odd[1]} of {odd[2]} options), "
            f"but this data set's count from {own}, so every answer would be another option; say that they do with "
            f"--answers-from {other}."
        )


# --- cells ----------------------------------------------------------------------------------------------------------


def _cell(values: Mapping[str, Any], name: str) -> Any:
    value = _at(values, name)
    return None if _is_empty(value) else value


def _at(values: Any, name: str) -> Any:
    """The value at a dotted path; of each object where the path meets a list."""
    if isinstance(values, Mapping) and name in values:
        return values[name]
    first, _, rest = name.partition(".")
    value = values.get(first) if isinstance(values, Mapping) else None
    if not rest or value is None:
        return value if not rest else None
    if isinstance(value, list | tuple):
        return [_at(each, rest) for each in value]
    return _at(value, rest)


def _text(value: Any) -> str | None:
    """A cell's text; of a list, its texts on lines of their own. None where it is empty."""
    if isinstance(value, list | tuple):
        parts = [text for each in value if (text := _text(each)) is not None]
        return "\n".join(parts) or None
    if _is_empty(value):
        return None
    if not isinstance(value, str):
        raise DataError(f"a text was expected, got {_short(value)}")
    return value


def _is_empty(value: Any) -> bool:
    missing = value is None or (isinstance(value, float) and value != value)  # NaN
    return missing or (isinstance(value, str) and not value.strip())


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


# --- files ----------------------------------------------------------------------------------------------------------


def _read(path: Path, encoding: str | None) -> Iterable[RawRow]:
    """The rows of a local file; beside the forms of `tables`, a .json file: a list of rows, or an object of rows by id
    (PubMedQA's own), or rows on lines (MedMCQA's own)."""
    if not path.name.endswith(".json"):
        return read_rows(path, encoding)
    try:
        text = read_text(path)
    except ParseError as error:
        raise DataError(f"{path}: {error}; use {ACCEPTED_FORMS}, or a .json file.") from error
    try:
        value = parse_json(text)
        rows = [value] if isinstance(value, dict) and not _is_table(value) else value
    except ParseError as whole:
        try:
            rows = [parse_json(line) for line in text.split("\n") if line.strip()]
        except ParseError:
            raise DataError(f"{path}: not valid JSON ({whole}); copy or download it again.") from whole
    if isinstance(rows, dict):
        rows = [row if "id" in row or "pubid" in row else {"id": key, **row} for key, row in rows.items()]
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: a .json file must be a list of rows, or an object of rows by id.")
    return [RawRow(number, row) for number, row in enumerate(rows, 1)]


def _is_table(value: dict[str, Any]) -> bool:
    return bool(value) and all(isinstance(row, dict) for row in value.values())


# --- what is said of the data ---------------------------------------------------------------------------------------


def _compare_counts(
    collector: ItemCollector, mapping: SourceMapping, source: str, split: str | None, notes: list[str]
) -> None:
    n = collector.n_rows
    if split is None:
        if n not in [counts.rows for counts in mapping.splits.values()]:
            published = ", ".join(f"{name} {counts.rows:,}" for name, counts in mapping.splits.items())
            notes.append(
                f"{source}: {n:,} questions, which is none of the published splits ({published}): a part of the set, "
                "or another version of it."
            )
        return
    expected = mapping.splits[split]
    found = Counter(item.subject for item in collector.items)
    differs = [
        f"{subject} {found[subject]:,} instead of {count:,}"
        for subject, count in expected.subjects.items()
        if n == len(collector.items) and found[subject] != count
    ]
    if n != expected.rows:
        differs.insert(0, f"{n:,} questions instead of {expected.rows:,}")
    if not differs:
        return
    if mapping.counts_are_certain:
        raise DataError(
            f"{source}: split {split} has {'; '.join(differs)}; the data set on the Hub has changed, or this copy is "
            "incomplete."
        )
    notes.append(
        f"{source}: split {split} has {'; '.join(differs)}, so results may not be comparable with published ones."
    )


def _about(mapping: SourceMapping, items: Sequence[McqItem], split: str | None) -> list[str]:
    notes = list(mapping.notes)
    if split is not None and not mapping.splits[split].answers:
        with_answers = ", ".join(name for name, counts in mapping.splits.items() if counts.answers)
        notes.append(
            f"The answers of the split {split} are not published, so that nothing is scored on it; {with_answers} have "
            "answers."
        )
    known = [item for item in items if item.answer is not None]
    if mapping.majority is not None and known:
        option, share = mapping.majority
        here = sum(item.options[item.answer or 0] == option for item in known) / len(known)
        notes.append(
            f"Always answering {option!r} is right for {here:.3f} of these questions ({share:.3f} of the whole set): "
            "compare an accuracy with that, not with one over the number of options."
        )
    return notes
