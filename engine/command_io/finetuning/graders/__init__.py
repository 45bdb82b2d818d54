"""Graders: reward functions of reinforcement learning, defined as in OpenAI's API. No torch here."""
