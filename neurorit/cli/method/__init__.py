"""Commands of the method: mine, tune, merge, atlas, experiment."""
