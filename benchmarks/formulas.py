"""The pictures of `docs/formulas.md`: what each weight does to a token, by the reference implementation in float64.

    python benchmarks/formulas.py          writes docs/pictures/{objectives,temperature,entropy}.svg

A token's target has probability p among V - 1 others that fall off like k^-a. Needs torch alone; the drawings are
written by hand, so that the files stay small and the same everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rankray.loss import reference

VOCABULARY = 2_000
PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 370, 56, 190, 28, 46
COLOURS = ("#1b6ca8", "#c0562f", "#4a7c3a", "#8e5ea2", "#a07c12", "#3d8b8b", "#b03060")
LEAST, MOST = 1e-4, 0.999
"""The probabilities that are drawn, on a logarithmic axis."""


@dataclass
class Drawing:
    """A chart of lines over the target's probability.

    Attributes:
        unit: of the vertical axis.
        lines: name -> values at `probabilities()`.
        ticks: of the vertical axis; also its range.
    """

    unit: str
    ticks: tuple[float, ...]
    lines: dict[str, list[float]] = field(default_factory=dict)


def probabilities() -> torch.Tensor:
    """Return p, 160 values from LEAST to MOST."""
    return torch.logspace(math.log10(LEAST), math.log10(MOST), 160, dtype=torch.float64)


def weights(objective: str, falloff: float = 1.0, **knobs: Any) -> list[float]:
    """Return the weight of the target at each probability; its rank follows from where it stands among the others."""
    p_N = probabilities()
    others = torch.arange(1, VOCABULARY, dtype=torch.float64) ** -falloff
    others = others / others.sum()
    logits_NV = torch.cat([p_N[:, None], (1 - p_N)[:, None] * others[None]], dim=1).log()
    stats = reference.token_stats(logits_NV, torch.zeros(len(p_N), dtype=torch.long))
    weight_N = reference.token_weights(stats, objective, **knobs)
    return [float(weight) for weight in weight_N]


def objectives() -> Drawing:
    """Return what the objectives make of one token."""
    found = Drawing("weight", (0.001, 0.01, 0.1, 1.0, 2.0))
    found.lines = {
        "sft": weights("sft"),
        "dft": weights("dft"),
        "power, alpha 0.5": weights("power", alpha=0.5),
        "threshold, q 0.1": weights("threshold", q=0.1),
        "deft": weights("deft"),
        "rri, base one": weights("rri", form="exact", base="one"),
        "rri, base prob": weights("rri", form="exact", base="prob"),
    }
    return found


def temperatures() -> Drawing:
    """Return S of the exact form at several temperatures."""
    found = Drawing("S", (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0))
    for value in (0.25, 0.5, 1.0, 2.0, 8.0):
        found.lines[f"temperature {value:g}"] = weights("rri", form="exact", base="one", temperature=value)
    return found


def entropies() -> Drawing:
    """Return S at several entropies of the others, with the entropy weight 1, and once without."""
    found = Drawing("S", (0.5, 1.0, 2.0))
    for falloff, name in ((4.0, "others nearly certain"), (1.5, "others peaky"), (1.0, "others broad"), (0.0, "flat")):
        found.lines[f"{name}"] = weights("rri", falloff, form="exact", base="one")
    found.lines["flat, entropy weight 0"] = weights("rri", 0.0, form="exact", base="one", entropy_weight=0.0)
    return found


def svg(drawing: Drawing) -> str:
    """Return a drawing as SVG."""
    low, high = drawing.ticks[0], drawing.ticks[-1]

    def x_of(p: float) -> float:
        return LEFT + math.log(p / LEAST) / math.log(1 / LEAST) * (WIDTH - LEFT - RIGHT)

    def y_of(value: float) -> float:
        share = math.log(value / low) / math.log(high / low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for tick in drawing.ticks:
        y, colour = y_of(tick), "#999" if tick == 1 else "#e5e5e5"
        parts.append(f'<path d="M{LEFT},{y:.1f} H{WIDTH - RIGHT}" stroke="{colour}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for power in range(-4, 1):
        x = x_of(10.0**power)
        parts.append(f'<path d="M{x:.1f},{HEIGHT - BOTTOM} v4" stroke="#999"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{10.0**power:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">probability of the target</text>')
    parts.append(f'<text x="{LEFT - 6}" y="14" text-anchor="end">{drawing.unit}</text>')
    for index, (name, values) in enumerate(drawing.lines.items()):
        colour = COLOURS[index % len(COLOURS)]
        there = [
            f"{x_of(p):.1f},{y_of(value):.1f}"
            for p, value in zip(probabilities().tolist(), values, strict=True)
            if low <= value <= high  # what lies outside is not drawn
        ]
        parts.append(f'<polyline points="{" ".join(there)}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        y = TOP + 12 + 20 * index
        parts.append(f'<path d="M{WIDTH - RIGHT + 14},{y - 4} h20" stroke="{colour}" stroke-width="2.5"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 40}" y="{y}">{name}</text>')
    return "\n".join([*parts, "</svg>\n"])


DRAWINGS = {"objectives": objectives, "temperature": temperatures, "entropy": entropies}


def main() -> None:
    """Write the drawings."""
    for name, make in DRAWINGS.items():
        file = PICTURES / f"{name}.svg"
        file.write_text(svg(make()), encoding="utf-8")
        print(f"{file}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
