"""Two-stage tuning of neuron groups, and the rivals it is compared with."""
