"""What a function that is given to a declaration can be called with."""

import inspect


def takes_one(function: object, *, may_yield: bool = False) -> bool:
    """Whether a function can be called with one argument, and can return or (if it may) yield something for it."""
    if not callable(function):
        return False
    otherwise = [inspect.iscoroutinefunction, inspect.isasyncgenfunction]
    if not may_yield:
        otherwise.append(inspect.isgeneratorfunction)
    if any(check(called) for check in otherwise for called in (function, type(function).__call__)):
        return False
    try:
        inspect.signature(function).bind({})
    except TypeError:
        return False
    except ValueError:
        # Some C functions, and `dict`, have no signature.
        return True
    return True
