"""Commands of the embedded world: demo, doctor, lab."""
