"""The process in which math-verify compares answers: one JSON pair a line in, one verdict a line out.

It is run as a file, and imports nothing of rankray. Its parent watches the time (`math_pool`); here only memory is
limited, because an answer such as 9^(9^9) would take all of it.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
from typing import Any

MEMORY_BYTES = 4 << 30


def main() -> None:
    """Answer until the standard input ends."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)
    sys.setrecursionlimit(3000)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    targets = (LatexExtractionConfig(), ExprExtractionConfig())

    def read(answer: str) -> Any:
        return parse(f"${answer}$", extraction_config=targets, parsing_timeout=None)

    print("ready", flush=True)
    for line in sys.stdin:
        given, wanted = json.loads(line)
        try:
            parsed, reference = read(given), read(wanted)
            right = bool(
                parsed and reference and verify(reference, parsed, timeout_seconds=None, allow_set_relation_comp=True)
            )
            print(json.dumps({"right": right}), flush=True)
        except Exception as error:
            print(json.dumps({"right": False, "error": f"{type(error).__name__}: {error}"[:200]}), flush=True)


if __name__ == "__main__":
    main()
