"""From recordings to batches of features: audio, corpora, extractors, stores, loaders.

Here belongs what reads recordings or features, and what changes them before a model sees them.
Not here: networks that are trained, and anything that knows a code."""

from . import describe, encoders, features, sources # they register extractors, and add `describe` and `load` to Corpus
