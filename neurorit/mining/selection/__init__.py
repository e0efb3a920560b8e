"""Which neurons are chosen: rules over what mining kept, and what they measure besides."""
