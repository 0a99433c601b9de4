"""How the weights of adversarial networks start."""

from typing import TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)

DEVIATION = 0.02


def normal_start(network: Network) -> Network:
    """Let weights of convolutions and linear layers start from N(0, 0.02²), their biases from 0.

    As in pix2pix (Isola et al., CVPR 2017, appendix 6.2) and CycleGAN (Zhu et al., ICCV 2017, section 7.1). Weights are
    drawn in the order in which the network has its layers; norms keep what they have.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, std=DEVIATION)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network
