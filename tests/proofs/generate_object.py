"""The object of GENERATE, checked as the manual says."""

import json
import re


class Bad(Exception):
    """The object is a bad request, whose message contains these words."""


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def number(least, most):
    return lambda value: is_number(value) and least <= value <= most


def whole(least, most):
    return lambda value: number(least, most)(value) and value == int(value)


def text(value):
    return isinstance(value, str) and value != ""


def texts(value):
    return text(value) or (isinstance(value, list) and all(map(text, value)))


def boolean(value):
    return isinstance(value, bool)


def is_message(value):
    return (
        isinstance(value, dict)
        and set(value) == {"role", "content"}
        and value["role"] in ("system", "user", "assistant")
        and isinstance(value["content"], str)
    )


def messages(value):
    return isinstance(value, list) and len(value) > 0 and all(map(is_message, value))


FIELDS = {
    "prompt": text,
    "messages": messages,
    "max_tokens": whole(-1, 1048576),
    "temperature": number(0, 1000),
    "top_k": whole(0, 2147483647),
    "top_p": number(0, 1),
    "min_p": number(0, 1),
    "repeat_penalty": number(0.001, 1000),
    "repeat_last_n": whole(-1, 1048576),
    "presence_penalty": number(-2, 2),
    "frequency_penalty": number(-2, 2),
    "seed": whole(0, 4294967295),
    "stop": texts,
    "grammar": lambda value: isinstance(value, str),
    "json_schema": lambda value: isinstance(value, dict),
    "stream": boolean,
    "ignore_eos": boolean,
    "cache_prompt": boolean,
}


def parse(source):
    """The object, or Bad."""

    twice = []

    def pairs(items):
        names = [name for name, _ in items]
        twice.extend({name for name in names if names.count(name) > 1})
        return dict(items)

    def constant(name):
        raise ValueError(name)

    in_strings = r'"(?:[^"\\]|\\.)*"?'
    brackets = re.sub(r"[^][{}]", "", re.sub(in_strings, "", source, flags=re.DOTALL))
    depth = [0]
    for bracket in brackets:
        depth.append(depth[-1] + (1 if bracket in "[{" else -1))
    if max(depth) > 64:
        raise Bad("")
    try:
        value = json.loads(source, object_pairs_hook=pairs, parse_constant=constant)
    except ValueError as error:
        raise Bad("Not valid JSON at byte ") from error
    if not isinstance(value, dict):
        raise Bad("")
    wrong = {name for name, item in value.items() if not FIELDS.get(name, lambda _: False)(item)}
    wrong |= set(twice)
    if len(wrong) == 1:
        # An item of an array is named with its number.
        raise Bad(wrong.pop())
    if wrong or ("prompt" in value) == ("messages" in value):
        raise Bad("")
    if "grammar" in value and "json_schema" in value:
        raise Bad("")
    return value


def language(fields):
    """The texts that the grammar or the schema allows, None without one, or Bad."""
    if "grammar" in fields:
        if not re.fullmatch(r'root ::= "[a-z0-9]+"( \| "[a-z0-9]+")*', fields["grammar"]):
            raise Bad("")
        return re.findall(r'"([a-z0-9]+)"', fields["grammar"])
    if "json_schema" in fields:
        schema = fields["json_schema"]
        known = {"boolean": ["true", "false"], "null": ["null"]}
        if "const" in schema:
            values = [json.dumps(schema["const"])]
        elif "enum" in schema:
            values = [json.dumps(value) for value in schema["enum"]]
        elif schema.get("type") in known:
            values = known[schema["type"]]
        else:
            values = []
        if not values:
            raise Bad("")
        return values
    return None
