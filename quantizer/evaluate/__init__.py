"""What tokens are worth: measures, baselines, and plots of them.

Here belong functions from tokens, features and texts to numbers and figures.
Not here: pages and reports, which `app` writes."""
