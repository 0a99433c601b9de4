"""The Haar transform beside one strided convolution, in turns: medians of ratios, a convolution's time over ours.

    OMP_WAIT_POLICY=passive python benchmarks/wavelet.py -o benchmarks/results/wavelet.json

The convolution has the products of the two filters as its kernels, one group a channel; its transpose is the inverse.
Forward passes alone, batches of 4.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from measuring import save
from scansynth.physics.wavelet import dwt, iwt

CASES = ((1, 96), (32, 96), (128, 56), (256, 28))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    began, rows = os.getloadavg(), []
    for dtype in (torch.float32, torch.bfloat16):
        for channels, side in CASES:
            images = torch.randn(4, channels, side, side).to(dtype)
            bands = dwt(images)
            row = {"precision": str(dtype).removeprefix("torch."), "channels": channels, "side": side}
            row |= {"dwt": ratio(images, False, arguments.repeats), "iwt": ratio(bands, True, arguments.repeats)}
            rows.append(row)
            print(json.dumps(row), flush=True)
    loads = {"at the start": began[0], "at the end": os.getloadavg()[0]}
    content = {"threads": arguments.threads, "load_average": loads, "time of the convolution over ours": rows}
    save(arguments.output, content)


def convolution(x: Tensor, inverse: bool) -> Tensor:
    """The same by a strided convolution."""
    low, high = torch.tensor([1.0, 1.0]), torch.tensor([1.0, -1.0])
    kernels = torch.stack([a[:, None] * b / 2 for a in (low, high) for b in (low, high)])[:, None].to(x.dtype)
    channels = x.shape[1] // 4 if inverse else x.shape[1]
    apply = functional.conv_transpose2d if inverse else functional.conv2d
    return apply(x, kernels.repeat(channels, 1, 1, 1), stride=2, groups=channels)


@torch.no_grad()
def ratio(x: Tensor, inverse: bool, repeats: int) -> dict[str, object]:
    """Median and quartiles of neighbouring runs' ratios."""
    ours = iwt if inverse else dwt
    tolerance = 1e-5 if x.dtype == torch.float32 else 0.1
    torch.testing.assert_close(ours(x), convolution(x, inverse), atol=tolerance, rtol=tolerance)
    ratios = []
    for repeat in range(repeats + 5):
        begun = time.perf_counter()
        convolution(x, inverse)
        between = time.perf_counter()
        ours(x)
        if repeat >= 5:
            ratios.append((between - begun) / (time.perf_counter() - between))
    low, median, high = np.percentile(ratios, (25, 50, 75)).round(2).tolist()
    return {"median": median, "quartiles": [low, high]}


if __name__ == "__main__":
    main()
