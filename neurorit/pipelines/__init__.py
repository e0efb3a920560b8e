"""Several rooms together: demo, experiments, evaluation, the work behind commands."""
