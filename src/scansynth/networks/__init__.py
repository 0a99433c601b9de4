"""Networks: what computes. Those of `__all__` are the stable ones; a paper's own parts stand in files of their own."""

from typing import TYPE_CHECKING

from scansynth.lazy import names_of

if TYPE_CHECKING:
    from scansynth.networks.autoencoder import Codebook, Decoder, Encoder
    from scansynth.networks.discriminator import Discriminator, PatchDiscriminator
    from scansynth.networks.embedding import MappingNetwork, TimeEmbedding
    from scansynth.networks.resnet import ResNetTranslator
    from scansynth.networks.slice_unet import SliceUNet
    from scansynth.networks.unet import UNet

__all__ = [
    "Codebook",
    "Decoder",
    "Discriminator",
    "Encoder",
    "MappingNetwork",
    "PatchDiscriminator",
    "ResNetTranslator",
    "SliceUNet",
    "TimeEmbedding",
    "UNet",
]

__getattr__, __dir__ = names_of(
    __name__,
    {
        "autoencoder": (
            "Codebook",
            "Decoder",
            "Encoder",
        ),
        "discriminator": (
            "Discriminator",
            "PatchDiscriminator",
        ),
        "embedding": (
            "MappingNetwork",
            "TimeEmbedding",
        ),
        "resnet": ("ResNetTranslator",),
        "slice_unet": ("SliceUNet",),
        "unet": ("UNet",),
    },
)
