"""A YAML file and a command into all of the above: config, run, report, live page, command line.

Here belongs what reads a config or writes a page.
Not here: anything that a notebook without a config would need."""
