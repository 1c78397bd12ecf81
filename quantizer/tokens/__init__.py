"""What is left when training is over: the tokenizer, its folder, and files of tokens.

Here belongs what a user of tokens needs, who trains nothing.
Not here: measures of what tokens are worth, and training."""

from . import token_formats # it adds `load` and `save` to Tokens
