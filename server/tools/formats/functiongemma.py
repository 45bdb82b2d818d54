"""FunctionGemma: <start_function_call>call:NAME{key:value,...}<end_function_call>, with strings between <escape>."""

from server.tools.styles.bare_key_format import BareKeyFormat

FORMAT = BareKeyFormat(
    "functiongemma", open="<start_function_call>call:", close="<end_function_call>", quote="<escape>"
)
