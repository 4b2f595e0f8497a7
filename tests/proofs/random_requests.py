"""Random requests, good ones and bad ones of every kind."""

import json

LETTERS = "abcdefghijklmnopqrstuvwxyz"
ODD = [
    '"',
    "\\",
    "\t",
    "\x01",
    "\x7f",
    "é",
    "→",
    "😀",
    "\u2581",
    "</s>",
    "<s>",
    "<unk>",
    "  ",
    "q",
    "u",
]
NO_VERBS = [
    "HELLO world",
    "é",
    "PINGPING",
    "x" * 100,
    "INFER\u00a0a",
    "\x00",
    "GET / HTTP/1.1",
    "-",
]
NAMES = ["a", "b", "A-1._", "x" * 64]
NO_UTF8 = [b"\xff", b"\xe2\x82", b"\xc0\xaf", b"\xed\xa0\x80"]
BAD_NAMES = ["x" * 65, "a/b", "..", ".", "é", "a b"]
GRAMMARS = ['root ::= "xyz"', 'root ::= "ab1" | "cde" | "z"', 'root ::= "no" | "yes"']
BAD_GRAMMARS = ["root ::= ???", 'rot ::= "a"', 'root ::= "a', "root ::= other"]
SCHEMAS = [{"type": "boolean"}, {"type": "null"}, {"const": "a b"}, {"enum": ["no", "yes", 12]}]
BAD_SCHEMAS = [{"type": "nonsense"}, {"enum": []}, {"type": 7}]


class Requests:
    """What a random client sends to a bridge of these settings."""

    def __init__(self, random, settings, paths):
        self.random = random
        self.settings = settings
        self.paths = paths

    def text(self, most=12):
        """A text, mostly of letters."""
        random = self.random
        length = random.choice([1, 2, 3, most, random.randint(1, most)])
        parts = [random.choice(LETTERS) for _ in range(length)]
        for _ in range(random.choice([0, 0, 0, 1, 2])):
            parts.insert(random.randint(0, len(parts)), random.choice(ODD))
        if random.random() < 0.05:
            parts.insert(random.randint(0, len(parts)), "!")
        if random.random() < 0.1:
            # Near the context, on both sides of it.
            context = min(self.settings["context"], 512)
            parts = [random.choice(LETTERS)] * (context + random.randint(-5, 2))
        return "".join(parts)

    def stop(self):
        """Stop strings that the next letters are likely to meet, whole or but for their end."""
        random = self.random
        at = random.randint(0, 25)
        text = LETTERS[at : at + random.randint(1, 4)]
        other = random.choice(["za", "é→", LETTERS[at - 5 : at - 3] or "x"])
        return random.choice([text, text, text + "!", [text, other], [text + "!", other]])

    def object(self):
        """An object for GENERATE, right but for one in three."""
        random = self.random
        fields = {"prompt": self.text()}
        if random.random() < 0.3:
            roles = random.choices(["system", "user", "assistant"], k=random.randint(1, 3))
            fields = {"messages": [{"role": role, "content": self.text()} for role in roles]}
        right = {
            "max_tokens": [0, 1, 3, 8, 40, 5.0],
            "temperature": [0, 0.5, 1],
            "top_k": [0, 1, 40, 2147483647],
            "top_p": [0, 0.5, 1],
            "min_p": [0, 0.05, 1],
            "repeat_penalty": [0.9, 1, 1.1],
            "repeat_last_n": [-1, 0, 64],
            "seed": [0, 7, 4294967293],
            "stream": [True, False],
            "ignore_eos": [True, False],
            "cache_prompt": [True, False],
        }
        for name in random.sample(sorted(right), random.choice([0, 1, 2, 4])):
            fields[name] = random.choice(right[name])
        if random.random() < 0.25:
            fields["stop"] = self.stop()
        if "stop" not in fields and "ignore_eos" not in fields and random.random() < 0.2:
            # The tokens of a grammar decide, whatever the model thinks of them.
            for name in ["temperature", "top_k", "top_p", "min_p", "repeat_penalty"]:
                fields.pop(name, None)
            name, values = random.choice([("grammar", GRAMMARS), ("json_schema", SCHEMAS)])
            fields[name] = random.choice(values)
        if random.random() < 0.2:
            self.spoil(fields)
        return fields

    def spoil(self, fields):
        """Makes an object wrong."""
        random = self.random
        wrong = {
            "prompt": ["", 7, None, ["a"]],
            "messages": [[], {}, "a", [{"role": "user"}], [{"role": "king", "content": "a"}], [7]],
            "max_tokens": [-2, 1048577, "8", 1.5, None, True],
            "temperature": [-1, 1001, "0"],
            "top_p": [-0.1, 1.1, []],
            "min_p": [2, "x"],
            "top_k": [-1, 2147483648, 0.5],
            "repeat_penalty": [0, 1001],
            "presence_penalty": [-2.1, 3, False],
            "frequency_penalty": [-3, "a"],
            "seed": [-1, 4294967296, 0.1],
            "stop": ["", ["a", ""], 3, {}],
            "grammar": BAD_GRAMMARS + [7],
            "json_schema": BAD_SCHEMAS + ["a", []],
            "stream": [1, "true", None],
            "ignore_eos": [0],
            "cache_prompt": ["no"],
            "nonsense": [1],
            "Prompt": ["a"],
        }
        if random.random() < 0.1:
            del fields["prompt" if "prompt" in fields else "messages"]
        name = random.choice(sorted(wrong))
        fields[name] = random.choice(wrong[name])

    def source(self):
        """The JSON of an object, now and then broken."""
        random = self.random
        separators = random.choice([(",", ":"), (", ", ": "), (" ,\t", " : ")])
        escaped = random.random() < 0.5
        source = json.dumps(self.object(), ensure_ascii=escaped, separators=separators)
        return random.choice(
            [source] * 40
            + [
                source[: random.randint(1, len(source) - 1)],
                source + random.choice(["x", "}", ",", "\x00"]),
                source[:-1] + ',"stream":true,"stream":true}',
                "[" * random.choice([1, 64, 65, 5000]),
                '{"prompt":"a","stop":' + "[" * 65 + "]" * 65 + "}",
                "[]",
                "7",
                "nul",
                '{"prompt":"a","top_p":NaN}',
                '{"prompt":"a","top_p":1e999}',
                '{"prompt":"a","top_p":01}',
            ]
        )

    def path(self):
        return self.random.choice(self.paths["good"] * 4 + self.paths["bad"])

    def argument(self, verb):
        random = self.random
        if verb == "LOAD":
            return self.path()
        if verb == "GENERATE":
            return self.source()
        if verb in ("SAVE", "RESTORE"):
            return random.choice(NAMES * 4 + BAD_NAMES)
        if verb == "AUTH":
            # A wrong one is answered after a second.
            return random.choice(self.settings["tokens"] or ["any", "x y"])
        if verb == "DETOKENIZE":
            ids = [random.randint(0, 259) for _ in range(random.randint(1, 30))]
            if random.random() < 0.2:
                wrong = random.choice([260, -1, "x", "1.0", 10**20])
                ids.insert(random.randint(0, len(ids)), wrong)
            return random.choice([" ", "\t", "  "]).join(map(str, ids))
        return self.text()

    def body(self):
        """A request without its framing."""
        random = self.random
        if random.random() < 0.06:
            return random.choice(NO_VERBS)
        verbs = ["PING", "STATUS", "INFO", "HELP", "METRICS", "AUTH"]
        verbs += ["INFER", "STREAM", "CHAT", "GENERATE", "EMBED", "TOKENIZE", "DETOKENIZE"] * 4
        verbs += ["GENERATE"] * 10 + ["LOAD", "LOAD", "SAVE", "RESTORE", "SAVE", "RESTORE"]
        # Without a model there is little to see.
        verbs += ["FREE"] * (random.random() < 0.4)
        verb = random.choice(verbs)
        none = verb in ("PING", "STATUS", "INFO", "HELP", "METRICS", "FREE")
        argument = "" if none else self.argument(verb)
        if random.random() < 0.06:
            argument = self.text(3) if none else ""
        shown = random.choice([verb] * 4 + [verb.lower(), verb.title()])
        if not argument:
            return shown + random.choice(["", "", "", " ", "\t"])
        return shown + random.choice([" "] * 5 + ["\t", "  ", " \t "]) + argument

    def request(self):
        """A request, framed."""
        random = self.random
        body = self.body().encode()
        if random.random() < 0.04:
            at = random.randint(0, len(body))
            body = body[:at] + random.choice(NO_UTF8) + body[at:]
        limit = self.settings["max_request"]
        if limit < 10000 and random.random() < 0.1:
            length = random.choice([limit - 1, limit, limit + 1, 3 * limit])
            body = b"TOKENIZE " + b"a" * (length - 9)
        as_line = random.random() < 0.6 and b"\n" not in body and not body[:1].isdigit()
        empty = random.choice([b""] * 9 + [b"\n", b"\r\n"])
        if not as_line or not body:
            return empty + b"%d:%s," % (len(body), body)
        # Whether the limit includes a carriage return the manual leaves open.
        near = len(body) in range(limit - 1, limit + 2)
        crlf = body.endswith(b"\r") or (not near and random.random() < 0.3)
        return empty + body + (b"\r\n" if crlf else b"\n")

    def last(self):
        """What a connection may end with: what only an end makes a request, or breaks."""
        return self.random.choice(
            [b""] * 6
            + [b"PING", b"INFER a", b"TOKENIZE abc"]
            + [
                b"4",
                b"4:",
                b"4:PIN",
                b"4:PING",
                b"04:PING,",
                b"4PING,\n",
                b"4:PINGS,PING\n",
                b"9 x\nPING\n",
            ]
        )
