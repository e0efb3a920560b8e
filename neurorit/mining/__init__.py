"""Which neurons serve evidence and which follow noise: attribution, selection, atlas."""
