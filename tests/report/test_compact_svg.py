"""The shorter SVG: the same picture, its words as text, a fraction of the bytes, and no more than one digit."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import matplotlib
import pytest
from made_up import random_results
from matplotlib.figure import Figure

from xtrain.languages import names
from xtrain.report.compact_svg import compact, path_data
from xtrain.report.figures import score_map, svg
from xtrain.report.statistics import assemble


def original(figure: Figure) -> str:
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(text, format="svg")
    return text.getvalue()


def texts(source: str) -> list[str]:
    return [one.text or "" for one in ElementTree.fromstring(source).iter() if one.tag.endswith("text")]


def test_it_is_smaller_and_says_the_same() -> None:
    figure = score_map(assemble(random_results(["none", "a & <b>"], sorted(names())[:40])).tasks[0])
    short, long = svg(figure), original(figure)
    assert texts(short) == texts(long)
    assert "a & <b>" in texts(short)
    assert len(short) < len(long) / 3
    shapes = [source.count("<path") for source in (short, long)]
    assert shapes[0] >= shapes[1] - 8, "grounds alone are left out"


def test_every_reference_has_its_target() -> None:
    figure = Figure()
    figure.add_subplot().plot([1, 2, 3], [1, 3, 2], "o-", label="$a")
    short = compact(original(figure))
    ids = set(re.findall(r' id="(\w+)"', short))
    assert set(re.findall(r"#(i\d+)", short)) == ids
    assert ids
    assert not re.findall(r"\d\.\d\d", " ".join(re.findall(r' (?:d|x|y)="([^"]*)"', short)))


def test_what_is_turned_stays_turned() -> None:
    figure = Figure()
    figure.add_subplot().set_ylabel("loss")
    assert re.search(r'transform="[^"]*rotate\(-90', compact(original(figure)))


@pytest.mark.parametrize(
    ("long", "short"),
    [
        ("M 63.36 42.84 L 97.2 42.84 L 97.2 65.88 z", "M63.4 42.8H97.2V65.9z"),
        ("M 0 0 L -0.01 7.04", "M0 0V7"),
        ("M 1 2 C 1.11 2.22 3.33 4.44 5.55 6.66 ", "M1 2C1.1 2.2 3.3 4.4 5.5 6.7"),
    ],
)
def test_paths_are_written_shorter(long: str, short: str) -> None:
    assert path_data(long) == short
