"""On paper: every language of a wide page is there, in the PDF that a browser makes of it."""

from __future__ import annotations

import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest
from made_up import PAPER_ROWS, PAPER_TASKS, paper_answers, paper_page

from xtrain.languages import names

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.mark.long  # half a minute
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to print with")
def test_every_language_row_and_question_is_on_paper(tmp_path: Path) -> None:
    pypdf = pytest.importorskip("pypdf", reason="pypdf, which reads the PDF, is not installed")
    page = tmp_path / "report.html"
    page.write_text(paper_page(), encoding="utf-8")
    pdf = tmp_path / "report.pdf"
    subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer",
            f"--user-data-dir={tmp_path / 'profile'}", f"--print-to-pdf={pdf}", page.as_uri(),
        ],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    reader = pypdf.PdfReader(pdf)
    width, height = reader.pages[0].mediabox.width, reader.pages[0].mediabox.height
    assert (round(width), round(height)) == (595, 842), "A4, upright"
    words = " ".join(one.extract_text() for one in reader.pages).split()
    text = unicodedata.normalize("NFKC", " ".join(words))  # ligatures
    for codes in PAPER_TASKS.values():
        for code in codes.split():
            assert f"{code} {names()[code]}" in text, code
    for answer in paper_answers():
        assert answer.question in text
    assert all(row.split(",")[0] in text for row in PAPER_ROWS)
