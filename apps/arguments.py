"""The arguments of an endpoint against its signature: what a client sends may be anything."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

from pydantic import ValidationError, validate_call

from symdream.errors import Problem, Problems


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, whose arguments must be what it is annotated with ("5" is a number too).

    Raises: Problems that name every argument that is not.
    """
    validated = validate_call(function, config={"arbitrary_types_allowed": True})  # gr.Request is of no known kind
    names = list(inspect.signature(function).parameters)

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return validated(*args, **kwargs)
        except ValidationError as error:
            if error.title != function.__qualname__:  # of something deeper, not of these arguments
                raise
            # Each member of a union complains; one sentence an argument is enough.
            wrong = {_place(problem["loc"], names): problem["msg"] for problem in reversed(error.errors())}
            found = [Problem(place, message[:1].lower() + message[1:]) for place, message in wrong.items()]
            raise Problems("the request", list(reversed(found))) from None

    return wrapped


def _place(loc: tuple[int | str, ...], names: list[str]) -> str:
    """(3, 0, "str") -> "seeds[0]": gradio calls by position."""
    name = names[loc[0]] if isinstance(loc[0], int) else str(loc[0])
    return name + "".join(f"[{step}]" for step in loc[1:] if isinstance(step, int))
