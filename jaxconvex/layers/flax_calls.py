"""Calls of Flax models, NNX and Linen, that mark the output of every module; the only code that knows Flax's modules."""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from jaxconvex.layers.marks import Label, labeled
from jaxconvex.layers.selection import Fixed, Select

__all__ = ["LinenCall", "NNXCall"]

CALL = "__call__"
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
    select: Select = None

    def __call__(self, weights: Any, *inputs: Any, **kwargs: Any) -> Any:
        model = nnx.merge(self.graphdef, jax.tree.unflatten(self.tree, weights))  # a copy: the user's is not touched
        _check_arguments(getattr(model, self.method), inputs, kwargs)
        with _marking(_Marks(self.training, self.select)) as marks:
            marks.teach(model)
            with marks.inside(model, ""):
                return getattr(model, self.method)(*inputs, **kwargs)

    def __repr__(self) -> str:
        return self.graphdef.nodes[0].type.__name__


@dataclass(frozen=True)
class LinenCall:
    """A module without its variables, which are its first argument."""

    module: Any  # wrapped, since not all have a hash
    method: str
    training: bool
    select: Select = None

    def __call__(self, variables: Any, *inputs: Any, **kwargs: Any) -> Any:
        network = self.module.value
        call = functools.partial(getattr(type(network), self.method), network)
        _check_arguments(call, inputs, {name: value for name, value in kwargs.items() if name not in APPLY})
        with _marking(_Marks(self.training, self.select)):
            return network.apply(variables, *inputs, method=self.method, **kwargs)

    def __repr__(self) -> str:
        return type(self.module.value).__name__


class _Marks:
    """What marks the modules' outputs in one call of a model: those of NNX by their class, Linen's by an interceptor.

    Either may hold the other, by Flax's bridges. No attribute of a module is set.
    """

    def __init__(self, training: bool, select: Select):
        self.training, self.select = training, select
        self.active: list[str] = []  # the modules whose call is under way
        self.above: list[str] = [""]  # the NNX modules that hold the Linen modules at work

    def output(self, module: Any, path: str, method: str, call: Callable, inputs: Any, kwargs: Any, advice: str) -> Any:
        """What the module's method returns, marked; unmarked if it is a part of another call of the module."""
        if path in self.active:
            return call(*inputs, **kwargs)
        if not self.training and method == CALL:
            _check_evaluation(module, type(module).__call__, path, inputs, kwargs, advice)
        self.active.append(path)
        try:
            with self.inside(module, path):
                output = call(*inputs, **kwargs)
        finally:
            self.active.pop()
        kind = getattr(type(module), "_marked_kind", type(module))
        container = isinstance(module, (nnx.Sequential, nn.Sequential))
        label = Label(path, "" if method == CALL else method, kind.__name__, container)
        return labeled(output, label, self.select, (inputs, kwargs))

    @contextlib.contextmanager
    def inside(self, module: Any, path: str) -> Iterator[None]:
        """While a Linen module within an NNX module runs, its paths stand behind that module's."""
        if not isinstance(module, nnx.bridge.ToNNX):
            yield
            return
        self.above.append(path)
        try:
            yield
        finally:
            self.above.pop()

    def teach(self, model: Any, above: str = "") -> None:
        """Gives the modules inside an NNX model, which is a copy, classes whose methods are marked."""
        for names, module in nnx.iter_modules(model):
            if names and not isinstance(module, (nnx.List, nnx.Dict)):
                kind: Any = type(module)
                path = _joined(above, *map(str, names))
                object.__setattr__(module, "__class__", _marked_kind(kind, path, self.training, Fixed(self.select)))

    def intercept(self, call: Any, inputs: Any, kwargs: Any, context: Any) -> Any:
        """As nn.intercept_methods wants it."""
        module, method = context.module, context.method_name
        if module.scope is None:
            return call(*inputs, **kwargs)
        if "layers" not in module.scope.flags:
            module.scope.flags = {**module.scope.flags, "layers": _Fresh()}
        path = _joined(self.above[-1], *module.path)
        if isinstance(module, nnx.bridge.ToLinen) and method == CALL:
            kwargs = {**kwargs, "nnx_method": functools.partial(self._within_linen, path, kwargs.get("nnx_method"))}
        if not module.path or (method != CALL and (method.startswith("_") or hasattr(nn.Module, method))):
            return call(*inputs, **kwargs)
        return self.output(module, path, method, call, inputs, kwargs, LINEN_ADVICE)

    def _within_linen(self, path: str, method: Any, module: Any, *inputs: Any, **kwargs: Any) -> Any:
        """The call of an NNX module that a Linen module has just made."""
        self.teach(module, path)
        method = CALL if method is None else method
        if isinstance(method, str):
            return getattr(module, method)(*inputs, **kwargs)
        return method(module, *inputs, **kwargs)


def _joined(*names: str) -> str:
    return "/".join(filter(None, names))


_at_work: ContextVar[_Marks | None] = ContextVar("marks", default=None)


@contextlib.contextmanager
def _marking(marks: _Marks) -> Iterator[_Marks]:
    token = _at_work.set(marks)
    try:
        with nn.intercept_methods(marks.intercept):
            yield marks
    finally:
        _at_work.reset(token)


@functools.cache
def _marked_kind(kind: Any, path: str, training: bool, select: Fixed) -> type:
    """The class of the module at a path, with marks on what its methods return; what is traced under jit depends on all."""

    def marked(method: str) -> Callable:
        call: Callable = getattr(kind, method)

        @functools.wraps(call)
        def with_mark(self: Any, *inputs: Any, **kwargs: Any) -> Any:
            marks = _at_work.get()
            if marks is None:
                return call(self, *inputs, **kwargs)
            return marks.output(self, path, method, functools.partial(call, self), inputs, kwargs, NNX_ADVICE)

        return with_mark

    names: dict[str, Any] = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "_marked_kind": kind}
    return type(kind)(kind.__name__, (kind,), names | {method: marked(method) for method in _methods(kind)})


def _methods(kind: Any) -> list[str]:
    """The methods of the class that may be layers: its call, and what it defines beyond nnx.Module."""
    own = (vars(base) for base in kind.__mro__ if not issubclass(nnx.Module, base))
    found = [
        name
        for names in own
        for name, value in names.items()
        if (name == CALL or not name.startswith("_"))
        and callable(value)
        and hasattr(type(value), "__get__")
        and not isinstance(value, (staticmethod, classmethod, type))
    ]
    return list(dict.fromkeys(found))


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
            "run_from after the activation (those that the rest of the network does not use cost nothing); keywords of "
            "every call as kwargs= of from_nnx or from_linen, such as kwargs={'train': False}."
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
