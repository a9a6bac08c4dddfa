"""All figures of the page, and the training curves that it leaves out, as SVG and as PDF."""

from __future__ import annotations

from collections.abc import Iterator

from matplotlib.figure import Figure

from xtrain.report.answer_figures import answer_figure, forest
from xtrain.report.export.content import Content, file_names
from xtrain.report.figures import difference_map, pdf, score_map, svg
from xtrain.report.training import training_figures


def page_figures(content: Content) -> dict[str, Figure]:
    """By name: ``answer helps``, ``xnli differences``, ``training mnli/xnli``, ``time line``."""
    figures: dict[str, Figure] = {}
    for answer in content.study.answers:
        main = answer_figure(answer)
        if main is not None:
            figures[f"answer {answer.name}"] = main
        if answer.details:
            figures[f"answer {answer.name} details"] = forest(answer, answer.details)
    for task in content.grid.tasks:
        differences = difference_map(task)
        if differences is not None:
            figures[f"{task.task} differences"] = differences
        figures[f"{task.task} scores"] = score_map(task)
    return {**figures, **training_figures(content.study.phases, content.study.compute)}


def figure_files(content: Content) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file, one figure at a time: a large study has hundreds."""
    figures = page_figures(content)
    for name, plain in file_names(figures).items():
        yield f"{plain}.svg", svg(figures[name]).encode("utf-8")
        yield f"{plain}.pdf", pdf(figures[name])
