"""`python -m neurorit.cli`, also under torchrun."""

from neurorit.cli import main

main()
