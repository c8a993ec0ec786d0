"""The attempt at the paper's effect: what a draw of classes is, and what is compared with what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from common import DEMO
from quantization_effect import differences, drawn, table

from edge_qprompt.photos import load_dataset


def test_a_draw_is_another_half_of_the_same_classes_and_photos(tmp_path: Path) -> None:
    source, draws = load_dataset(DEMO), [load_dataset(drawn(DEMO, draw, tmp_path)) for draw in range(3)]
    assert draws[0].names == source.names
    assert len({draw.select("base").names for draw in draws}) == 3
    for draw in draws:
        assert sorted(draw.names) == sorted(source.names)
        photos, wanted = (
            sorted(
                (data.names[label], Path(str(path)).parent.name, Path(str(path)).name)
                for path, label in zip(data.train.paths, data.train.labels, strict=True)
            )
            for data in (draw, source)
        )
        assert photos == wanted
    assert load_dataset(drawn(DEMO, 2, tmp_path)).names == draws[2].names  # as it was, where it is made again


def row(data: str, draw: int, variant: str, base: float, new: float, by_hand: float) -> dict[str, Any]:
    measured = {"base": base, "new": new, "joint base": base, "joint new": new, "openworld": base * new}
    facts = {"looks": [[10, 1.0, True], [20, 1.0, False]]} if (variant, draw) == ("qcoop", 1) else {}
    known = {"accuracy": by_hand, "photos": 100, "classes": 5}
    told = {"data": data, "seed": draw, "variant": variant, "settings": {"shots": 16}, "measured": measured, "facts": facts}
    return told | {"prompt_bytes": 1.0, "seconds": 1.0, "new by hand": known}


def test_qcoop_is_compared_with_coop_of_the_same_draw() -> None:
    rows = []
    for draw, by_hand, ours, theirs in ((0, 0.2, 0.1, 0.4), (1, 0.8, 0.7, 0.6)):
        rows += [
            row("pets", draw, name, 0.9, new, by_hand) for name, new in (("coop", theirs), ("qcoop", ours), ("zero-shot", 0.5))
        ]
    found = {line.split("|")[1].strip(): line.split("|")[4].strip() for line in differences(rows)}
    assert found == {
        "pets": "-10.0 (-30.0 to +10.0), 1 of 2",
        "all draws": "-10.0 (-30.0 to +10.0), 1 of 2",
        "new names above chance": "+10.0, 1 of 1",
        "new names near chance": "-30.0, 0 of 1",
    }
    assert table(rows)[-1] == "QCoOp clustered again in 1 of 2 runs."
    (mean,) = [line for line in table(rows) if line.startswith("| pets | qcoop |")]
    assert mean.split("|")[4].strip() == "40.0 (10.0 to 70.0)"


def test_draws_whose_new_names_are_all_above_chance_have_no_line_of_others() -> None:
    rows = [row("pets", 0, name, 0.9, 0.5, 0.9) for name in ("coop", "qcoop", "zero-shot")]
    assert not any("near chance" in line for line in differences(rows))
    with pytest.raises(KeyError):
        differences(rows[1:])  # there is nothing to compare with
