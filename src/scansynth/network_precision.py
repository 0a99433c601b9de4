"""How networks compute where they are trained and where they synthesise.

They may compute in bfloat16; equations, losses and weights stay float32: the cast lives inside each network's forward
and nowhere else.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scansynth.method import Method
from scansynth.networks.cpu import lay_weights_out
from scansynth.precision import Precision


def _to_float32(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    return type(value)(_to_float32(part) for part in value) if isinstance(value, tuple | list) else value


def compute_in(nets: Mapping[str, nn.Module], precision: Precision, device: torch.device) -> None:
    """Let the nets compute in `precision` inside their forward; what comes out is float32."""
    if precision == "float32":
        return
    for net in nets.values():
        forward = net.forward

        def cast_forward(*args: Any, forward: Any = forward, **named: Any) -> Any:
            with torch.autocast(device.type, dtype=torch.bfloat16):
                return _to_float32(forward(*args, **named))

        net.forward = cast_forward


def prepare_synthesis(method: Method, device: torch.device, precision: Precision) -> None:
    """Let a trained method synthesise: on its device, in its precision, without gradients."""
    method.to(device).eval().requires_grad_(False)
    lay_weights_out(method, device)
    compute_in(dict(method.nets.items()), precision, device)
