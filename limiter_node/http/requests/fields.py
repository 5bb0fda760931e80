"""Checks of single JSON fields, and the error that they raise, in OpenAI's words and codes.

A check takes a value and the path that names it (``messages[1].content``) and raises `InvalidRequest` or returns.
Checks of optional fields are kept in tables by field name; null means absent for all of them, so a check never sees
None. orjson decides what a number is: NaN and 1e400 never get here, integers from 2^64 come as floats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from limiter_node.errors import LimiterError

MAX_TOKENS = 2**31 - 1
"""The largest cap. Far below 2^53: the store's numbers are doubles, and a cap is multiplied by up to 128 choices."""
MAX_CHOICES = 128
MAX_MODEL_CHARS = 256
_MAX_ECHO_CHARS = 64

_KINDS = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal number",
    list: "an array",
    dict: "an object",
    type(None): "null",
}

Check = Callable[[Any, str], None]


class InvalidRequest(LimiterError):
    """Raised for a request that the caller has to correct (400). `param`: the path of the wrong field, if any."""

    def __init__(self, message: str, param: str | None, code: str | None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


def missing(param: str) -> InvalidRequest:
    """Return the error for a required field that is not there."""
    return InvalidRequest(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")


def wrong_type(value: object, param: str, expected: str) -> InvalidRequest:
    """Return the error for a field of another type than `expected`, which reads ``an integer``."""
    return InvalidRequest(
        f"Invalid type for '{param}': expected {expected}, but got {_KINDS[type(value)]} instead.",
        param,
        "invalid_type",
    )


def unsupported_value(value: str, param: str, supported: tuple[str, ...]) -> InvalidRequest:
    """Return the error for a field that holds none of the `supported` values, of which there are two or more."""
    shown = _short(value)
    listed = ", ".join(f"'{each}'" for each in supported[:-1])
    last = f", and '{supported[-1]}'" if len(supported) > 2 else f" and '{supported[-1]}'"
    return InvalidRequest(f"Invalid value: '{shown}'. Supported values are: {listed}{last}.", param, "invalid_value")


def empty_array(param: str) -> InvalidRequest:
    """Return the error for an empty list where at least one item is needed."""
    return InvalidRequest(
        f"Invalid '{param}': empty array. Expected an array with minimum length 1, but got an empty array instead.",
        param,
        "empty_array",
    )


def array_too_long(param: str, most: int, length: int) -> InvalidRequest:
    """Return the error for a list that has more items than it may have."""
    return InvalidRequest(
        f"Invalid '{param}': array too long. Expected an array with maximum length {most}, "
        f"but got an array with length {length} instead.",
        param,
        "array_above_max_length",
    )


def is_string(value: Any, param: str) -> None:
    """Raise `InvalidRequest` unless `value` is a string."""
    if type(value) is not str:
        raise wrong_type(value, param, "a string")


def is_boolean(value: Any, param: str) -> None:
    """Check for true or false; 0 and 1 are neither."""
    if type(value) is not bool:
        raise wrong_type(value, param, "a boolean")


def is_integer(value: Any, param: str) -> None:
    """Check for an integer; neither true nor 1.0 is one."""
    if type(value) is not int:
        raise wrong_type(value, param, "an integer")


def is_object(value: Any, param: str) -> None:
    """Check for an object, whatever it holds."""
    if type(value) is not dict:
        raise wrong_type(value, param, "an object")


def is_array(value: Any, param: str) -> None:
    """Check for an array, whatever it holds."""
    if type(value) is not list:
        raise wrong_type(value, param, "an array of objects")


def is_string_or_object(value: Any, param: str) -> None:
    """Check for a string or an object, as `tool_choice` may be."""
    if type(value) is not str and type(value) is not dict:
        raise wrong_type(value, param, "one of a string or object")


def integer_between(low: int, high: int) -> Check:
    """Return a check for an integer from `low` to `high`; true, 1.0 and "5" are none."""

    def check(value: Any, param: str) -> None:
        if type(value) is not int:
            raise wrong_type(value, param, "an integer")
        if value < low or value > high:
            raise _out_of_range("integer", value, param, low, high)

    return check


def number_between(low: int, high: int) -> Check:
    """Return a check for an integer or decimal number from `low` to `high`; true is none."""

    def check(value: Any, param: str) -> None:
        if type(value) is not float and type(value) is not int:
            raise wrong_type(value, param, "a decimal number")
        if value < low or value > high:
            raise _out_of_range("decimal", value, param, low, high)

    return check


def one_of(*values: str) -> Check:
    """Return a check for one of `values`, of which there are two or more."""

    def check(value: Any, param: str) -> None:
        is_string(value, param)
        if value not in values:
            raise unsupported_value(value, param, values)

    return check


def is_stop(value: Any, param: str) -> None:
    """Check for a string or a list of up to four, as `stop` may be."""
    if type(value) is str:
        return
    if type(value) is not list:
        raise wrong_type(value, param, "one of a string or array of strings")
    if len(value) > 4:
        raise array_too_long(param, 4, len(value))
    for index, each in enumerate(value):
        is_string(each, f"{param}[{index}]")


SAMPLING_FIELDS: Final[dict[str, Check]] = {
    "temperature": number_between(0, 2),
    "top_p": number_between(0, 1),
    "presence_penalty": number_between(-2, 2),
    "frequency_penalty": number_between(-2, 2),
    "stop": is_stop,
    "seed": is_integer,
    "user": is_string,
}
"""The fields that chats and text completions share about how an answer is drawn, in the order of their checks."""


def is_logit_bias(value: Any, param: str) -> None:
    """Check for an object whose values are numbers from -100 to 100."""
    is_object(value, param)
    for token, bias in value.items():
        _is_bias(bias, f"{param}.{_short(token)}")


def is_metadata(value: Any, param: str) -> None:
    """Check for an object whose values are strings."""
    is_object(value, param)
    for name, each in value.items():
        is_string(each, f"{param}.{_short(name)}")


def check_model(fields: dict[str, Any]) -> str:
    """Return the `model` field, which every limited route requires: 1 to 256 characters."""
    model = fields.get("model")
    if model is None:
        raise missing("model")
    if type(model) is not str:
        raise wrong_type(model, "model", "a string")
    if not model:
        raise InvalidRequest(
            "Invalid 'model': empty string. Expected a string with minimum length 1, but got an empty string instead.",
            "model",
            "empty_string",
        )
    if len(model) > MAX_MODEL_CHARS:
        raise InvalidRequest(
            f"Invalid 'model': string too long. Expected a string with maximum length {MAX_MODEL_CHARS}, "
            f"but got a string with length {len(model)} instead.",
            "model",
            "string_above_max_length",
        )
    return model


def includes_usage(stream_options: dict[str, Any], is_streamed: bool) -> bool:
    """Return whether `stream_options` ask for the usage. Raises `InvalidRequest`, also if `is_streamed` is false."""
    if not is_streamed:
        raise InvalidRequest(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            "stream_options",
            "invalid_value",
        )
    include_usage = stream_options.get("include_usage")
    if include_usage is None:
        return False
    if type(include_usage) is not bool:
        raise wrong_type(include_usage, "stream_options.include_usage", "a boolean")
    return include_usage


def check_optional(fields: dict[str, Any], checks: dict[str, Check]) -> None:
    """Apply `checks` to the fields that are there and not null. O(fields sent)."""
    for name, value in fields.items():
        if value is not None and (check := checks.get(name)) is not None:
            check(value, name)


def object_of_type(value: Any, path: str, types: tuple[str, ...]) -> str:
    """Return the `type` field of an object that must have one of `types`."""
    if type(value) is not dict:
        raise wrong_type(value, path, "an object")
    kind = value.get("type")
    if kind is None:
        raise missing(f"{path}.type")
    if type(kind) is not str:
        raise wrong_type(kind, f"{path}.type", "a string")
    if kind not in types:
        raise unsupported_value(kind, f"{path}.type", types)
    return kind


def required_object(holder: dict[str, Any], field: str, path: str) -> dict[str, Any]:
    """Return the object that `holder`, which `path` names, must have as its `field`."""
    value = holder.get(field)
    if value is None:
        raise missing(f"{path}.{field}")
    if type(value) is not dict:
        raise wrong_type(value, f"{path}.{field}", "an object")
    return value


def check_required(holder: dict[str, Any], field: str, path: str, check: Check) -> None:
    """Apply `check` to a field that `holder`, which `path` names, must have."""
    if field not in holder:
        raise missing(f"{path}.{field}")
    check(holder[field], f"{path}.{field}")


def check_if_given(holder: dict[str, Any], field: str, path: str, check: Check) -> None:
    """Apply `check` to a field of `holder`, which `path` names, unless it is absent or null."""
    if holder.get(field) is not None:
        check(holder[field], f"{path}.{field}")


def _short(text: str) -> str:
    return text if len(text) <= _MAX_ECHO_CHARS else text[:_MAX_ECHO_CHARS] + "…"


def _out_of_range(kind: str, value: float, param: str, low: int, high: int) -> InvalidRequest:
    if value < low:
        side, bound, code = "below minimum", f">= {low}", f"{kind}_below_min_value"
    else:
        side, bound, code = "above maximum", f"<= {high}", f"{kind}_above_max_value"
    return InvalidRequest(
        f"Invalid '{param}': {kind} {side} value. Expected a value {bound}, but got {value} instead.", param, code
    )


_is_bias = number_between(-100, 100)
