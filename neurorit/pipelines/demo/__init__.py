"""demo: the whole job, each stage for real, on the embedded world or on a real model."""
