"""`python -m softprompt`: the command line, for launchers that start a module."""

from softprompt.cli import main

raise SystemExit(main())
