"""The commands: one module each, with HELP, EXAMPLES, `add_arguments(parser)`, `run(arguments)`.

Modules import nothing heavy at their top, so that `--help` is instant.
"""
