"""Options, progress and results that commands exchange with the processes that they start."""
