"""Requests in the bytes of a connection, and the lines that may answer them."""

import json
import re

COUNT = r"\d+"
NUMBER = r"\d+(?:\.\d+)?(?:e-?\d+)?"
TEXT = r'"(?:[^"\\\x00-\x1f]|\\.)*"'
TEXTS = rf"\[(?:{TEXT}(?:,{TEXT})*)?\]"


class Pattern(str):
    """A value of which only this regular expression is known."""


def says(words):
    """The pattern of a text with these words in it."""
    return Pattern(rf'"(?:[^"\\]|\\.)*{re.escape(words)}(?:[^"\\]|\\.)*"')


def line(status, message, **more):
    """The pattern of a reply."""
    fields = {"status": status, "message": message, **more}
    parts = []
    for name, value in fields.items():
        fixed = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        parts.append(f'"{name}":' + (value if isinstance(value, Pattern) else re.escape(fixed)))
    return r"\{" + ",".join(parts) + r"\}"


def error(codes, message=Pattern(TEXT)):
    """An error with one of these codes."""
    return line("error", message, code=Pattern('"(?:' + "|".join(sorted(codes.split())) + ')"'))


def any_of(*patterns):
    return "|".join(f"(?:{pattern})" for pattern in patterns)


class Reply:
    """What answers a request: a final line and the pieces before it, several in doubt."""

    def __init__(self, final, pieces=(), check=None):
        self.alternatives = [(pieces, re.compile(final, re.DOTALL))]
        # Where the request ends in what the connection sends.
        self.end = 0
        # Whether it may come before the request is complete.
        self.early = False
        # Whether several pieces may come as one.
        self.together = False
        self.check = check

    def or_else(self, other):
        self.alternatives += other.alternatives
        return self

    def fault(self, pieces, final):
        """What is wrong with these lines, or None."""
        for expected, pattern in self.alternatives:
            same = expected is None or list(expected) == pieces
            if self.together and pieces and all(pieces):
                same = same or "".join(expected) == "".join(pieces)
            if same and pattern.fullmatch(final):
                return self.check and self.check(json.loads(final))
        return "none of these:\n" + "\n".join(
            f"  {'any pieces' if expected is None else list(expected)}, {pattern.pattern}"
            for expected, pattern in self.alternatives
        )


def frames(data, limit):
    """The requests in what a connection sends.

    Each is its body, whether it is a line, what is wrong with it or None, and where it ends.
    """
    at = 0
    while at < len(data):
        if data[at : at + 1].isdigit():
            match = re.compile(rb"(0|[1-9]\d*):").match(data, at)
            end = match and match.end() + int(match[1])
            if not match or data[end : end + 1] != b",":
                yield None, False, "malformed", len(data)
                return
            body, is_line, at = data[match.end() : end], False, end + 1
        else:
            end = data.find(b"\n", at)
            end = len(data) if end < 0 else end
            body, is_line, at = data[at:end].removesuffix(b"\r"), True, min(end + 1, len(data))
            if not body:
                continue
        yield body, is_line, "too_long" if len(body) > limit else None, at
