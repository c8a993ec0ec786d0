"""What `adapt` did, as one HTML page that needs nothing else: pictures are inside, and no script.

Drawn by matplotlib as SVG, photos as small JPEGs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from device_agent.html_page import document, draw, section, table, thumbnail

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from edge_qprompt.learn import Adaptation, Checked
    from edge_qprompt.pack import Pack

WRONG = 12  # photos shown
LINED_BITS = 4  # a codebook of more values would hide the weights
NAMED_CLASSES = 40  # whose names fit beside a confusion matrix
LOOKS = """How far the histogram of indexes has moved since the centres were fitted, in units of (K - 1) / N.
Above the dashed line, T_KL, and with a quantization error that has grown, they are fitted again."""
WEIGHTS = "Weights as they were learned; lines where the codebook has its values, to which they are rounded."


def page(result: Adaptation, facts: Sequence[tuple[str, str]]) -> str:
    """The page.

    Args:
        result: of `adapt`.
        facts: what the table at the top says, name and value.
    """
    pack = result.pack
    parts = [table(facts)]
    if result.run.losses:
        parts.append(section("Learning", _losses(result.run.losses)))
    if looks := result.facts.get("looks"):
        parts.append(section("Re-clustering", f"<p class=note>{LOOKS}</p>" + _looks(looks, result.facts["threshold"])))
    if pack.tensors:
        parts.append(section("Weights and codebook", f"<p class=note>{WEIGHTS}</p>" + _histograms(pack, result.weights)))
    where = f"{len(result.checked.labels)} {'held-out photos' if result.held_out else 'photos learned from'}"
    parts.append(section(f"Confusion, {where}", _confusion(result.checked, result.names)))
    parts.append(section("The most wrong photos", _wrong(result.checked, result.names)))
    parts.append(section("Where the bytes go", table(_sizes(pack))))
    return document("edge-qprompt: what was learned", parts)


def _losses(losses: Sequence[float]) -> str:
    def plot(axes: Axes) -> None:
        axes.plot(range(1, len(losses) + 1), losses, color="#0b6b58")
        axes.set(xlabel="epoch", ylabel="loss")
        axes.grid(alpha=0.3)

    return draw(f"loss over {len(losses)} epochs, from {losses[0]:.3f} to {losses[-1]:.3f}", 8, 3.2, plot)


def _looks(looks: Sequence[tuple[int, float, bool]], threshold: float) -> str:
    steps, drifts, fired = zip(*looks, strict=True)

    def plot(axes: Axes) -> None:
        axes.plot(steps, drifts, ".-", color="#55605c", label="drift")
        again = [(step, drift) for step, drift, fires in looks if fires]
        if again:
            axes.plot(*zip(*again, strict=True), "o", color="#c2410c", label="clustered again")
        axes.axhline(threshold, color="#55605c", linewidth=0.8, linestyle="--")
        axes.set(xlabel="step", ylabel="KL, (K - 1) / N")
        axes.set_yscale("symlog", linthresh=1)
        axes.yaxis.set_major_formatter("{x:g}")  # powers would be in TeX, which is off for the sake of names
        axes.legend()

    return draw(f"{len(looks)} looks at a threshold of {threshold:g}, clustered again {sum(fired)} times", 8, 3.2, plot)


def _histograms(pack: Pack, weights: Mapping[str, NDArray[np.float32]]) -> str:
    from edge_qprompt.pack import Role

    drawn = []
    for tensor in pack.tensors:
        name = Role(tensor.role).name.lower() if tensor.role in set(Role) else f"role {tensor.role}"
        learned = weights.get(name)  # where it was not computed from what was learned, as MaPLe's tokens are
        values = (tensor.values() if learned is None or learned.size != tensor.data.size else learned).ravel()
        text = f"{name}: {' x '.join(map(str, tensor.shape))}, "
        text += f"{tensor.bits} bit{'s' * (tensor.bits > 1)} each" if tensor.codebook.size else "float16"

        def plot(axes: Axes, tensor: Any = tensor, values: Any = values) -> None:
            axes.hist(values, bins=64, color="#0b6b58")
            for centre in tensor.codebook.astype(np.float32) if tensor.bits <= LINED_BITS else ():
                axes.axvline(centre, color="#c2410c", linewidth=1)
            axes.set(xlabel="value", ylabel="weights")

        drawn.append(f"<p>{escape(text)}</p>" + draw(text, 8, 2.6, plot))
    return "".join(drawn)


def _confusion(checked: Checked, names: Sequence[str]) -> str:
    matrix = np.zeros((len(names), len(names)), np.int64)
    np.add.at(matrix, (checked.labels, checked.probabilities.argmax(axis=1)), 1)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    size = min(9.0, 3 + 0.28 * len(names))

    def plot(axes: Axes) -> None:
        axes.imshow(shares, cmap="Greens", vmin=0, vmax=1)
        axes.set(xlabel="answered", ylabel="right")
        if len(names) <= NAMED_CLASSES:
            axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
            axes.set_yticks(range(len(names)), names, fontsize=7)

    off = matrix * (1 - np.eye(len(names), dtype=np.int64))
    worst = sorted(zip(*np.nonzero(off), strict=True), key=lambda at: -off[at])[:5]
    listed = "".join(
        f"<li>{escape(names[a])} taken for {escape(names[b])}: {off[a, b]} of {matrix[a].sum()}</li>" for a, b in worst
    )
    return draw("share of each class's photos by the label answered", size, size, plot) + f"<ul>{listed}</ul>"


def _wrong(checked: Checked, names: Sequence[str]) -> str:
    answered = checked.probabilities.argmax(axis=1)
    rows = np.arange(len(answered))
    surplus = checked.probabilities[rows, answered] - checked.probabilities[rows, checked.labels]
    shown = [int(i) for i in np.argsort(-surplus, kind="stable")[:WRONG] if surplus[i] > 0]
    if not shown:
        return "<p>None is wrong.</p>"
    items = []
    for i in shown:
        sure = f"{100 * checked.probabilities[i, answered[i]]:.0f} %"
        text = f"{names[checked.labels[i]]}, taken for {names[answered[i]]} ({sure})"
        items.append(f"<li>{thumbnail(checked.paths[i])}{escape(text)}</li>")
    return f"<ul class=photos>{''.join(items)}</ul>"


def _sizes(pack: Pack) -> list[tuple[str, str]]:
    payload = sum(tensor.payload_bytes for tensor in pack.tensors)
    sections = sum(section.size for section in pack.sections)
    float16 = 2 * sum(tensor.data.size for tensor in pack.tensors)
    return [
        ("codebooks and indexes", f"{payload} bytes; as float16 {float16}"),
        ("class names and other sections", f"{sections} bytes"),
        ("head, records, checksum", f"{pack.size - payload - sections} bytes"),
        ("in all", f"{pack.size} bytes"),
    ]
