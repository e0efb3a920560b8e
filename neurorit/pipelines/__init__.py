"""The body of each command: wires the rooms together and returns the result as plain JSON data.

The command line imports a module of this package only when its command runs.
"""
