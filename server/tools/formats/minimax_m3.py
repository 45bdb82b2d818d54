"""MiniMax M3: <invoke name="NAME"> with an element for each argument, and a mark before every tag."""

from server.tools.styles.element_format import ElementFormat

FORMAT = ElementFormat("minimax_m3", mark="]<]minimax[>[")
