"""Chat templates of models that call tools and think, and what such models write."""

# As Qwen's, in short: the tools in front, a call between marks.
TOOL_TEMPLATE = (
    "{% if tools %}{% for t in tools %}{{ t | tojson }}\n{% endfor %}{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)

# The end of a template that opens a thought, unless it is told not to.
OPENED_THOUGHT = (
    "{% if add_generation_prompt %}<assistant>"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% else %}<think>{% endif %}{% endif %}"
)

TWO_CALLS = (
    '<tool_call>\n{"name": "plus", "arguments": {"a": 1}}\n</tool_call>\n<tool_call>\n{"name": "now"}\n</tool_call>'
)
