"""The fastai Learner and its callbacks: schedules, health, logs, checkpoints, several processes.

Here belongs what happens in a training loop, one callback for each concern.
Not here: configs and folders of runs, which `app` knows."""
