"""A model of the bridge's protocol, written from llama-cpp-bridge(7) alone.

Given how a bridge was started, it foretells the replies to what a connection sends: to the byte
where the manual fixes them, by a pattern for times and for sentences that the manual leaves open.
"""

import json
import re

import generate_object
from generate_object import Bad
from toy import VOCABULARY, embedding_of, text_of, tokens_of
from wire import COUNT, NUMBER, TEXT, TEXTS, Pattern, Reply, any_of, error, frames, line, says

HELP = """PING: test the connection
STATUS: tell which model is loaded
INFO: describe the bridge and its model
HELP: list the commands
METRICS: report counters for Prometheus
LOAD PATH: load a GGUF file
INFER PROMPT: generate text after a prompt
STREAM PROMPT: the same, piece by piece
CHAT MESSAGE: answer a message
GENERATE OBJECT: generate as a JSON object says
EMBED TEXT: compute the embedding of a text
TOKENIZE TEXT: turn text into tokens
DETOKENIZE ID...: turn tokens into text
SAVE NAME: store the evaluated text under a name
RESTORE NAME: bring a stored text back
FREE: unload the model
QUIT: stop the bridge
AUTH TOKEN: authenticate the client""".split("\n")
# A number of tokens that is not known.
SOME = -1
VERBS = [re.match("[A-Z]+", line).group() for line in HELP]
NO_ARGUMENT = {"PING", "STATUS", "INFO", "HELP", "METRICS", "FREE", "QUIT"}
MISSING = {
    "LOAD": "No model path provided",
    "INFER": "No prompt provided",
    "STREAM": "No prompt provided",
    "CHAT": "No message provided",
    "GENERATE": None,
    "EMBED": "No text provided",
    "TOKENIZE": "No text provided",
    "DETOKENIZE": "No tokens provided",
    "SAVE": "No name provided",
    "RESTORE": "No name provided",
    "AUTH": "No token provided",
}


class Bridge:
    """A bridge as it is known from outside.

    settings: parallel, context, max_tokens, seed (or None), template, states, allowed (or None),
    tokens (or None), max_request, directory of models. toys: the models by their paths.
    """

    def __init__(self, settings, toys, loaded=None):
        self.settings = settings
        self.toys = toys
        # The path as it was given, and whether that is certain.
        self.loaded = loaded
        self.certain = True
        # How many tokens were evaluated last, SOME, or None where that may be none.
        self.evaluated = 0
        # The same by model and name; None where nothing is known of all.
        self.states = {}
        self.stopped = False

    def connection(self, data):
        """The replies to all that a connection sends."""
        replies = []
        authenticated = self.settings["tokens"] is None
        for body, is_line, wrong, end in frames(data, self.settings["max_request"]):
            if wrong == "malformed":
                reply = Reply(error("bad_request"))
            elif wrong:
                reply = Reply(error(wrong))
            else:
                reply, authenticated = self.request(body, is_line, authenticated)
            reply.end, reply.early = end, wrong is not None
            replies.append(reply)
            if wrong == "malformed" or self.stopped:
                break
        return replies

    def left(self, before):
        """A client has left: whether its requests were carried out is unknown."""
        self.certain = False
        self.evaluated = None
        if self.states != before:
            self.states = None

    def request(self, body, is_line, authenticated):
        try:
            text = body.decode()
        except UnicodeDecodeError as wrong:
            return Reply(error("bad_request", says(str(wrong.start)))), authenticated
        if not text:
            return Reply(error("bad_request unknown_command")), authenticated
        word, blank, argument = re.fullmatch(r"([^ \t]*)([ \t]?)(.*)", text, re.DOTALL).groups()
        if is_line:
            argument = argument.lstrip(" \t")
        verb = word.upper() if word.isascii() else word
        known = verb in VERBS
        if not authenticated and verb not in ("PING", "AUTH"):
            codes = "unauthenticated" if known else "unauthenticated unknown_command"
            return Reply(error(codes + " bad_request" * known)), False
        if not known:
            message = f"Unknown command: {word[:64]}"
            return Reply(error("unknown_command", message)), authenticated
        allowed = self.settings["allowed"]
        if allowed is not None and verb not in allowed + ["PING", "AUTH"]:
            return Reply(error("denied bad_request")), authenticated
        if verb in NO_ARGUMENT and argument:
            fixed = "PING takes no argument" if verb == "PING" else says(verb)
            return Reply(error("bad_request", fixed)), authenticated
        if verb in MISSING and not argument:
            return Reply(error("bad_request", MISSING[verb] or Pattern(TEXT))), authenticated
        if verb == "AUTH":
            return self.auth(argument, authenticated)
        handler = getattr(self, verb.lower())
        return handler(*([] if verb in NO_ARGUMENT else [argument])), authenticated

    def auth(self, token, authenticated):
        tokens = self.settings["tokens"]
        if tokens is None:
            return Reply(line("ok", "No token is needed here")), True
        if token in tokens:
            return Reply(line("ok", "Authenticated")), True
        return Reply(error("denied")), authenticated

    # What needs no model.

    def ping(self):
        return Reply(line("ok", "pong"))

    def status(self):
        if not self.certain:
            return Reply(any_of(line("ok", "No model loaded"), line("ok", says("Model loaded: "))))
        model = f"Model loaded: {self.loaded}" if self.loaded else "No model loaded"
        return Reply(line("ok", model))

    def info(self):
        ends = {
            "sandbox": Pattern('"(?:full|partial|off)"'),
            "sandbox_lacks": Pattern(TEXTS),
        }
        version = Pattern(TEXT)
        none = line("ok", "No model loaded", version=version, loaded=False, **ends)
        model = line(
            "ok",
            "Model loaded",
            version=version,
            model=self.loaded if self.certain else Pattern(TEXT),
            description="tiny",
            architecture=Pattern('"(?:llama|gemma3|mamba)"'),
            parameters=Pattern(COUNT),
            size_bytes=Pattern(COUNT),
            context_size=self.settings["context"],
            training_context_size=512,
            embedding_size=288,
            vocabulary_size=VOCABULARY,
            chat_template=self.settings["template"],
            threads=1,
            parallel=self.settings["parallel"],
            loaded=True,
            **ends,
        )
        return Reply(any_of(none, model) if not self.certain else model if self.loaded else none)

    def help(self):
        allowed = self.settings["allowed"]
        lines = [
            text
            for verb, text in zip(VERBS, HELP)
            if allowed is None or verb in allowed + ["PING", "AUTH"]
        ]
        return Reply(line("ok", "Commands", data="\n".join(lines)))

    def metrics(self):
        start = "# HELP llama_cpp_bridge_build_info The program; always 1.\n"
        return Reply(line("ok", "Metrics", data=says(json.dumps(start)[1:-1])))

    def quit(self):
        self.stopped = True
        return Reply(line("ok", "Goodbye"))

    # The model itself.

    def load(self, path):
        toy = self.toys.get(path)
        if toy is None:
            codes = "denied load_failed" if self.settings["confined"] else "load_failed"
            # Only of a file that does not exist the sentence is fixed.
            missing = f"Failed to load model: {path}: no such file"
            fixed = "nonexistent" in path and not self.settings["confined"]
            message = missing if fixed else Pattern(TEXT)
            return Reply(error(codes, message))
        if not self.certain or self.loaded != path:
            self.evaluated = 0 if self.certain else None
        self.loaded, self.certain = path, True
        return Reply(line("ok", "Model loaded successfully"))

    def free(self):
        self.loaded, self.certain, self.evaluated = None, True, 0
        return Reply(line("ok", "Resources freed"))

    def without_model(self):
        """The reply where there is no model, or none that is known; else None."""
        if not self.certain:
            return Reply(r"\{.*\}", None)
        return None if self.loaded else Reply(error("no_model", "No model loaded"))

    # Texts.

    def infer(self, prompt):
        return self.answer(tokens_of(prompt), {}, statistics=False)

    def stream(self, prompt):
        return self.answer(tokens_of(prompt), {"stream": True})

    def chat(self, message):
        return self.conversation([{"role": "user", "content": message}], {})

    def generate(self, source):
        try:
            fields = generate_object.parse(source)
        except Bad as bad:
            return Reply(error("bad_request", says(str(bad))))
        try:
            generate_object.language(fields)
        except Bad:
            return Reply(error("bad_request context_exceeded no_model unsupported"))
        if "messages" in fields:
            return self.conversation(fields["messages"], fields)
        return self.answer(tokens_of(fields["prompt"]), fields)

    def without_model_or(self, final):
        return self.without_model() or Reply(final)

    def conversation(self, messages, fields):
        if not self.settings["template"]:
            codes = "unsupported" if self.loaded and self.certain else "unsupported no_model"
            return self.without_model_or(error(codes))
        tokens = []
        for message in messages:
            tokens += [2] if tokens else []
            tokens += tokens_of(f"{message['role']}: {message['content']}", special=False)
        return self.answer(tokens, fields)

    def answer(self, tokens, fields, statistics=True):
        none = self.without_model()
        if none:
            return none
        toy, context = self.toys[self.loaded], self.settings["context"]
        # The token that begins every text.
        tokens = [1] + tokens
        if len(tokens) > context:
            return Reply(error("context_exceeded", self.both_counts(len(tokens))))
        most = int(fields.get("max_tokens", self.settings["max_tokens"]))
        if toy.poisoned(tokens) and most != 0:
            self.evaluated = self.evaluated and None
            return Reply(error("internal"))
        stops = fields.get("stop", [])
        stops = [stops] if isinstance(stops, str) else stops
        language = generate_object.language(fields)
        if language is not None:
            outcomes = toy.constrained(tokens, most, context, language)
        else:
            outcomes = [toy.answer(tokens, most, context, stops)]
        last = outcomes[0]
        # With others at the same time, which was the last one is not fixed.
        exact = self.settings["parallel"] == 1 and len(outcomes) == 1
        unsure = toy.poisoned(tokens) or (last.reasons != ["length"] and not last.at_end)
        self.evaluated = SOME
        if exact and not unsure:
            self.evaluated = len(tokens) + last.count - (last.count > 0 and not last.at_end)
        streamed = fields.get("stream", False)
        unknown = fields.get("ignore_eos") and last.at_end
        reply = None
        for outcome in outcomes:
            final = self.final(outcome, len(tokens), fields, statistics, unknown)
            pieces = None if unknown else outcome.pieces if streamed else []
            other = Reply(final, pieces, lambda found: self.wrong_cached(found, fields))
            # Tokens that were drafted are known together.
            other.together = self.settings["draft"] > 0
            reply = reply.or_else(other) if reply else other
        return reply

    def final(self, outcome, prompt, fields, statistics, unknown):
        more = {"data": Pattern(TEXT) if unknown else outcome.text}
        reasons = "|".join(["length", "context"] if unknown else outcome.reasons)
        seed = fields.get("seed", self.settings["seed"])
        if statistics:
            more |= {
                "finish_reason": Pattern(f'"(?:{reasons})"'),
                "prompt_tokens": prompt,
                "cached_tokens": Pattern(COUNT),
                "completion_tokens": Pattern(COUNT) if unknown else outcome.count,
                "prompt_ms": Pattern(NUMBER),
                "completion_ms": Pattern(NUMBER),
                "seed": Pattern(COUNT) if seed is None else seed,
            }
        return line("ok", "Inference completed", **more)

    @staticmethod
    def wrong_cached(found, fields):
        most = found.get("prompt_tokens", 1) - 1 if fields.get("cache_prompt", True) else 0
        wrong = found.get("cached_tokens", 0) > most
        return f"more than {most} tokens cannot be cached" if wrong else None

    def both_counts(self, count):
        return Pattern(rf'"[^"]*\b{count}\b[^"]*\b{self.settings["context"]}\b[^"]*"')

    def embed(self, text):
        none = self.without_model()
        if none:
            return none
        tokens = [1] + tokens_of(text)
        if len(tokens) > self.settings["context"]:
            return Reply(error("context_exceeded", self.both_counts(len(tokens))))
        if self.toys[self.loaded].poisoned(tokens):
            return Reply(error("internal"))
        expected = embedding_of(tokens)

        def check(found):
            numbers = found["embedding"]
            near = len(numbers) == len(expected) and all(
                abs(number - other) < 1e-5 for number, other in zip(numbers, expected)
            )
            return None if near else f"the embedding is not {expected}"

        numbers = Pattern(rf"\[-?{NUMBER}(?:,-?{NUMBER})*\]")
        done = "Embedding completed"
        return Reply(line("ok", done, embedding=numbers, prompt_tokens=len(tokens)), check=check)

    def tokenize(self, text):
        tokens = tokens_of(text)
        return self.without_model_or(line("ok", "Tokenization completed", tokens=tokens))

    def detokenize(self, text):
        words = [word for word in re.split("[ \t\n]", text) if word]
        if not words:
            return Reply(error("bad_request", "No tokens provided"))
        if not all(re.fullmatch(r"-?[0-9]{1,9}", word) for word in words):
            return Reply(error("bad_request no_model"))
        tokens = [int(word) for word in words]
        for token in tokens:
            if not 0 <= token < VOCABULARY:
                last = VOCABULARY - 1
                message = f"{token} is not a token of the model; its tokens are 0 to {last}"
                return self.without_model_or(error("bad_request", message))
        done = "Detokenization completed"
        return self.without_model_or(line("ok", done, data=text_of(tokens)))

    # States.

    def state(self, name):
        """The reply to a name that cannot be one, or None."""
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name) or name in (".", ".."):
            return Reply(error("bad_request" + " denied" * (not self.settings["states"])))
        if not self.settings["states"]:
            return Reply(error("denied" + " no_model" * (not self.certain or not self.loaded)))
        return self.without_model()

    @staticmethod
    def done(message, tokens):
        count = Pattern(COUNT) if tokens in (None, SOME) else tokens
        return line("ok", message, state_tokens=count, state_bytes=Pattern(COUNT))

    def save(self, name):
        wrong = self.state(name)
        if wrong:
            self.states = self.states if self.certain else None
            return wrong
        saved = self.done("State saved", self.evaluated)
        if self.evaluated == 0:
            return Reply(error("not_found"))
        key = (self.toys[self.loaded], name)
        if self.states is not None:
            # One that was there before may still be, with another number of tokens.
            self.states[key] = self.evaluated
        return Reply(saved if self.evaluated else any_of(saved, error("not_found")))

    def restore(self, name):
        wrong = self.state(name)
        if wrong:
            return wrong
        if self.states is None:
            self.evaluated = None
            restored = self.done("State restored", None)
            return Reply(any_of(restored, error("not_found unsupported")))
        toy = self.toys[self.loaded]
        others = {tokens for (other, own), tokens in self.states.items() if own == name}
        none = error("not_found", f"There is no saved state '{name}'")
        if (toy, name) not in self.states:
            other = error("unsupported")
            return Reply(any_of(none, other) if None in others else other if others else none)
        tokens = self.states[toy, name]
        restored = self.done("State restored", tokens)
        if tokens:
            self.evaluated = tokens
            return Reply(restored)
        self.evaluated = None
        return Reply(any_of(restored, error("not_found unsupported")))
