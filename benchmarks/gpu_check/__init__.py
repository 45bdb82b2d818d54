"""gpu_check: one command that checks and measures headrace on a GPU, for few minutes on a borrowed machine."""
