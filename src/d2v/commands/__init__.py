"""One thin file a command. Each has ``add_arguments(parser)`` and ``run(args)`` and imports what it needs when it runs."""
