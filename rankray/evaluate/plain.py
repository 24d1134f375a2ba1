"""Reading answers that are plain numbers or words: what `evaluate.answer: auto` does. Standard library only.

An answer is what follows the last `####`, or the content of the last `\\boxed{}` or `<answer>`, whichever is later, of
what follows the last `</think>`; otherwise the last number of the text; otherwise all of it. Of several numbers after a
mark it is the one after the last "=", or else the first: "5 in 3 days" is 5. Numbers are compared as exact values:
"1,000" is "1000", "1,00,000" is "100000", "$3.50" is "3.5", "3/4" is "0.75", "1 1/2" is "1.5", "5%" is "5", "minus 5"
is "-5", "8 million" is "8000000". What is joined without a space is one thing: "10-20" is a range and neither -20 nor
20, "3:30" is a time. The 2 of "25 cm^2" or "CO2" is no number, and "16π", "3√2", "x^2" and "x/2" are none either. Which
kind of answer is looked for in a text follows from the reference.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from unicodedata import normalize

from rankray.errors import ConfigError

MARK = "####"
MONEY = "$€£¥₹₩₽₺₫₴₦₱฿₪"
"""Signs of currencies, for the inside of a character class."""
DECIMAL_COMMA = r"(?<=\d)\{,\}(?=\d{1,2}(?!\d|\{,))"
"""How LaTeX writes 12,5 for 12.5."""
Answer = Fraction | str
"""A number, or a text in its normal form."""

_INDIAN = r"\d{1,2}(?:,\d{2}){1,6},\d{3}(?!\d|,\d)"
_NUMBER = rf"(?:\d{{1,3}}(?:,\d{{3}})+(?!\d)|{_INDIAN}|\d+)(?:\.\d+)?(?:[eE][-+]?\d{{1,3}}(?!\w))?|\.\d+"
_TOKEN = re.compile(
    rf"(?<![\w.)\]}}])[-+]?\s?[{MONEY}]?[-+]?(?:\d+ \d+/\d+|(?:{_NUMBER})(?:(?:\^-|[-–/:^*×])(?:{_NUMBER}))*)"
    rf"|(?<=[\w.)\]}}])(?:{_NUMBER})(?:(?:\^-|[-–/:^*×])(?:{_NUMBER}))*"
)
_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{\s*(-?\d+(?:\.\d+)?)\s*\}|(\d))\s*(?:\{\s*(-?\d+(?:\.\d+)?)\s*\}|(\d))")
_MINUS = re.compile(rf"(?i)(?<!\d )\b(?:minus|negative)\s+(?=[{MONEY}]?\.?\d)|(?<![\w–)\]%.])–(?=[{MONEY}]?\.?\d)")
_UNIT_POWER = re.compile(
    r"(?<=\d)([\s$]*(?:[A-Za-z]{2,}|[ms])(?:/[A-Za-z]+)?)\s*\^\s*\{?[23]\}?(?!\w)"
    r"|(?<=\d)(\s*(?:[mcdk]?m|in|ft|yd|mi))[23](?!\w|\.\d)"
)
_CURRENCIES = "USD?|EUR|GBP|Rs|INR|RM|CAD|AUD|NZD|SGD|HKD?|CHF|JPY|CNY|RMB|AED|PHP|KES|ZAR|NTD?|[RS]"
_COMPOUND = re.compile(rf"\b(?!(?:{_CURRENCIES})\d)(?:[A-Z][a-z]?\d*)+\b")
"""A name with digits in it, such as CO2, H2O or B12."""
_SCALES = {"k": 1_000, "hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALED = re.compile(
    r"(?i)(?<![\d/.,^:])(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(?:(k)|\s+(hundred|thousand|million|billion|trillion)s?)\b"
)
_UNREADABLE = " 0^0 "
"""A token without a value, in the place of what has one that is not read here."""
_HIDDEN = re.compile(
    rf"(?:(?<![\d.,])(?:{_NUMBER})(?:/\d+)?\s*)?(?:\\sqrt\s*(?:\[[^\]]*\])?\s*(?:\{{[^{{}}]*\}}|\d)"
    rf"|√\s*(?:\([^()]*\)|\{{[^{{}}]*\}}|(?:{_NUMBER})|\w)|\bsqrt\s*\([^()]*\))"  # roots
    rf"|(?<![\d.,])(?:{_NUMBER})(?:/\d+)?(?:\s*(?:\\cdot|\\times|[*·×]))?\s*(?:π|\\pi(?![a-z])|pi\b)(?:\s*/\s*\d+)?"
    r"|(?:π|\\pi(?![a-z]))\s*/\s*\d+"
    rf"|(?:(?<![\d.,])(?:{_NUMBER})\s*)?(?:(?<![A-Za-z\\])[A-Za-z]|\))\s?\^\s*(?:\{{[^{{}}]*\}}|-?\w+)"  # powers
    r"|(?<![A-Za-z\\])[A-Za-z]\s?/\s?\d+"
)
_QUOTIENT = re.compile(r"\\[dt]?(?:frac|binom)\s*\{[^{}]*\}\s*\{[^{}]*\}")
_SYMBOL = re.compile(r"\d\s*π|√\s*\d")
_TOGETHER = re.compile(
    r"\s*(?:[-+xX×÷/*]|\\(?:times|cdot|div))\s*|[A-Za-z]+"
    r"|\s*(?:h|hrs?|hours?|min|minutes?|days?|weeks?|months?|years?|feet|foot|ft|yards?|pounds?|lbs?|dollars?|euros?),?\s+"
)
"""What between two numbers makes one answer of them: an operator, an exponent, the larger of two units."""
_LATEX = re.compile(r"\\[a-zA-Z]+|[\^_]\s*[{\\]|\^|\\[\[(]")
_PROSE = re.compile(r"[^\W\d_]{2,}")
_DOTS = " \t\n.,;:!?*\"'`“”‘’"
_GROUPED = re.compile(rf"([-+]?\s?[{MONEY}]?\d{{1,3}})((?:[ \u00a0\u202f\u2009'’_]\d{{3}})+)(\.\d+)?(?=\D*$)")
_REJECTED = re.compile(
    rf"(?:[,;]|(?<!\s))\s*(?:\b(?:and|but)\s+)?\b(?:not|rather than|instead of)\s+[-{MONEY}]*(?:{_NUMBER})",
    re.IGNORECASE,
)
_FIRST = _NUMBER.replace(r"(?:,\d{3})+", r"(?:,\d{3}){1,30}")
_EITHER = re.compile(rf"(?<!\d)(?:{_FIRST})[^\d=+]{{0,24}}\b(?:or|and)\b[^\d=+]{{0,24}}(?:{_NUMBER})[^\d]*$")
"""A match begins with a whole run of digits or spaces: of an answer that repeats one of them without end, each of them
would be a beginning to try."""
_TAG = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
_THOUGHT = "</think>"
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(\{|(?=\w))")
_CHOICE = re.compile(r"(?:\b(?:option|choice|answer)\s+)?\(?([a-z])(?:\)|[.:]|,(?=\s+(?:since|because|as)\b))(?:\s|$)")
_CHOSEN = re.compile(
    r"\b(?:is|option|choice)\s+\(?([a-z])\)?(?:\s+is\s+(?:the\s+)?(?:correct|right|best)(?:\s+\w+)?)?$"
)
_SAYS = re.compile(r"(?i)\banswer(?:\s+is)?\s*:?")
_FIRST_WORD = re.compile(r"(\w+)(?:[,.;:!\n]|\s+[-–—(]|\s+(?:because|since|as)\b)")
_BESIDE = rf"[\s{MONEY}%°²³.,!*'\"`“”‘’()~≈]*"
"""What may stand around the words beside a number."""
_TRUTH = ("yes", "no", "true", "false")
_FRACTION_SIGNS = "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"
_RAISED = re.compile(r"(?<=\d)⁻?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_FORMS = {
    **{ord(wide): chr(ord(wide) - 0xFEE0) for wide in map(chr, range(0xFF01, 0xFF5F))},
    **{ord(mark): plain for mark, plain in zip("。、　⁄￥￡￦", "., /¥£₩", strict=True)},
    **{ord(sign): f" {normalize('NFKC', sign).replace('⁄', '/')}" for sign in _FRACTION_SIGNS},
    **dict.fromkeys(map(ord, "\u200b\u200e\u200f\u2060\ufeff\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")),
}
"""Digits, letters and signs of East Asian width -> the usual ones; fractions of one sign -> two numbers; signs without
width -> nothing."""


def usual(text: str) -> str:
    """Return a text with the usual digits, letters and signs in place of East Asian ones and of fraction signs."""
    if text.isascii():
        return text
    text = re.sub(rf"(?<=\d)[ \u00a0\u202f\u2009](?=[{_FRACTION_SIGNS}])", "", normalize("NFC", text)).translate(_FORMS)
    return _RAISED.sub(lambda found: f"^{lowered(found)}", text)


def lowered(found: re.Match[str]) -> str:
    """Return raised or lowered digits as usual ones."""
    return normalize("NFKC", found[0]).replace("−", "-")


def concluded(text: str) -> str:
    """Return what a text says after thinking (`</think>`), in the usual digits, letters and signs."""
    after = text.rpartition(_THOUGHT)[2]
    return usual(after if after.strip() else text)


def boxed(text: str) -> list[tuple[int, int, str]]:
    """Return (begin, end, content) of every `\\boxed{...}` and `\\fbox{...}`, braces nested as deep as they may be.

    A box within a box is part of the outer one, whose content is given without `\\boxed{` and `}`.
    """
    closing = _closing_braces(text)
    found: list[tuple[int, int, list[tuple[int, int]]]] = []
    for match in _BOX.finditer(text):
        last = closing.get(match.end() - 1) if match[1] == "{" else match.end()
        if last is None:
            continue
        if not found or match.start() >= found[-1][1]:
            found.append((match.start(), last + 1, []))
        found[-1][2].extend([match.span(), (last, last + 1)] if match[1] == "{" else [match.span()])
    return [(begin, end, _without(text[:end], begin, cuts)) for begin, end, cuts in found]


def _closing_braces(text: str) -> dict[int, int]:
    """Return for the place of each brace that is closed where it is closed; escaped ones are no braces."""
    found: dict[int, int] = {}
    opened: list[int] = []
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}" and opened:
            found[opened.pop()] = match.start()
    return found


def _without(text: str, begin: int, cuts: list[tuple[int, int]]) -> str:
    """Return a text from `begin` on without some parts of it."""
    pieces = []
    for first, end in sorted(cuts):
        pieces.append(text[begin:first])
        begin = end
    return "".join([*pieces, text[begin:]])


def tagged(text: str) -> tuple[int, str] | None:
    """Return where the last `<answer>...</answer>` begins, and its content; None without."""
    found = list(_TAG.finditer(text))
    return (found[-1].start(), found[-1][1].strip()) if found else None


def marked(text: str) -> str | None:
    """Return what follows the last `####` on its line, or is in the last `\\boxed{}` or `<answer>`; None without.

    It is the one that begins last.
    """
    ended = text.rstrip().removesuffix(MARK)
    text = ended if MARK in ended else text
    mark, boxes, tag = text.rfind(MARK), boxed(text), tagged(text)
    if tag and tag[0] > max(mark, boxes[-1][0] if boxes else -1):
        return tag[1]
    if mark >= 0 and not (boxes and boxes[-1][0] > mark):
        return (text[mark + len(MARK) :].strip().split("\n", 1) or [""])[0].strip()
    return boxes[-1][2].strip() if boxes else None


def same(text: str, reference: str) -> bool:
    """Whether a text gives the reference's answer.

    Raises:
        ConfigError: the reference holds LaTeX that would be misread.
    """
    wanted = answer_of(reference)
    if wanted is None:
        return False
    text = concluded(text)
    if isinstance(wanted, Fraction):
        return _number_in(text) == wanted
    part = marked(text)
    return wanted in _texts(text if part is None else part, wanted)


def answer_of(reference: str) -> Answer | None:
    """Return a reference's answer: a number, a text, or None where there is none.

    Raises:
        ConfigError: it holds LaTeX that would be misread.
    """
    reference = concluded(reference)
    found = marked(reference)
    part = _joined(_simplified(reference if found is None else found))
    plain = numeric(part)
    if _LATEX.search(plain) or _SYMBOL.search(plain):
        raise ConfigError(
            f"evaluate.answer: auto would misread the reference {_short(reference)!r}, which holds LaTeX or a root; "
            "allowed is #### or \\boxed with a plain number, fraction or word; set evaluate.answer: math"
        )
    if not part.strip():
        return None
    tokens = _TOKEN.findall(plain)
    is_prose = found is None and len(_PROSE.findall(plain)) >= 2
    if tokens and (is_prose or (len(tokens) == 1 and _is_unit(_TOKEN.sub(" ", plain)))):
        value = _value(tokens[-1])
        return value if isinstance(value, Fraction) else normal(value)
    return normal(part)


def normal(text: str) -> str:
    """Return a text in lower case, with single spaces, without the dots around it and the parentheses of "(B)"."""
    text = re.sub(r"\\(?:text|mathrm|textbf|mbox)\s*\{([^{}]*)\}", r"\1", text)
    text = " ".join(text.replace("$", " ").strip(_DOTS).split()).casefold()
    choice = re.fullmatch(r"\(?([a-z])\)?[.:]?", text)
    return choice[1] if choice else text


def number(text: str) -> Fraction | None:
    """Return the value of a text that is one number and nothing else, or None."""
    stripped = _joined(_simplified(text).replace("\\%", "%").strip(" %$\n\t").rstrip(" .%$\n\t"))
    if not _TOKEN.fullmatch(stripped):
        return None
    value = _value(stripped)
    return value if isinstance(value, Fraction) else None


def _number_in(text: str) -> Answer | None:
    """Return the number that a text gives as its answer, or what stands in its place."""
    found = marked(text)
    part = numeric(_joined(_simplified(text if found is None else found, given=True)))
    if found is not None:
        part = _last_equation(part)
    part = without_rejected(part)
    tokens = _TOKEN.findall(part)
    if found is not None and len(tokens) > 1 and not _TOKEN.sub("", part).strip(" ,;\n()[]"):
        return None
    either = _EITHER.search(part if found is not None else part.rsplit("\n", 1)[-1])
    if either and (found is not None or re.search(r"\bor\b", either[0])):
        return None
    if found is None or len(tokens) < 2:
        return _value(tokens[-1]) if tokens else None
    first, second = list(_TOKEN.finditer(part))[:2]
    return None if _TOGETHER.fullmatch(part[first.end() : second.start()]) else _value(first[0])


def _last_equation(part: str) -> str:
    """Return a marked answer without remarks in parentheses, and what follows its last "=", if a number does."""
    outside = re.sub(r"(?<!\S)\([^()]*\)", " ", part)
    part = outside if _TOKEN.search(outside) else part
    after = re.split(r"=|≈|\\approx", part)[-1]
    return after if _TOKEN.search(after) else part


def without_rejected(text: str) -> str:
    """Return a text without numbers that it says are not the answer: "5, not 6" is "5"."""
    return _REJECTED.sub("", text)


def _texts(part: str, wanted: str) -> set[str]:
    """Return what a text may give as its answer in words: all of it, or what follows "answer is" or the last colon.

    Where a letter is wanted, also the letter of a choice that is written out; where yes or no is, the first word.
    """
    said = re.split(rf"{_SAYS.pattern}|:", part)
    tokens = _TOKEN.findall(_simplified(part))
    found = {normal(part), normal(_simplified(part)), normal(said[-1])}
    found |= {normal(str(_value(token))) for token in tokens[-1:]}
    lower = part.replace("*", "").strip(_DOTS).casefold()
    after = _SAYS.split(lower)[-1].strip(_DOTS)
    if re.fullmatch(r"[a-z]", wanted) and not re.fullmatch(r"[a-z]", normal(said[-1])):
        last = _CHOICE.match(after) or _CHOSEN.search(lower) or _CHOICE.match(lower)
        found |= {last[1]} if last else set()
    if wanted in _TRUTH and normal(said[-1]) not in _TRUTH:
        words = [each[1] for each in map(_FIRST_WORD.match, (after, lower)) if each and each[1] in _TRUTH]
        found |= set(words[:1])
    return found


def _joined(part: str) -> str:
    """Return an answer in which spaces, apostrophes or underscores between groups of three digits are left out."""
    found = _GROUPED.match(part.strip())
    if not found or "/" in part:
        return part
    return found[1] + re.sub(r"\D", "", found[2]) + (found[3] or "") + part.strip()[found.end() :]


def _value(token: str) -> Answer:
    """Return the value of one token: a fraction for a number, the token for a range, a time or a power."""
    plain = re.sub(rf"[{MONEY},]|(?<=^[-+])\s", "", token.strip()).replace("–", "-")
    mixed = re.fullmatch(r"([-+]?)(\d+) (\d+)/(\d+)", plain)
    try:
        if mixed:
            size = int(mixed[2]) + Fraction(int(mixed[3]), int(mixed[4]))
            return -size if mixed[1] == "-" else size
        if re.fullmatch(r"[-+]?[\d.]+/[\d.]+", plain):
            above, below = plain.split("/")
            return Fraction(above) / Fraction(below)
        return Fraction(plain)
    except (ValueError, ZeroDivisionError):
        return plain


def numeric(text: str) -> str:
    """Return a simplified text in which numbers are written in digits and digits are numbers, as the module says."""
    text = re.sub(r"(\d)\s*–\s*(?=\d)", r"\1–", text)
    text = re.sub(r"(?<=\d) ?/ ?(?=\d)", "/", text)
    text = _UNIT_POWER.sub(lambda found: found[1] or found[2], text)
    text = _COMPOUND.sub(lambda found: re.sub(r"\d", "", found[0]), text)
    return _SCALED.sub(_in_digits, signed(text))


def signed(text: str) -> str:
    """Return a text with the sign of "minus 5", of "negative 5" and of a 5 with a dash before it written as "-5"."""
    return _MINUS.sub("-", text)


def scaled(text: str) -> str:
    """Return a text with "8 million" and the like in digits; "8k" stays, which may be a product."""
    return _SCALED.sub(lambda found: found[0] if found[3] else _in_digits(found), text)


def _in_digits(found: re.Match[str]) -> str:
    size = Decimal(found[1].replace(",", "") + (found[2] or "")) * _SCALES[(found[3] or found[4]).lower()]
    return f"{size:f}"


def _quotient(found: re.Match[str]) -> str:
    above, below = found[1] or found[2], found[3] or found[4]
    sign = "-" if above.startswith("-") != below.startswith("-") else ""
    return f" {sign}{above.lstrip('-')}/{below.lstrip('-')}"


def _simplified(text: str, given: bool = False) -> str:
    """Return a text with simple LaTeX written plainly.

    Args:
        text: an answer.
        given: whether it is the answer to be judged, of which what is not read becomes unreadable, not misread.
    """
    text = text.replace("−", "-").replace("\\$", "$").replace("\\%", "%").replace("\\!", "")
    text = re.sub(DECIMAL_COMMA, ".", text)
    text = re.sub(r"\{,\}|(?<=\d)\\[,; ](?=\d{3})", ",", text)
    text = _FRACTION.sub(_quotient, text)
    text = re.sub(r"(-)\s+(?=\d+/\d)", r"\1", text)
    text = re.sub(r"\\(?:left|right|displaystyle|quad|[,; :])", " ", text)
    text = re.sub(r"\\(?:(?:text|math)(?:rm|bf|it)?|mbox|boldsymbol)\s*\{([^{}]*)\}", r" \1", text)
    if given:
        text = _QUOTIENT.sub(_UNREADABLE, _HIDDEN.sub(_UNREADABLE, _UNIT_POWER.sub(r"\1\2", text)))
        text = re.sub(r"(?<=[A-Za-z]{2})\s?\^\s*\{?[23]\}?(?!\w)", "", text)
    text = re.sub(r"\^\s*\{([^{}]*)\}", r"^\1", text)
    text = re.sub(r"(\\[a-zA-Z]+)\s*(?:\[[^\]]*\])?\{[^{}]*\}", r"\1 ", text)
    return re.sub(r"\\\(|\\\)|\\\[|\\\]", " ", text)


def _is_unit(rest: str) -> bool:
    """Whether what stands beside a number changes nothing: a unit, a currency, a name and an equals sign."""
    return bool(
        re.fullmatch(
            rf"(?:[A-Za-z]\w{{0,2}}\s*=)?{_BESIDE}(?:/(?=[^\W\d_]{{2}}))?(?:[^\W\d_]+{_BESIDE}/?){{0,4}}", rest
        )
    )


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 80 else "..." + text[-77:]
