"""A device that is not there: what is on it is computed on the CPU, but mixes with it nowhere.

Code that runs on it keeps its tensors together as a GPU asks. Needs PyTorch's registration of
devices in Python, which came with PyTorch 2.9 or so and may change.
"""

from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import skgen.base

register = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
Module = getattr(backend_registration, "_DummyBackendModule", object)
ELSEWHERE = "elsewhere:0"
single_only = False  # whether the device is called "mps" and has no double precision
aten = torch.ops.aten
INDEXED = aten.index.Tensor, aten.index_put_.default  # there by numbers of rows here, as on GPUs


class Elsewhere(torch.Tensor):
    """A tensor there, whose numbers are those of one on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here):
        with torch.inference_mode(False):
            return torch.Tensor._make_wrapper_subclass(
                cls, here.shape, here.stride(), here.storage_offset(), dtype=here.dtype,
                device=ELSEWHERE,
            )  # fmt: skip

    def __init__(self, here):
        self.here = here

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return computed(function, args, kwargs or {})

    @property
    def device(self):
        return torch.device("mps" if single_only else ELSEWHERE)

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, value):
        self.here = value.here

    def data_ptr(self):
        return self.here.data_ptr()

    def tolist(self):
        return self.here.tolist()

    def __deepcopy__(self, memo):
        copied = Elsewhere(self.here.clone()).requires_grad_(self.requires_grad)
        vars(copied).update({k: v for k, v in vars(self).items() if k == "_is_param"})
        return copied


def computed(function, args, kwargs):
    """Result of an operation, there if it is asked for there, or any tensor lies there."""
    if function is not aten._to_copy.default and function._can_decompose():
        with Computing():  # in inference mode such operations arrive whole
            return function.decompose(*args, **kwargs)
    if function is aten._efficientzerotensor.default:
        function = aten.zeros.default  # which forward derivatives take for zeros without memory
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
    there = [each for each in tensors if isinstance(each, Elsewhere)]
    if kwargs.get("device") is not None:
        goes_there = _meant(kwargs["device"]) == torch.device(ELSEWHERE)
        kwargs = {**kwargs, "device": torch.device("cpu")}
    elif function is aten.copy_.default:
        goes_there = isinstance(args[0], Elsewhere)
    else:
        goes_there = bool(there)
        is_indexed = function in INDEXED and isinstance(args[0], Elsewhere)
        here = [each for each in tensors if each.dim() and not isinstance(each, Elsewhere)]
        if there and here and not is_indexed:
            raise RuntimeError(f"{function} got tensors on two devices.")
    args, kwargs = tree_map(lambda x: x.here if isinstance(x, Elsewhere) else x, (args, kwargs))
    known = {id(each.here): each for each in there}  # written to in place

    def placed(result):
        if not goes_there or not isinstance(result, torch.Tensor):
            return result
        if single_only and result.dtype == torch.float64:
            raise TypeError(f"{function} leaves double precision where there is none.")
        return known[id(result)] if id(result) in known else Elsewhere(result)

    return tree_map(placed, function(*args, **kwargs))


class Computing(TorchDispatchMode):
    """Operations that begin without a tensor there."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return computed(function, args, kwargs or {})


class Calling(TorchFunctionMode):
    """Calls that PyTorch would carry out before it asks for the device, and random numbers."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.device:
            return function(*args)
        args = tuple(map(_meant, args))
        kwargs = {name: _meant(value) for name, value in (kwargs or {}).items()}
        first = args[0] if args else None
        generator, device = kwargs.get("generator"), kwargs.get("device")
        if generator is not None:
            given = getattr(first, "device", "cpu") if device is None else device
            if _meant(torch.device(given)).type != _meant(generator.device).type:
                raise RuntimeError(f"{function} got a generator of {generator.device}.")
        if function is torch.tensor and device is not None:
            return function(*args, **{**kwargs, "device": None}).to(device)
        if isinstance(first, Elsewhere):
            if function is torch.Tensor.new_tensor:
                kind = {"dtype": first.dtype, **kwargs}
                return torch.tensor(*args[1:], **kind).to(ELSEWHERE)
            if function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
                index = args[1] if isinstance(args[1], tuple) else (args[1],)
                index = tuple(torch.tensor(i) if isinstance(i, list) else i for i in index)
                return function(first, index, *args[2:])
        return function(*args, **kwargs)


def _meant(value):
    """A device, which may be called "mps", as PyTorch knows it; other values as they are."""
    if value == "mps" if isinstance(value, str) else isinstance(value, torch.device):
        return torch.device(ELSEWHERE) if torch.device(value).type == "mps" else value
    return value


class Generator(torch.Generator):
    """A generator of random numbers there or on the CPU."""

    def __new__(cls, device="cpu"):
        return super().__new__(cls)

    def __init__(self, device="cpu"):
        self._device = torch.device(device)

    @property
    def device(self):
        return self._device

    def manual_seed(self, seed):
        super().manual_seed(seed)
        return self


class _WithAutocast(Module):
    def get_amp_supported_dtype(self):
        return [torch.bfloat16]


@contextmanager
def elsewhere(monkeypatch, name):
    """Offer the device to skgen under its name, or as "mps", without double precision."""
    if not hasattr(torch, "elsewhere"):
        register("elsewhere", backend_module=_WithAutocast())
    monkeypatch.setattr(__name__ + ".single_only", name == "mps")
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(skgen.base, "available_devices", lambda: ["cpu", name])
    with Computing(), Calling():
        yield name
