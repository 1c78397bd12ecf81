"""What every room needs and that knows nothing of speech: errors, registries, files, options, masks, processes.

`errors`, `registry`, `files` and `compat` import neither torch nor fastai, so that the command line starts at once.
Not here: anything that knows what a recording, a feature or a code is."""
