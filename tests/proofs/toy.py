"""The models of the sessions: what they make of a text, worked out by hand.

A token is a byte, after which the model says one other byte or ends. Known of each is
{"pairs": [[byte, next], ...], "poison": byte or null}, as sessions.rs writes it.
"""

import codecs
import re

SPECIAL = {"<unk>": 0, "<s>": 1, "</s>": 2}
SPACE = 259
VOCABULARY = 260


def tokens_of(text, special=True):
    """The tokens of a text; of one that is plain, the names of special tokens are letters."""
    tokens = []
    names = "(" + "|".join(SPECIAL) + ")"
    for part in re.split(names, text) if special else [text]:
        if special and part in SPECIAL:
            tokens.append(SPECIAL[part])
            continue
        for character in part:
            if character in " \u2581":
                tokens.append(SPACE)
            else:
                tokens += [byte + 3 for byte in character.encode()]
    return tokens


def text_of(tokens):
    """The text of tokens, special ones written out."""
    names = {token: name.encode() for name, token in SPECIAL.items()}
    names[SPACE] = b" "
    joined = b"".join(names.get(token) or bytes([token - 3]) for token in tokens)
    return joined.decode(errors="replace")


def embedding_of(tokens):
    """The embedding: each token is a place of its own, and all count alike."""
    counts = {}
    for token in tokens:
        place = 32 + 3 if token == SPACE else token
        counts[place] = counts.get(place, 0) + 1
    length = sum(count**2 for count in counts.values()) ** 0.5
    return [counts.get(place, 0) / length for place in range(288)]


class Stream:
    """A text that comes byte by byte, held back while it could become a stop string."""

    def __init__(self, stops):
        self.stops = stops
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.text = ""
        self.sent = 0
        self.pieces = []

    def send(self, end):
        if end > self.sent:
            self.pieces.append(self.text[self.sent : end])
            self.sent = end

    def add(self, byte):
        """Takes a byte; says whether a stop string has ended the text."""
        self.text += self.decoder.decode(bytes([byte]))
        found = [at for at in map(self.text.find, self.stops) if at >= 0]
        if found:
            self.send(min(found))
            self.text = self.text[: min(found)]
            return True
        held = [
            length
            for stop in self.stops
            for length in range(1, len(stop))
            if self.text.endswith(stop[:length])
        ]
        self.send(len(self.text) - max(held, default=0))
        return False

    def end(self):
        self.text += self.decoder.decode(b"", True)
        self.send(len(self.text))


class Outcome:
    """An answer: its pieces, its text, how many tokens, and why it ended (any of several).

    `at_end`: the model has ended it, and neither a limit nor a stop string nor a grammar.
    """

    def __init__(self, stream, count, reasons, at_end=False):
        self.at_end = at_end
        self.pieces = stream.pieces
        self.text = stream.text
        self.count = count
        self.reasons = reasons


class Toy:
    def __init__(self, pairs, poison):
        self.next = dict(pairs)
        self.poison = poison

    def poisoned(self, tokens):
        return self.poison is not None and self.poison + 3 in tokens

    def after(self, token):
        """The byte after a token, or None for the end."""
        byte = 32 if token == SPACE else token - 3
        return self.next.get(byte)

    def answer(self, tokens, most, context, stops=()):
        """The answer to a prompt. `most` is -1 where only the context is a limit."""
        stream = Stream(stops)
        room = context - len(tokens)
        count = 0
        byte = self.after(tokens[-1])
        while True:
            reasons = ["length"] if count == most else []
            # The last token of an answer need not be evaluated, and so not fit.
            reasons += ["context"] if count > room else []
            if reasons:
                break
            if byte is None:
                reasons = ["stop"]
                break
            count += 1
            if stream.add(byte):
                return Outcome(stream, count, ["stop"])
            byte = self.next.get(byte)
        stream.end()
        return Outcome(stream, count, reasons, reasons == ["stop"])

    def constrained(self, tokens, most, context, language):
        """The answers that a grammar of these texts allows, none of which begins another."""
        answers = []
        room = context - len(tokens)
        wanted = self.after(tokens[-1])
        paths = [("", wanted)]
        while paths:
            text, wanted = paths.pop()
            reasons = ["stop"] if text in language else []
            reasons += ["length"] if len(text) == most else []
            reasons += ["context"] if len(text) > room else []
            if reasons:
                stream = Stream(())
                for byte in text.encode():
                    stream.add(byte)
                stream.end()
                answers.append(Outcome(stream, len(text), reasons))
                continue
            allowed = {other[len(text)] for other in language if other.startswith(text)}
            if wanted is not None and chr(wanted) in allowed:
                allowed = {chr(wanted)}
            # Others are equally likely, and which of them comes is not foretold.
            paths += [(text + letter, self.next.get(ord(letter))) for letter in allowed]
        return answers
