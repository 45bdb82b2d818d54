"""Constraint languages other than JSON Schema: regular expressions, EBNF and Lark."""
