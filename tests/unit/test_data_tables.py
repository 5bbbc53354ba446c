"""Tables as people have them: every way to write the same three questions gives the same items, or one sentence."""

import csv
import gzip
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sae_lens_med.concepts.sets import load_concepts
from sae_lens_med.data import LoadedItems, load_items
from sae_lens_med.data.tables import read_rows
from sae_lens_med.errors import DataError, MissingExtraError
from sae_lens_med.training.text import training_text

pd = pytest.importorskip("pandas")

ROOT = Path(__file__).parents[2]
CASES = ROOT.parent / "shared" / "data" / "cases"

ROWS: list[dict[str, Any]] = [
    {
        "question": "폐렴, 원인은?",
        "A": "폐렴구균",
        "B": "대장균",
        "C": "칸디다",
        "D": "결핵균",
        "E": "없음",
        "answer": 1,
    },
    {"question": "둘째 질문은?", "A": "가", "B": "나", "C": "다", "D": "라", "E": "마", "answer": 5},
    {"question": "셋째 질문은?", "A": "NA", "B": "null", "C": "None", "D": "nan", "E": "0", "answer": 3},
]
FRAME = pd.DataFrame(ROWS)


def said(loaded: LoadedItems) -> list[tuple[Any, ...]]:
    return [(item.question, item.options, item.answer) for item in loaded.items]


EXPECTED = [(row["question"], tuple(row[letter] for letter in "ABCDE"), row["answer"] - 1) for row in ROWS]


def as_csv(rows: list[list[Any]] | None = None, divider: str = ",", **kwargs: Any) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=divider, **kwargs)
    writer.writerows(rows if rows is not None else [list(ROWS[0]), *(list(row.values()) for row in ROWS)])
    return text.getvalue()


def as_json() -> str:
    return FRAME.to_json(orient="records", lines=True)


PADDED = [
    ["", "", *[""] * 6, ""],
    ["question", *"ABCDE", "answer", "", ""],
    *([*row.values(), "", ""] for row in ROWS[:2]),
    [""] * 9,
    [*ROWS[2].values(), "", ""],
    [" "] * 9,
]

# name -> (file name, bytes): what spreadsheets, pandas and editors make of the same rows.
WRITTEN: dict[str, tuple[str, Callable[[], bytes]]] = {
    "plain": ("a.csv", lambda: as_csv().encode()),
    "byte-order mark": ("a.csv", lambda: as_csv().encode("utf-8-sig")),
    "semicolons": ("a.csv", lambda: as_csv(divider=";").encode()),
    "tabs in .csv": ("a.csv", lambda: as_csv(divider="\t").encode()),
    "tabs": ("a.tsv", lambda: as_csv(divider="\t").encode()),
    "commas in .tsv": ("a.tsv", lambda: as_csv().encode()),
    "bars": ("a.csv", lambda: as_csv(divider="|").encode()),
    "every cell quoted": ("a.csv", lambda: as_csv(divider=";", quoting=csv.QUOTE_ALL).encode()),
    "a line that says how it is divided": ("a.csv", lambda: b"sep=;\r\n" + as_csv(divider=";").encode()),
    "capitals": ("A.CSV", lambda: as_csv().encode()),
    "old line ends": ("a.csv", lambda: as_csv(lineterminator="\r").encode()),
    "compressed": ("a.csv.gz", lambda: gzip.compress(as_csv().encode())),
    "compressed, capitals": ("a.TSV.GZ", lambda: gzip.compress(as_csv(divider="\t").encode())),
    "blank rows and columns": ("a.csv", lambda: as_csv(PADDED).encode()),
    "blank rows and columns, semicolons": ("a.csv", lambda: as_csv(PADDED, ";").encode()),
    "pandas, with its index": ("a.csv", lambda: FRAME.to_csv().encode()),
    "pandas, read and written twice": (
        "a.csv",
        lambda: FRAME.rename_axis("Unnamed: 0").reset_index().to_csv().encode(),
    ),
    "pandas, filtered index": ("a.csv", lambda: FRAME.set_axis([17, 3, 40]).to_csv().encode()),
    "answers as fractions": ("a.csv", lambda: FRAME.astype({"answer": float}).to_csv(index=False).encode()),
    "JSON lines of pandas": ("a.jsonl", lambda: as_json().encode()),
    "JSON lines, compressed": (
        "a.jsonl.gz",
        lambda: gzip.compress(as_json().encode()),
    ),
    "JSON lines, capitals": ("A.JSONL", lambda: as_json().encode()),
    "JSON, answers as fractions": (
        "a.jsonl",
        lambda: "".join(json.dumps(row | {"answer": float(row["answer"])}) + "\r\n" for row in ROWS).encode(),
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_the_same_items_however_they_are_written(tmp_path: Path, name: str) -> None:
    file, data = WRITTEN[name]
    path = tmp_path / file
    path.write_bytes(data())
    assert said(load_items(str(path))) == EXPECTED
    # `train` reads what `evaluate` reads.
    assert training_text([path], 0.0).counts["item"] == 3


def test_parquet_of_pandas(tmp_path: Path) -> None:
    for number, frame in enumerate((FRAME, FRAME.astype({"answer": float}), FRAME.set_axis([7, 5, 6]))):
        path = tmp_path / f"{number}.PARQUET"
        frame.to_parquet(path)
        assert said(load_items(str(path))) == EXPECTED
    # A gap makes fractions of the other answers, and a missing text a NaN.
    table = {
        "question": ["가?", "나?", None],
        "options": [["x", "y"]] * 2 + [None],
        "answer": [2.0, float("nan"), None],
    }
    pq.write_table(pa.table(table | {"explanation": [None, "이유", None]}), tmp_path / "gaps.parquet")
    loaded = load_items(str(tmp_path / "gaps.parquet"), explanation_source="expert")
    assert [(i.answer, i.explanation) for i in loaded.items] == [(1, None), (None, "이유")]


def test_excel(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    from openpyxl import load_workbook

    for number, (frame, index) in enumerate(((FRAME, False), (FRAME, True), (FRAME.astype({"answer": float}), False))):
        path = tmp_path / f"{number}.xlsx"
        frame.to_excel(path, index=index)
        assert said(load_items(str(path))) == EXPECTED
    workbook = load_workbook(tmp_path / "0.xlsx")
    sheet = workbook.worksheets[0]
    sheet.insert_rows(1, 2)
    sheet.insert_cols(3)
    sheet.append([])
    workbook.create_sheet("empty")
    sheet["D6"] = 37.5  # an option that the table takes for a number
    workbook.save(tmp_path / "padded.xlsx")
    expected = [*EXPECTED[:2], (EXPECTED[2][0], ("NA", "null", "37.5", "nan", "0"), 2)]
    found = said(load_items(str(tmp_path / "padded.xlsx")))
    assert [f[0] for f in found] == [e[0] for e in expected] and "37.5" in found[2][1]
    workbook.worksheets[1]["A1"] = "notes"
    workbook.save(tmp_path / "two.xlsx")
    with pytest.raises(DataError, match=r"two.xlsx: several sheets hold something \(Sheet1, empty\); keep one"):
        load_items(str(tmp_path / "two.xlsx"))
    workbook = load_workbook(tmp_path / "0.xlsx")
    workbook.worksheets[0]["G3"] = "=1+1"
    workbook.worksheets[0]["G4"] = "#N/A"
    workbook.save(tmp_path / "formula.xlsx")
    with pytest.raises(DataError, match=r"2 rows cannot be used: .*row 2: field 'answer': a formula .*row 3: field"):
        load_items(str(tmp_path / "formula.xlsx"))
    for damaged in (b"", b"PK\x03\x04 not a workbook", (tmp_path / "0.xlsx").read_bytes()[:2000]):
        (tmp_path / "damaged.xlsx").write_bytes(damaged)
        with pytest.raises(DataError, match=r"damaged.xlsx: not a readable .xlsx file"):
            load_items(str(tmp_path / "damaged.xlsx"))


def test_excel_without_its_extra_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    with pytest.raises(MissingExtraError, match=r"a.xlsx needs the package 'openpyxl'.* 'sae-lens-med\[excel\]'"):
        load_items(str(tmp_path / "a.xlsx"))


@pytest.mark.parametrize(
    "encoding",
    [
        *("cp949", "johab", "utf-16", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"),
        # Their bytes are ASCII, and so UTF-8.
        *("iso2022_kr", "utf-7"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.tsv.gz"])
def test_an_encoding_is_named_once_and_read_when_it_is_given(tmp_path: Path, name: str, encoding: str) -> None:
    text = as_csv() if "csv" in name else as_csv(divider="\t")
    if "jsonl" in name:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    data = text.encode(encoding)
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    with pytest.raises(DataError) as error:
        load_items(str(path), skip_bad_rows=True)
    assert str(error.value) == (
        f"{path}: the text is not UTF-8 but looks like {encoding}; read it with --encoding {encoding}, or save it as "
        "UTF-8."
    )
    assert said(load_items(str(path), encoding=encoding)) == EXPECTED
    # A file that is UTF-8 stays UTF-8: the encoding is that of the others.
    other = tmp_path / "other.csv"
    other.write_text(as_csv(), encoding="utf-8")
    assert said(load_items(f"{path},{other}", encoding=encoding)) == [*EXPECTED, *EXPECTED]


def test_an_encoding_that_is_not_the_files(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(as_csv().encode("cp949"))
    with pytest.raises(DataError, match="a.csv: the text is not utf-16 at byte .*; it looks like cp949"):
        load_items(str(path), encoding="utf-16")
    for name, hint in (("cp94", "did you mean cp949"), ("hex", "no text encoding 'hex'"), ("한글", "no text encoding")):
        with pytest.raises(DataError, match=hint):
            load_items(str(path), encoding=name)
    with pytest.raises(DataError, match="sample: this source does not take encoding"):
        load_items("sample", encoding="cp949")


@pytest.mark.parametrize(
    ("encoding", "question"),
    [
        ("iso2022_jp", "頭痛の原因は何ですか?"),
        ("iso2022_jp_2", "頭痛 두통?"),
        ("hz", "头痛的原因是什么?"),
        ("utf-7", "¿Cuál es la causa más común?"),
        ("utf-16-le", "가" * 300 + "의원인은" * 50),
        ("utf-16-be", "가" * 300 + "의원인은" * 50),
    ],
)
def test_other_text_in_encodings_without_a_mark(tmp_path: Path, encoding: str, question: str) -> None:
    path = tmp_path / "a.jsonl"
    row = {"question": question, "options": ["1", "2"], "answer": 1}
    path.write_bytes(f"{json.dumps(row, ensure_ascii=False)}\n".encode(encoding))
    with pytest.raises(DataError, match=f"looks like {encoding}; read it with --encoding {encoding}, or"):
        load_items(str(path))
    assert load_items(str(path), encoding=encoding).items[0].question == question
    for wrong in ("cp949", "latin-1"):  # which take any bytes of these
        with pytest.raises(DataError, match=f"the text is not {wrong}.*; it looks like {encoding}"):
            load_items(str(path), encoding=wrong)


@pytest.mark.parametrize(
    "question",
    ["Na+/K+ ATPase, CD4+-cells, Ca2+ and 3+4-1?", "a+b-c, +pregnancy- and +chest-", "pH ~{7}", "~5 mg", "\x1b[31mred"],
)
def test_ascii_is_not_taken_for_a_code(tmp_path: Path, question: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(as_csv([["question", "options", "answer"], [question, '["1", "2"]', "1"]]), encoding="ascii")
    assert load_items(str(path)).items[0].question == question
    assert load_items(str(path), encoding="cp949").items[0].question == question


def test_a_cell_may_be_as_long_as_it_is(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    long = ROWS[0] | {"question": "가" * 200_000}
    (tmp_path / "a.csv").write_text(as_csv([list(long), list(long.values())]), encoding="utf-8")
    assert len(load_items(str(tmp_path / "a.csv")).items[0].question) == 200_000
    assert csv.field_size_limit() == before  # it belongs to the whole process


@pytest.mark.parametrize("name", ["Unnamed: 0", "", "__index_level_0__", "  "])
def test_a_column_without_a_name_that_holds_something_is_refused(tmp_path: Path, name: str) -> None:
    rows = [[name, *ROWS[0]], *([f"x{i}", *row.values()] for i, row in enumerate(ROWS))]
    (tmp_path / "a.csv").write_text(as_csv(rows), encoding="utf-8")
    with pytest.raises(DataError, match="a.csv: a column without a name holds 'x0'; name it, or delete it"):
        load_items(str(tmp_path / "a.csv"), skip_bad_rows=True)


def test_rows_of_other_lengths_are_told_as_rows(tmp_path: Path) -> None:
    text = as_csv().replace("둘째 질문은?,가", "둘째 질문은?")
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="row 2: 6 cells where the header has 7 columns"):
        load_items(str(tmp_path / "a.csv"))
    (tmp_path / "a.csv").write_text("question;answer\n", encoding="utf-8")
    with pytest.raises(DataError, match="the file has no rows"):
        load_items(str(tmp_path / "a.csv"))
    (tmp_path / "a.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(DataError, match="row 1"):
        load_items(str(tmp_path / "a.jsonl"))


def test_concepts_ratings_and_texts_come_from_the_same_tables(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("\ttext\n0\t한 글\n1\t다른 글\n\t\n", encoding="utf-8")
    (tmp_path / "b.csv").write_bytes("concept,category,ko\n폐렴,disease,폐렴\n".encode("cp949"))
    with pytest.raises(DataError, match="looks like cp949; save it as UTF-8"):  # no option to name it by
        load_concepts(tmp_path / "b.csv")
    assert [row.values for row in read_rows(tmp_path / "a.tsv")] == [{"text": "한 글"}, {"text": "다른 글"}]


@pytest.mark.skipif(not CASES.is_dir(), reason="the development data ../shared/data is not here")
def test_files_that_were_refused_or_misread() -> None:
    answers = {
        name: [item.answer for item in load_items(str(CASES / name), **given).items]
        for name, given in {
            "blank.csv": {},
            "idx.csv": {},
            "semi.csv": {},
            "cp949.csv": {"encoding": "cp949"},
            "float_answer.csv": {},
            "float_answer.parquet": {},
            "zero.jsonl": {"answers_from": 0},
        }.items()
    }
    plain, gap = [0, 1, 2], [0, None, 2]
    assert answers == {
        **dict.fromkeys(("blank.csv", "idx.csv", "semi.csv", "cp949.csv"), plain),
        **dict.fromkeys(("float_answer.csv", "float_answer.parquet"), gap),
        "zero.jsonl": [0, 1, 2, 3, 0, 1, 2, 3],
    }
    assert load_items(str(CASES / "float_answer.csv")).items[0].options == ("NA", "null", "None", "nan")


def test_reading_a_table_loads_nothing_heavy() -> None:
    code = "import sys, sae_lens_med.data.tables; print({'pandas', 'pyarrow', 'openpyxl'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"


def test_what_is_not_korean_is_not_called_korean(tmp_path: Path) -> None:
    text = "question,A,B,C,D,E,answer\n" + "頭痛の原因は何ですか?,あ,い,う,え,お,1\n" * 3
    (tmp_path / "a.csv").write_bytes(text.encode("shift_jis"))
    with pytest.raises(DataError, match="the text is not UTF-8") as error:
        load_items(str(tmp_path / "a.csv"))
    assert "cp949" not in str(error.value)
    (tmp_path / "a.csv").write_bytes(bytes(range(1, 256)) * 20)
    with pytest.raises(DataError, match="the text is not UTF-8, nor of an encoding that can be told; name it with"):
        load_items(str(tmp_path / "a.csv"))


def test_lists_as_pandas_prints_them(tmp_path: Path) -> None:
    frame = pd.DataFrame({"question": ["q", "r"], "options": [["it's", "b, c"], ['"x"', "y"]], "answer": [1, 2]})
    frame.to_csv(tmp_path / "a.csv")
    assert [item.options for item in load_items(str(tmp_path / "a.csv")).items] == [("it's", "b, c"), ('"x"', "y")]
    # Oracle of what must not run: a call in the cell.
    text = "question,options,answer\nq,\"[__import__('os').getcwd(), 'b']\",1\n"
    (tmp_path / "b.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="field 'options': must be a list written as JSON"):
        load_items(str(tmp_path / "b.csv"))
