"""LLM judges: prompts, verdicts, calibration, biases."""
