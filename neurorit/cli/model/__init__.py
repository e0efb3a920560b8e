"""Commands that bring models in."""
