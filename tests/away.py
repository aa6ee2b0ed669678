"""A second device without one: tensors "away" compute on the CPU, but cannot be mixed with those that are at home.

What a GPU refuses is refused here: operations on tensors of two devices (a number, copies and indices apart), and
turning a tensor into an array where it is. Results are those of the CPU, to rounding. Experimental parts of torch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "away"
_aten = torch.ops.aten
#: A GPU takes these with a tensor of the CPU beside its own.
_MIXED = {"aten::copy_", "aten::_to_copy", "aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_"}


class _Module:
    """What torch asks a backend for."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """There are no generators away."""


class Away(torch.Tensor):
    """`home`: the tensor that computes."""

    home: torch.Tensor

    @staticmethod
    def __new__(cls, home: torch.Tensor) -> Away:
        made = torch.Tensor._make_wrapper_subclass(
            cls, home.size(), strides=home.stride(), storage_offset=home.storage_offset(), dtype=home.dtype,
            device=torch.device(NAME, 0),
        )  # fmt: skip
        made.home = home
        return made

    def tolist(self) -> Any:  # torch has none for tensors of a class of their own
        return self.home.tolist()

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Away({self.home})"

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError(f"can't convert {self.device} device type tensor to numpy")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
    home = [t for t in tensors if not isinstance(t, Away) and t.dim()]
    if home and len(home) < len(tensors) and func._schema.name not in _MIXED:
        raise RuntimeError(f"{func._schema.name}: expected all tensors to be on the same device")
    asked = kwargs.get("device")
    stays = asked is None or torch.device(asked).type == NAME
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    args_home, kwargs_home = (tree_map(lambda t: t.home if isinstance(t, Away) else t, part) for part in (args, kwargs))
    with torch.no_grad():
        out = func(*args_home, **kwargs_home)
    if not stays or func._schema.name == "aten::_local_scalar_dense":
        return out
    if func._schema.name == "aten::copy_" and not isinstance(args[0], Away):
        return args[0]
    wrapped = tree_map(lambda t: Away(t) if isinstance(t, torch.Tensor) else t, out)
    if not any(isinstance(t, Away) for t in tensors):
        return wrapped
    return return_and_correct_aliasing(func, args, kwargs, wrapped)


_setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
_everything = torch.library.Library("_", "IMPL")
_everything.fallback(lambda func, *args, **kwargs: _run(func, args, kwargs), "PrivateUse1")
# What C++ calls where it has left Python's dispatch: the fallback is not found from there.
_inner = torch.library.Library("aten", "IMPL")
for _name, _op in {
    "copy_": _aten.copy_.default, "empty_strided": _aten.empty_strided.default, "_to_copy": _aten._to_copy.default,
    "empty.memory_format": _aten.empty.memory_format,
}.items():  # fmt: skip
    _inner.impl(_name, lambda *args, _op=_op, **kwargs: _run(_op, args, kwargs), "PrivateUse1")
