"""Languages of constraints besides JSON Schema: regular expressions, EBNF and Lark."""
