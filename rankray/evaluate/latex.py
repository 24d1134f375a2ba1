"""From a solution to its final answer, in the formats of MATH, Minerva, AIME and GSM8K. Standard library only.

`final_answer` finds it, `prepared` writes it as `math-verify` reads it best, and `quickly_same` decides what needs no
algebra: equal texts, two plain numbers, the letters of choices, numbers in different bases.
"""

from __future__ import annotations

import re
from fractions import Fraction

from rankray.evaluate.plain import (
    DECIMAL_COMMA,
    MARK,
    MONEY,
    boxed,
    concluded,
    lowered,
    number,
    numeric,
    scaled,
    signed,
    tagged,
    usual,
    without_rejected,
)

_SAYS = re.compile(
    r"(?i)(?:final\s+answer|answer|(?:correct|right|best)\s+(?:option|choice)|答案)(?:\s+to\s+[^.:\n]{1,60})?\s*(?:\*\*)?\s*(?:is\b|=|:|是|为)\s*:?(?:\*\*)?\s*"
)
_INLINE = re.compile(
    r"\$\$(.+?)\$\$|(?<![\\$])\$(?!\s*[\d,.]+\s+[a-z])([^$\n]+?)(?<!\\)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL
)
_HOPE = re.compile(r"(?is)(?:\.|(?<!\s))\s*I hope (?:it|this) is correct.*$")
_NUMBER = re.compile(rf"(?<![\w.])-?[{MONEY}]?(?:\d{{1,3}}(?:,\d{{3}})+|\d+)(?:\.\d+)?(?:/\d+)?(?:[eE][-+]?\d+)?%?")
_CLOCK = re.compile(r"\b\d{1,2}:\d\d\b")
_RATE = r"(?:[kcm]?m|ft|mi|k?g|mg|mol|k?J|k?W|N|m?L|k?cal|e?V|C|A|erg)"
_UNIT = re.compile(
    r"(?<=[\d}])\s*(?:\\text|\\mathrm|\\mbox)\s*\{\s*[^{}]*\}(?:\^\{?\d\}?)?\.?$|(?<=\d)(?:\s+[a-zA-Z]{2,})+\.?$"
    rf"|(?<=\d)\s*{_RATE}/(?:{_RATE}|s|h|hr|min|K|day|yr)(?:\^\{{?\d\}}?)?\.?$"
)
_POWER = re.compile(
    r"(?<=\d)(\s*(?:[mcdk]m|in|ft|yd|mi|inch(?:es)?|feet|foot|yards?|miles?|units?|(?:centi|kilo|milli)?met(?:er|re)s?))"
    r"(?:\s*\^\s*\{?[23]\}?|[23])\.?$"
)
_MILLIONS = re.compile(r"(?<=\d)\s*\\(?:text|mathrm|mbox)\s*\{\s*((?:hundred|thousand|million|billion|trillion)s?\b)")
_LED = re.compile(rf"(-?[{MONEY}]?\d[\d,]*(?:\.\d+)?%?)\s+(?!and\b|or\b|x\b|to\b)[A-Za-z]{{2,}}(?:\s+\w+)*\.?")
_VERB = re.compile(r"(?i)(?<!\\)\b(?:is|are|was|were|has|have|had|gets?|got|equals?|gives?|makes?|costs?)\b")
_PERCENT = re.compile(r"(?i)(?<!\s)\s*\\text\s*\{\s*percent\s*\}|(?<=\d)\s+percent\b")
_PHRASE = re.compile(r"(?i)^\\text\s*\{[^{}]*\b(?:answer|thus|therefore|hence|so)\b[^{}]*\}\s*[:=]?\s*(?=\S)")
_LOOKS = re.compile(
    r"\\(?:color\s*\{[^{}]*\}|[hv]?phantom\s*\{[^{}]*\}|textcolor\s*\{[^{}]*\}\s*(?=\{)|#)"
    r"|\\(?:underline|boldsymbol|bm|mathbf)\s*\{([^{}]*)\}"
)
_NAMED = re.compile(r"[a-zA-Z]\s*=\s*([^=]+)")
_BASES = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_HALF_LINE = re.compile(r"([a-z])\s*(<|>|\\leq?(?![a-z])|\\geq?(?![a-z]))\s*([^<>,]+?)")
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_JOINED = re.compile(r"[\s$.,;]*(?:and|or|,|\\text\{\s*(?:and|or)\s*\})?[\s$]*")


def final_answer(text: str) -> str | None:
    """Return the final answer in a solution, or all of a text that is short enough to be nothing else; None if empty.

    In this order: the last `\\boxed{}` (several in a row are a list), `<answer>` or what follows `####`, whichever is
    later; what follows "answer is" or "answer:"; the last formula between dollars; the last number; the text.
    """
    text = concluded(text)
    boxes, mark, tag = boxed(text), text.rfind(MARK), tagged(text)
    if tag and tag[0] > max(mark, boxes[-1][0] if boxes else -1):
        return _without_remark(signed(tag[1])) or None
    if boxes and boxes[-1][0] > mark:
        parts = [boxes[-1][2]]
        for one, after in zip(boxes[-2::-1], boxes[:0:-1], strict=True):
            between = text[one[1] : after[0]]
            if not between.strip(" $\n") or not _JOINED.fullmatch(between):
                break
            parts.insert(0, one[2])
        return ", ".join(parts).strip() or None
    if mark >= 0:
        return _without_remark(signed(text[mark + len(MARK) :].strip().split("\n", 1)[0].strip())) or None
    text = _HOPE.sub("", text).strip()
    said = list(_SAYS.finditer(text))
    if said:
        text = text[said[-1].end() :].strip().split("\n\n", 1)[0]
        formula = _INLINE.match(text)
        if formula:
            return next(part for part in formula.groups() if part is not None).strip()
        return _first_sentence(without_rejected(text)) or None
    formulas = list(_INLINE.finditer(text))
    if formulas:
        return next(part for part in formulas[-1].groups() if part is not None).strip()
    if _is_bare(text):
        return text.strip("$ \n").strip() or None
    numbers = _NUMBER.findall(numeric(text))
    return numbers[-1] if numbers else text or None


def _without_remark(part: str) -> str:
    """Return a marked answer without a remark in parentheses, or words with more numbers: "5 in 3 days" is 5."""
    outside = re.sub(r"(?<=\s)\([^()]*\)", "", part).strip()
    if number(outside) is not None:
        return outside
    led = _LED.fullmatch(scaled(outside))
    return led[1] if led and re.search(r"\d", outside[led.end(1) :]) else part


def prepared(answer: str) -> str:
    """Return an answer written as math-verify reads it: no units beside numbers, no words around sets, plain signs."""
    text = _PHRASE.sub("", signed(usual(answer)).strip().strip("$").strip())
    text = _POWER.sub(r"\1", scaled(_MILLIONS.sub(r" \1\\text{", text)))
    text = re.sub(r"√\s*(\d+)", r"\\sqrt{\1}", text)
    text = re.sub(r"⁻?[⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda found: f"^{{{lowered(found)}}}", text)
    text = re.sub(r"[₀-₉]+", lambda found: f"_{{{lowered(found)}}}", text)
    for sign, plain in _SIGNS.items():
        text = text.replace(sign, plain)
    text = re.sub(r"\\(?:displaystyle|textstyle|limits|;|:|quad|qquad)(?![a-zA-Z])", " ", text.replace("\\!", ""))
    text = re.sub(DECIMAL_COMMA, ".", text)
    text = re.sub(r"\{,\}|(?<=\d)\\,(?=\d{3})", ",", text).replace("\\,", " ")
    text = re.sub(r"\\lg(?![a-zA-Z])", r"\\log_{10}", _LOOKS.sub(r"\1", text))
    text = re.sub(r"\\mathbb\s+([A-Z])", r"\\mathbb{\1}", text)
    text = _half_lines(text)
    text = re.sub(r"\\text(?:bf|rm|it)?\s*\{\s*(?:or|and)\s*\}|(?<=[\d})])\s+(?:or|and)\s+(?=[-\d\\({])", ",", text)
    text = re.sub(r"^[a-zA-Z]\s*(?:\\in|∈)\s*", "", text)
    text = re.sub(r"^([-\d./\s]+|-?\\frac\{\d+\}\{\d+\})=\s*([a-zA-Z])$", r"\2 = \1", text)
    text = _PERCENT.sub(r"\\%", text)
    text = re.sub(r"(?<![A-Za-z_\\])(?:pi|PI)(?!\w)", r"\\pi", text)
    if not _CLOCK.search(text):
        text = _UNIT.sub("", text)
    text = re.sub(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([-+]?\d+)(?!\w)", r"\1 \\times 10^{\2}", text)
    text = re.sub(r"(?<=\d)\s*[x*×]\s*10\s*\^", r" \\times 10^", text)
    text = re.sub(r"\^\s*\(?([-+]?\d+)\)?(?![\d}])", r"^{\1}", text)
    text = re.sub(r"(?<![\w\\])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
    if _TRIGONOMETRY.search(text):
        text = re.sub(r"(\d+(?:\.\d+)?)\s*\^\s*\{?\s*\\circ\s*\}?", r"(\\frac{\1 \\pi}{180})", text)
    text = re.sub(r"(?<=\d)\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree|degrees?)(?:\s*[CF])?$", "", text)
    text = re.sub(r"(?<!\d)(\d*)\.(\d*)\\overline\s*\{(\d+)\}", _repeating, text)
    return text.rstrip(" .,;").strip()


def comparable(given: str, wanted: str) -> tuple[str, str]:
    """Return two answers, prepared; where only one of them says what is equal to it (`x = 5`), without that name."""
    given, wanted = prepared(given), prepared(wanted)
    named = [_NAMED.fullmatch(each) for each in (given, wanted)]
    if named[0] and "=" not in wanted:
        return named[0][1], wanted
    if named[1] and "=" not in given:
        return given, named[1][1]
    return given, wanted


def quickly_same(given: str, wanted: str) -> bool | None:
    """Whether two prepared answers are the same, where that needs no algebra; None where it does."""
    if _squeezed(given) == _squeezed(wanted):
        return True
    times = [_CLOCK.search(each) for each in (given, wanted)]
    if times[0] and times[1]:
        halves = {found[0] for each in (given, wanted) if (found := re.search(r"[ap](?=\.?m\b)", each.casefold()))}
        return times[0][0] == times[1][0] and len(halves) < 2
    one, other = _letter(given), _letter(wanted)
    if one and other and (one[1] or other[1]):
        return one[0] == other[0]
    bases = [_with_base(each) for each in (given, wanted)]
    if bases[0] and bases[1]:
        return bases[0] == bases[1]
    if bases[1] and not bases[0]:
        return _squeezed(given) == bases[1][0]
    if _same_share(given, wanted):
        return True
    values = [None if "%" in each else number(each) for each in (given, wanted)]
    if values[0] is not None and values[1] is not None:
        return values[0] == values[1]
    words = [_words(each) for each in (given, wanted)]
    if words[0] is not None or words[1] is not None:
        return words[0] is not None and words[0] == words[1]
    return None


def _same_share(given: str, wanted: str) -> bool:
    """Return whether two answers are the same number, of which one at least has a percent sign: 50 % is 50, and 0.5."""
    values = [number(each.removesuffix("%").removesuffix("\\")) for each in (given, wanted)]
    signs = [each.endswith("%") for each in (given, wanted)]
    if values[0] is None or values[1] is None or not any(signs):
        return False
    factor = Fraction(100) ** (signs[0] - signs[1])
    return values[0] == values[1] or values[0] == values[1] * factor


def _letter(text: str) -> tuple[str, bool] | None:
    """Return the letter of a choice, and whether it is all of an answer, not followed by the choice."""
    plain = _unwrapped(text)
    if found := re.fullmatch(r"\(?\s*([A-Z])\s*\)?[.:]?", plain):
        return found[1], True
    found = re.match(r"\(([A-Z])\)(?!\s*(?:[,(&]|and\b|or\b))|([A-Z])[).:]\s", plain)
    return (found[1] or found[2], False) if found else None


def _with_base(text: str) -> tuple[str, str] | None:
    """Return the digits and the base of a number such as 1011_2 or 1011_{two}, or None."""
    found = re.fullmatch(r"([0-9A-Fa-f]+)_\{?(?:\\text\{)?(\w+)\}*", _squeezed(text))
    if not found:
        return None
    base = found[2].casefold()
    return found[1], str(_BASES.index(base) + 2) if base in _BASES else base


def _half_lines(text: str) -> str:
    """Return `x < a or x > b` as a union of intervals, which is how it is compared; another text as it is."""
    parts = re.split(r"(?<!\s)\s*(?:\\text\s*\{\s*or\s*\}|\bor\b)\s*", text)
    found = [_HALF_LINE.fullmatch(part.strip()) for part in parts]
    if len(parts) < 2 or not all(found) or len({each[1] for each in found if each}) > 1:
        return text
    lines = []
    for each in found:
        assert each is not None
        closed, end = each[2] not in "<>", each[3].strip()
        if each[2] == "<" or each[2].startswith("\\le"):
            lines.append((0, f"(-\\infty,{end}{']' if closed else ')'}"))
        else:
            lines.append((1, f"{'[' if closed else '('}{end},\\infty)"))
    return " \\cup ".join(line for _, line in sorted(lines))


def _repeating(found: re.Match[str]) -> str:
    """Return a repeating decimal as a fraction: 0.1(6) is 15/90."""
    fixed, repeated = f"{found[1]}{found[2]}", found[3]
    below = (10 ** len(repeated) - 1) * 10 ** len(found[2])
    return f"\\frac{{{int(fixed + repeated) - int(fixed or 0)}}}{{{below}}}"


_SIGNS = {
    "−": "-", "–": "-", "\\varnothing": "\\emptyset", "\\dfrac": "\\frac", "\\tfrac": "\\frac", "°": "^\\circ",
    "\\left": "", "\\right": "",
    "π": "\\pi", "√": "\\sqrt", "∞": "\\infty", "×": "\\times ", "·": "\\cdot ", "≤": "\\le ", "≥": "\\ge ",
    "±": "\\pm ", "∪": "\\cup ", "½": "\\frac{1}{2}", "¼": "\\frac{1}{4}", "¾": "\\frac{3}{4}",
    "\\$": "", **dict.fromkeys(MONEY[1:], ""),
}  # fmt: skip


def _first_sentence(text: str) -> str:
    line = text.split("\n", 1)[0]
    return re.split(r"(?<=[^\d])\.\s|(?<=\d)\.\s+(?=[A-Z])|(?:,|(?<!\s))\s+(?:because|since|so|which)\s", line)[
        0
    ].strip(" *`")


def _is_bare(text: str) -> bool:
    """Whether a text is nothing but an answer: no sentence around it."""
    words = re.findall(r"(?<!\\)\b[^\W\d_]{3,}\b", re.sub(r"\\[a-zA-Z]+|\\text\{[^{}]*\}", " ", text))
    if not re.search(r"\d", text):
        return len(text) <= 200 and "\n" not in text.strip()
    return len(text) <= 200 and "\n" not in text.strip() and len(words) <= 2 and not _VERB.search(text)


def _unwrapped(text: str) -> str:
    return re.sub(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}", r"\1", text).strip(" *$.{}")


def _squeezed(text: str) -> str:
    """Return an answer without spaces, its words unwrapped, fractions with braces, in lower case where it is a word."""
    text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", _unwrapped(text))
    text = re.sub(r"\s+", "", text)
    return text.casefold() if text.isalpha() else text


def _words(text: str) -> str | None:
    """Return an answer in words, normalised, or None for one that is mathematics."""
    plain = _unwrapped(text)
    if re.search(r"\\(?!s$)|[=^_+*/<>]", plain) or not re.search(r"[^\W\d_]{3,}", plain):
        return None
    return " ".join(re.findall(r"\w+", plain.casefold()))
