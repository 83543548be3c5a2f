"""A made-up accelerator, so that mistakes with devices show on a machine that has none.

Its tensors hold real values and compute with them on the CPU, but report the device type `meta`
and behave as those of a GPU would, more strictly where a GPU would move data silently:

- only `.to(device)` and `.cpu()` go between it and the CPU; `.numpy()` raises;
- an operation that mixes its tensors with the CPU's raises, also where torch would take an index
  or copy across; numbers (tensors without dimensions) may meet its tensors element by element;
- views, in-place operations and everything that torch composes of others work as on a GPU.

What it does not show: memory, speed, the order of sums on a GPU, and operations that CUDA lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")
_CPU = torch.device("cpu")
_KEYS = torch._C.DispatchKey
_Excluded = torch._C._SetExcludeDispatchKeyGuard
# Besides elementwise operations, these take a number from the CPU on a GPU as well.
_TAKE_NUMBERS = ("aten::copy_", "aten::fill_", "aten::index_put_", "aten::masked_fill_")


class DeviceError(RuntimeError):
    """What a GPU would refuse, or do with a hidden copy."""


class _There(Tensor):
    """A tensor on the device; `held` has its values."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: Tensor) -> _There:
        made: _There = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        torch._C._set_conj(made, held.is_conj())
        torch._C._set_neg(made, held.is_neg())
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise DeviceError(f"{func} on a tensor of the strict device, which has been left.")


class _Mode(TorchDispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Computes what is on the device with the tensors inside, and refuses mixtures."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.operations = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and its import takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        there: dict[int, _There] = {}
        here: list[Tensor] = []

        def inside(x: Tensor) -> Tensor:
            if isinstance(x, _There):
                there[id(x.held)] = x
                return x.held
            if x.device != _CPU:
                raise DeviceError(f"{func} on a tensor without values.")
            here.append(x)
            return x

        goal = kwargs.pop("device", None)
        args, kwargs = _each(inside, args), {k: _each(inside, v) for k, v in kwargs.items()}
        if goal is not None:
            kwargs["device"] = _CPU
        if there and here:
            self._check_mixture(func, args[0], here)
        on_device = bool(there) if goal is None else goal == DEVICE
        self.operations += bool(there) or on_device
        # Else the values of lazily conjugated tensors would be taken as they lie in memory.
        with _Excluded(_KEYS.Conjugate, False), _Excluded(_KEYS.Negative, False):
            found = func(*args, **kwargs)
        if on_device:
            return _each(lambda x: there[id(x)] if id(x) in there else _There(x), found)
        # A copy, since the CPU and a device never share memory.
        return _each(Tensor.clone, found) if there else found

    def _check_mixture(self, func: Any, first: Any, here: list[Tensor]) -> None:
        name = func._schema.name
        if any(t.dim() > 0 for t in here):
            shapes = [tuple(t.shape) for t in here]
            raise DeviceError(f"{name} mixes devices; from the CPU come {shapes}.")
        if func._schema.is_mutable and any(t is first for t in here):
            raise DeviceError(f"{name} puts what is on the device into a number on the CPU.")
        if torch.Tag.pointwise not in func.tags and name not in _TAKE_NUMBERS:
            raise DeviceError(f"{name} takes no number from the CPU.")


class _Values(TorchFunctionMode):
    """torch makes tensors of type `meta` from Python numbers without any operation on them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            goal = kwargs.pop("device")
            return func(*args, **kwargs).to(goal)
        return func(*args, **kwargs)


def _each(change: Callable[[Tensor], Tensor], x: Any) -> Any:
    """Arguments or results with their tensors changed."""
    if isinstance(x, Tensor):
        return change(x)
    if isinstance(x, tuple | list):
        return type(x)([_each(change, item) for item in x])
    return x


@contextmanager
def strict_device() -> Iterator[torch.device]:
    """The device, for as long as the context lasts; its tensors are of no use afterwards."""
    with _Values(), _Mode() as mode:
        yield DEVICE
    assert mode.operations > 0, "nothing was done on the device"
