"""Collapse: what is told as one and when, what is not, what a resumed run decides, and real ones on two ranks."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import Nursery
from toy import TASKS

from xtrain.data import PackedBatch, prepare
from xtrain.tasks import catalog
from xtrain.training.collapse import ALIKE, BLOCKS, MOST_CHOICES, Collapse, CollapseDetector, Window
from xtrain.training.probe import Probe

pytestmark = pytest.mark.usefixtures("alone")
WORKER = Path(__file__).with_name("collapse_worker.py")
CPU = torch.device("cpu")
BATCH = 16
ALL_ALIKE = Probe(64, spread=0.001, share=1.0, entropy=0.97)
ONE_CLASS = Probe(64, spread=0.1, share=1.0, entropy=0.97)  # also what a slow start of a real model looks like
MANY = Probe(64, spread=0.3, share=0.4, entropy=0.9)


def batch_of(
    labels: Sequence[int], sizes: Sequence[int] | None = None, weights: Sequence[float] | None = None
) -> PackedBatch:
    """Examples of ``sizes`` sequences of one token each."""
    counts = torch.tensor(sizes or [1] * len(labels))
    num = int(counts.sum())
    return PackedBatch(
        task="nli",
        input_ids=torch.zeros(num, dtype=torch.long),
        positions=torch.zeros(num, dtype=torch.long),
        cu_seqlens=torch.arange(num + 1, dtype=torch.int32),
        max_seqlen=1,
        example_offsets=torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)]),
        fields={"label": torch.tensor(labels)},
        weights=torch.ones(len(labels)) if weights is None else torch.tensor(weights),
        indices=torch.arange(len(labels)),
    )


def detector(window: int = 40, warmup: int = 0, classes: dict[str, int] | None = None) -> CollapseDetector:
    return CollapseDetector(classes or {"nli": 3}, frozenset(), window, warmup, CPU)


LABELS = tuple(n % 3 for n in range(BATCH))  # 6, 5 and 5 of each
CHANCE = math.log(3)


def feed(
    watch: CollapseDetector,
    losses: Sequence[float],
    look: Probe = ALL_ALIKE,
    first: int = 1,
    task: str = "nli",
    labels: Sequence[int] = LABELS,
) -> list[Collapse]:
    """One step for each mean loss; what was told."""
    found = []
    for step, loss in enumerate(losses, first):
        watch.add(task, torch.tensor(loss * len(labels)), batch_of(labels))
        found.append(watch.check(step, lambda _: look))
    return [collapse for collapse in found if collapse is not None]


def test_a_collapse_from_the_start_is_told_once_after_the_warmup_and_a_window() -> None:
    watch = detector(window=40, warmup=15)
    (collapse,) = feed(watch, [1.12] * 200)
    assert collapse.step == 60  # the first end of a block of 10 at which the last 40 steps are beyond the warm-up
    assert collapse.step - watch.first_step <= watch.latency
    assert collapse.fields()["tasks"] == ["nli"]
    assert "in steps 21 to 60, nli: all inputs look alike" in collapse.reason
    assert "loss is 1.120, always answering the class frequencies has 1.095" in collapse.reason


@pytest.mark.parametrize("begins", [50, 51, 55, 59, 60, 61, 137])
def test_wherever_it_begins_it_is_told_within_the_declared_steps(begins: int) -> None:
    watch = detector(window=40)
    (collapse,) = feed(watch, [0.5] * begins + [1.11] * 200)
    assert begins + 0.9 * watch.window < collapse.step <= begins + watch.latency


def test_one_that_passes_is_told_again_when_it_comes_back() -> None:
    watch = detector(window=40)
    found = feed(watch, ([0.3] * 60 + [1.2] * 100) * 2)
    assert [collapse.step for collapse in found] == watch.found_at == [100, 260]


def test_training_that_learns_is_not_looked_at() -> None:
    watch = detector()
    for step in range(1, 201):
        watch.add("nli", torch.tensor(1.05 * BATCH), batch_of(LABELS))
        assert watch.check(step, lambda _: pytest.fail("the loss is better than the class frequencies")) is None


@pytest.mark.parametrize("look", [ONE_CLASS, MANY])
def test_a_slow_start_and_a_task_that_is_too_hard_are_no_collapse(look: Probe) -> None:
    assert feed(detector(), [1.10] * 300, look) == []


def test_one_class_alone_is_a_collapse_where_something_had_been_learnt() -> None:
    watch = detector()
    (collapse,) = feed(watch, [0.6] * 60 + [1.10] * 100, ONE_CLASS)
    assert collapse.step == 100
    assert "lost it" in collapse.reason
    assert feed(detector(), [0.6] * 60 + [1.10] * 100, MANY) == []


def test_diverged_training_counts_even_where_predictions_vary() -> None:
    (collapse,) = feed(detector(), [3.0] * 100, MANY)
    assert "diverged" in collapse.reason
    assert feed(detector(), [1.5] * 100, MANY) == []


def test_classes_of_different_frequency() -> None:
    uneven = [0] * 9 + [1] * 7  # as PAWS-X: always answering class 0 is right in 56 %, with a loss of 0.685
    pair = {"nli": 2}
    assert feed(detector(classes=pair), [0.686] * 60, labels=uneven)
    assert feed(detector(classes=pair), [0.66] * 60, labels=uneven) == []  # better than the frequencies: learning
    assert feed(detector(classes=pair), [0.30] * 60, labels=[0] * 15 + [1]) == []  # one class is nearly always right


def test_what_only_fills_in_and_what_is_no_number_does_not_count() -> None:
    watch = detector()
    filled = batch_of([0, 1, 2, 2], weights=[1.0, 1.0, 1.0, 0.0])
    watch.add("nli", torch.tensor(3 * 1.2), filled)
    watch.add("nli", torch.tensor(math.nan), filled)
    watch.add("nli", torch.tensor(math.inf), filled)
    watch.add("tags", torch.tensor(5.0), filled)  # another format: not watched
    (sums,) = watch.state()["sums"][0]
    assert sums == pytest.approx([3, 3.6, 3 * CHANCE, 1, 1, 1])


def test_chance_of_examples_with_different_numbers_of_choices() -> None:
    watch = CollapseDetector({"copa": MOST_CHOICES}, frozenset({"copa"}), 40, 0, CPU)
    watch.add("copa", torch.tensor(2.0), batch_of([0, 3, 1], sizes=[2, 4, 3], weights=[1.0, 1.0, 0.0]))
    (sums,) = watch.state()["sums"][0]
    assert sums[:3] == pytest.approx([2, 2.0, math.log(2) + math.log(4)])
    window = Window.of(sums)
    assert window.baseline == pytest.approx(math.log(2))  # two right places, once each: less than mean log C
    assert window.chance == pytest.approx((math.log(2) + math.log(4)) / 2)


def test_equal_logits_of_all_choices() -> None:
    def choices(look: Probe, losses: Sequence[float]) -> list[Collapse]:
        watch = CollapseDetector({"copa": MOST_CHOICES}, frozenset({"copa"}), 40, 0, CPU)
        found = []
        for step, loss in enumerate(losses, 1):
            watch.add("copa", torch.tensor(loss * 4), batch_of([0, 1, 0, 1], sizes=[2] * 4))
            found.append(watch.check(step, lambda _: look))
        return [collapse for collapse in found if collapse]

    equal = Probe(64, spread=0.05, share=0.5, entropy=0.99999)
    assert choices(equal, [0.694] * 100) == []  # as of a small model that is at chance
    assert choices(Probe(64, spread=ALIKE / 2, share=0.5, entropy=1.0), [0.694] * 100)
    assert choices(equal, [0.3] * 60 + [0.694] * 100)  # had learnt


def test_in_a_mixture_all_tasks_have_to_collapse() -> None:
    def mixed(second: float, second_look: Probe) -> int:
        watch = detector(window=80, classes={"nli": 3, "para": 2})
        told = 0
        for step in range(1, 401):
            if step % 2:
                watch.add("nli", torch.tensor(1.12 * BATCH), batch_of(LABELS))
            else:
                watch.add("para", torch.tensor(second * BATCH), batch_of([n % 2 for n in range(BATCH)]))
            told += watch.check(step, lambda task: second_look if task == "para" else ALL_ALIKE) is not None
        return told

    assert mixed(0.70, ALL_ALIKE) == 1
    assert mixed(0.70, MANY) == 0
    assert mixed(0.30, ALL_ALIKE) == 0


def test_a_resumed_run_decides_as_the_uninterrupted_one() -> None:
    losses = [0.6 + 0.001 * n for n in range(67)] + [1.10 + 0.001 * (n % 7) for n in range(60)]
    whole = detector()
    (told,) = feed(whole, losses, ONE_CLASS)
    for cut in range(1, len(losses)):
        before, after = detector(), detector()
        found = feed(before, losses[:cut], ONE_CLASS)
        before.state()  # an earlier save of the same block
        after.restore(json.loads(json.dumps(before.state())))
        found += feed(after, losses[cut:], ONE_CLASS, cut + 1)
        assert [collapse.step for collapse in found] == [told.step], cut
        assert found[0].reason == told.reason
        assert after.found_at == [told.step]


def test_training_goes_on_undisturbed_after_a_save() -> None:
    watch = detector()
    for step in range(1, 61):
        watch.add("nli", torch.tensor(1.12 * BATCH), batch_of(LABELS))
        watch.state()
        assert (watch.check(step, lambda _: ALL_ALIKE) is not None) == (step == 40)


def run_cases(
    nursery: Nursery, out: Path, model: Path, data: Path, cases: Sequence[dict[str, Any]], ranks: int
) -> dict[str, Any]:
    specs = catalog.load({name: TASKS[name] for name in ("toy", "choose")})
    shards = {name: str(prepare(spec, "train", "en", model, 64, data, out / "prepared").path)
              for name, spec in specs.items() if name in TASKS}  # fmt: skip
    (out / "shards.json").write_text(json.dumps(shards))
    nursery.work(WORKER, ranks, out, out, model, json.dumps(cases))
    found = [json.loads((out / f"rank-{rank}-of-{ranks}.json").read_text()) for rank in range(ranks)]
    for name in found[0]:
        found[0][name]["losses"] = [sum(shares) for shares in zip(*(one[name]["losses"] for one in found), strict=True)]
        assert found[0][name]["found_at"] == found[1][name]["found_at"]
        assert found[0][name]["looks"] == found[1][name]["looks"], "all ranks see the same"
    first: dict[str, Any] = found[0]
    return first


def case(name: str, tasks: str, learning_rate: float, **more: Any) -> dict[str, Any]:
    sizes = {"steps": 150, "window": 60, "stage": 2, "cut": 0}
    return {"name": name, "tasks": tasks.split(), "learning_rate": learning_rate, **sizes, **more}


def test_real_training_on_two_ranks(nursery: Nursery, tmp_path: Path, tiny_model: Path, toy_data: Path) -> None:
    """A learning rate far too high collapses and is caught, in ZeRO-3 too; one that is right only begins slowly."""
    cases = [
        case("collapse", "toy", 3e-2),
        case("resumed", "toy", 3e-2, cut=71),
        case("mixture", "toy choose", 3e-2, stage=3),
        case("slow", "toy", 1e-4, steps=46, window=30),
        case("chance", "choose", 1e-4, steps=46, window=30),
    ]
    found = run_cases(nursery, tmp_path, tiny_model, toy_data, cases, ranks=2)
    for name in ("collapse", "mixture"):
        assert found[name]["found_at"] is not None, found[name]["losses"][-20:]
        assert "all inputs look alike" in found[name]["reason"]
        assert max(look["spread"] for look in found[name]["looks"]) < ALIKE
    assert found["collapse"]["latency"] == 60 + 60 // BLOCKS
    assert found["resumed"] == found["collapse"]
    for name in ("slow", "chance"):  # they learn nothing in these steps, and would do so in more
        assert found[name]["found_at"] is None
        assert min(found[name]["losses"][20:]) > 0.95, "not slow enough to show anything"
        assert min(look["spread"] for look in found[name]["looks"]) > 3 * ALIKE
