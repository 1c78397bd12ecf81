"""Encoders, decoders, losses, and the model that puts a quantizer between them.

Here belong networks and what they are trained for, in ENCODERS, DECODERS and LOSSES.
Not here: optimizers, callbacks, and anything that reads files."""

from . import backbones, bottleneck, consistency, contrastive, denoising, distillation, prediction, speaker, transformer, whisperspeech # they enter their classes into ENCODERS, DECODERS and LOSSES
