"""Gemma 4: <|tool_call>call:NAME{key:value,...}<tool_call|>, with strings between <|"|>."""

from server.tools.styles.bare_key_format import BareKeyFormat

FORMAT = BareKeyFormat("gemma4", open="<|tool_call>call:", close="<tool_call|>", quote='<|"|>')
