"""One thin file a command: ``add_arguments(parser)`` and ``run(args)``, which imports what it needs when it runs."""
