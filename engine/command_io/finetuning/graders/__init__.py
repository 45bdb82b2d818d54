"""Graders: rewards of answers in reinforcement learning, in the shapes of OpenAI's API. No torch here."""
