"""Vectors to codes and back: the contract, search, and one module for each family.

Here belongs a new quantizer: one class, registered in QUANTIZERS, and imported below.
Not here: encoders, decoders, and losses of what is decoded."""

from . import frozen, gumbel, operations, residual, scalar, simvq, vq # they enter their classes into QUANTIZERS
