"""Training through Whisper's frozen decoder, and measuring what it still reads from tokens.

Here belongs all that knows a Whisper teacher: targets, losses of text, transcripts, published checkpoints.
It imports the rooms above; none of them imports it."""

from . import objective, family # they enter losses into LOSSES, and a family into FAMILIES
