"""Drop a negation of a negation."""

from __future__ import annotations

from torch import fx

from fxopt import Program, graph_pass, op_name


@graph_pass
def drop_double_neg(program: Program) -> None:
    """Let the users of a negation of a negation read what is negated.

    before:
        %x : f32[batch,4]
        %y = aten.relu(%x)
        %a = aten.neg(%y)
        %b = aten.neg(%a)
        %z = aten.tanh(%b)
        return %z
    after:
        %x : f32[batch,4]
        %y = aten.relu(%x)
        %z = aten.tanh(%y)
        return %z
    """
    for node in program.find("aten.neg"):
        inner = node.args[0]
        if not isinstance(inner, fx.Node) or op_name(inner) != "aten.neg":
            continue
        value = inner.args[0]
        assert isinstance(value, fx.Node)
        if value.op != "call_function" and program.graph.output_node() in node.users:
            program.skip(node, "the output would share the memory of an input or a weight")
        else:
            program.replace(node, value)
