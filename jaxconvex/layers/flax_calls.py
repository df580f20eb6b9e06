"""Calls of Flax models, NNX and Linen, that mark the output of every module; the only code that knows Flax's modules."""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from jaxconvex.layers.marks import mark

__all__ = ["LinenCall", "NNXCall"]

CONTAINERS = (nnx.List, nnx.Dict, nnx.Sequential)
APPLY = {"rngs", "mutable", "capture_intermediates"}  # what Linen's apply takes for itself
NNX_ADVICE = "Read nnx.view(model, deterministic=True, use_running_average=True), a copy, or call model.eval()"
LINEN_ADVICE = "Turn it off in the call with the model's own argument, as read(x, train=False) or deterministic=True"
# Attributes and arguments that put a module in training mode, and the rates that make it harmless where they are 0.
MODES = (("deterministic", ("rate", "dropout_rate")), ("use_running_average", ()))


@dataclass(frozen=True)
class NNXCall:
    """A model without its weights, which are its first argument."""

    graphdef: Any
    tree: Any  # of the weights
    method: str
    training: bool

    def __call__(self, weights: Any, *inputs: Any, **kwargs: Any) -> Any:
        model = nnx.merge(self.graphdef, jax.tree.unflatten(self.tree, weights))  # a copy: the user's is not touched
        _check_arguments(getattr(model, self.method), inputs, kwargs)
        modules: Any = dict(nnx.iter_modules(model))
        for path, module in modules.items():
            if path and callable(module):
                above = (modules.get(path[:i]) for i in range(1, len(path)))
                inside = all(module is None or isinstance(module, CONTAINERS) for module in above)
                block = inside and not isinstance(module, CONTAINERS)
                module._layer_mark = ("/".join(map(str, path)), block, self.training)
                kind: Any = type(module)
                object.__setattr__(module, "__class__", _marking(kind))
        return getattr(model, self.method)(*inputs, **kwargs)


@functools.cache
def _marking(kind: Any) -> type:
    """The class of modules with a mark on what their call returns."""
    call: Callable = kind.__call__

    @functools.wraps(call)
    def marked(self: Any, *inputs: Any, **kwargs: Any) -> Any:
        path, block, training = self._layer_mark
        if not training:
            _check_evaluation(self, call, path, inputs, kwargs, NNX_ADVICE)
        return mark(call(self, *inputs, **kwargs), path, block)

    names = {"__call__": marked, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind)(kind.__name__, (kind,), names)


@dataclass(frozen=True)
class LinenCall:
    """A module without its variables, which are its first argument."""

    module: Any  # wrapped, since not all have a hash
    method: str
    training: bool

    def __call__(self, variables: Any, *inputs: Any, **kwargs: Any) -> Any:
        network = self.module.value
        call = functools.partial(getattr(type(network), self.method), network)
        _check_arguments(call, inputs, {name: value for name, value in kwargs.items() if name not in APPLY})
        active: list[tuple[str, ...]] = []
        containers = {()}

        def intercept(call: Any, inputs: Any, kwargs: Any, context: Any) -> Any:
            module = context.module
            if module.scope is not None and "layers" not in module.scope.flags:
                module.scope.flags = {**module.scope.flags, "layers": _Fresh()}
            path = module.path if context.method_name == "__call__" and module.scope is not None else ()
            if not path or path in active:  # super().__call__ is the same layer
                return call(*inputs, **kwargs)
            if isinstance(module, nn.Sequential):
                containers.add(path)
            block = path not in containers and containers.issuperset(path[:i] for i in range(len(path)))
            if not self.training:
                _check_evaluation(module, type(module).__call__, "/".join(path), inputs, kwargs, LINEN_ADVICE)
            active.append(path)
            try:
                return mark(call(*inputs, **kwargs), "/".join(path), block)
            finally:
                active.pop()

        with nn.intercept_methods(intercept):
            return network.apply(variables, *inputs, method=self.method, **kwargs)


class _Fresh:
    """Equal to nothing, not even itself before: nn.jit would take the trace of another block, or one without marks."""

    def __hash__(self) -> int:
        return next(_numbers)


_numbers = itertools.count()


def _check_arguments(call: Callable, inputs: Any, kwargs: Any) -> None:
    signature = inspect.signature(call)
    try:
        signature.bind(*inputs, **kwargs)
    except TypeError as error:
        raise ValueError(
            f"the model is called with {signature}, and that does not fit what it got: {error}. Give the model's inputs, in "
            "run_from after the activation (those that the rest of the network does not use cost nothing)."
        ) from None


def _check_evaluation(module: Any, call: Callable, path: str, inputs: Any, kwargs: Any, advice: str) -> None:
    """Raise ValueError if the module draws at random or uses the statistics of the batch."""
    for mode, rates in MODES:
        given = None
        with contextlib.suppress(TypeError, ValueError):  # a call that does not fit raises its own error
            given = inspect.signature(call).bind(module, *inputs, **kwargs).arguments.get(mode)
        value = getattr(module, mode, None) if given is None else given
        harmless = any(getattr(module, rate, None) == 0 for rate in rates)
        if value is False and not harmless:
            raise ValueError(
                f"the model is in training mode: {path!r} ({type(module).__name__}) has {mode}=False, so that its output "
                f"depends on more than the weights and the inputs. {advice}; or ask for it with training=True."
            )
