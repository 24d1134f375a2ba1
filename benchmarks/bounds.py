"""The two bounds of RRI against the exact form: `docs/bounds.svg`.

For distributions over V = 32,000 tokens that fall off like k^-a (a from flat to certain), the relative scale S at the
paper's setting of a target that is ranked first, fifth and fiftieth, drawn over the entropy. The exact form is solid,
the authors' bound (`low_entropy: max_prob`) dashed, and 2^H / 4 + 1 at all entropies (`low_entropy: bound`) dotted.

    python benchmarks/bounds.py            writes docs/bounds.svg and prints the largest differences

Needs torch alone; the drawing is written by hand, so that the file stays small and the same everywhere.
"""

from __future__ import annotations

from pathlib import Path

import torch

from rankray.loss import TokenStats, reference

VOCABULARY = 32_000
RANKS = {1: "#1b6ca8", 5: "#c0562f", 50: "#4a7c3a"}
FORMS = {
    "exact": ({"form": "exact"}, ""),
    "bound, max_prob": ({"form": "bound"}, "6 3"),
    "bound, 2^H/4 + 1": ({"form": "bound", "low_entropy": "bound"}, "1.5 3"),
}
WIDTH, HEIGHT, LEFT, BOTTOM = 620, 340, 50, 40
MOST_BITS, LEAST, MOST = 12.0, 0.4, 2.4


def distributions() -> torch.Tensor:
    """Return log-probabilities, (100, V), sorted, from almost certain to almost flat."""
    powers = torch.linspace(6.0, 0.3, 100, dtype=torch.float64)[:, None]
    ranks = torch.arange(1, VOCABULARY + 1, dtype=torch.float64)[None]
    return (-powers * ranks.log()).log_softmax(-1)


def curves() -> dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]]:
    """Return entropy in bits and S for each rank and form."""
    logits_NV = distributions()
    found = {}
    for rank in RANKS:
        stats: TokenStats = reference.token_stats(logits_NV, torch.full((len(logits_NV),), rank - 1))
        for name, (settings, _) in FORMS.items():
            scale_N = reference.token_weights(stats, "rri", base="one", **settings)  # type: ignore[arg-type]
            found[rank, name] = stats.entropy_bits_N, scale_N
    return found


def place(bits: float, scale: float) -> str:
    """Return a point of the drawing."""
    x = LEFT + bits / MOST_BITS * (WIDTH - LEFT - 170)
    y = HEIGHT - BOTTOM - (scale - LEAST) / (MOST - LEAST) * (HEIGHT - BOTTOM - 15)
    return f"{x:.1f},{y:.1f}"


def drawing() -> str:
    """Return the SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for bits in range(0, 13, 2):
        x, y = place(bits, LEAST).split(",")
        parts.append(f'<text x="{x}" y="{float(y) + 16:.1f}" text-anchor="middle">{bits}</text>')
    for step in range(4, 25, 4):
        x, y = place(0, step / 10).split(",")
        right = place(MOST_BITS, 1).split(",")[0]
        parts.append(f'<path d="M{x},{y} H{right}" stroke="{"#999" if step == 10 else "#e5e5e5"}"/>')
        parts.append(f'<text x="{float(x) - 6:.1f}" y="{float(y) + 4:.1f}" text-anchor="end">{step / 10}</text>')
    parts.append(f'<text x="{LEFT + 190}" y="{HEIGHT - 6}" text-anchor="middle">entropy, bits</text>')
    parts.append('<text x="8" y="14">S</text>')
    for (rank, name), (bits_N, scale_N) in curves().items():
        pairs = zip(bits_N.tolist(), scale_N.tolist(), strict=True)
        points = " ".join(place(b, s) for b, s in pairs if b <= MOST_BITS and LEAST <= s <= MOST)
        dash = f' stroke-dasharray="{FORMS[name][1]}"' if FORMS[name][1] else ""
        parts.append(f'<polyline points="{points}" fill="none" stroke="{RANKS[rank]}" stroke-width="1.6"{dash}/>')
    for line, (rank, colour) in enumerate(RANKS.items()):
        parts.append(f'<text x="{WIDTH - 158}" y="{30 + 17 * line}" fill="{colour}">target of rank {rank}</text>')
    for line, (name, (_, dash)) in enumerate(FORMS.items()):
        y = 100 + 17 * line
        parts.append(f'<path d="M{WIDTH - 158},{y - 4} h28" stroke="black" stroke-dasharray="{dash or "none"}"/>')
        parts.append(f'<text x="{WIDTH - 124}" y="{y}">{name}</text>')
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    """Write the drawing; print the largest ratio of each bound to the exact form, below and above 2 bits."""
    target = Path(__file__).resolve().parent.parent / "docs" / "bounds.svg"
    target.write_text(drawing(), encoding="utf-8")
    found = curves()
    for rank in RANKS:
        bits_N, exact_N = found[rank, "exact"]
        for name in list(FORMS)[1:]:
            ratio_N = found[rank, name][1] / exact_N
            low, high = ratio_N[bits_N < 2], ratio_N[bits_N >= 2]
            print(
                f"rank {rank:3d}, {name:18s} to exact: below 2 bits {low.min():.2f} to {low.max():.2f},"
                f" above {high.min():.2f} to {high.max():.2f}"
            )


if __name__ == "__main__":
    main()
