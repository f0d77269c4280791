"""Functions that are plain Python when interpreted and a few instructions when compiled."""

from collections.abc import Callable
from typing import Any, TypeVar

from numba.core import types
from numba.core.typing.templates import infer_global, make_intrinsic_template

Definition = TypeVar("Definition", bound=Callable[..., Any])


def compiled_as(function: Callable[..., Any]) -> Callable[[Definition], Definition]:
    """Say what machine code calls of a function become, as `numba.extending.intrinsic` does.

    An overload would too, but numba compiles one to a function of its own for each type that
    it is called with, and there are dozens.

    Parameters
    ----------
    function : callable
        Interpreted, it runs as it is.
    """

    def decorate(definition: Definition) -> Definition:
        template = make_intrinsic_template(function, definition, function.__name__)
        infer_global(function, types.Function(template))
        return definition

    return decorate
