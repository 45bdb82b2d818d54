"""Graders: how answers are rewarded in reinforcement learning, in the shapes of OpenAI's API. No torch here."""
