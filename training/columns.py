"""A leaner form of an exported graph: one number per image stays a column (N, 1) from the reduction to the output.

Written in torch a score is a vector (N,), which each broadcast has to unsqueeze and the output to stack; in a graph whose
nodes do next to nothing at batch one, such bookkeeping is a tenth of what the scores cost.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Neg", "Exp", "Log", "Sqrt", "Pow", "Abs", "Clip", "Relu", "Min", "Max"}


def keep_columns(model: ir.Model) -> None:
    """Changes the graph in place; leaves it as it is where a vector comes from or goes to an operator not known here."""
    graph = model.graph
    vectors = {value for node in graph for value in node.outputs if is_vector(value)}
    stacks = [node for node in graph if node.op_type == "Concat" and set(node.inputs) <= vectors]
    vectors -= {node.outputs[0] for node in stacks}
    if any(value.is_graph_output() for value in vectors) or not all(known(node, vectors, stacks) for node in graph):
        return
    for node in list(graph):
        if node in stacks:
            (reshape,) = node.outputs[0].consumers()
            (transpose,) = reshape.outputs[0].consumers()
            node.attributes["axis"] = ir.AttrInt64("axis", 1)
            node.outputs[0].shape = transpose.outputs[0].shape
            replace(graph, transpose, node.outputs[0])
            graph.remove(reshape, safe=True)
            negate_once(graph, node)
        elif node.op_type == "Unsqueeze" and node.inputs[0] in vectors:
            replace(graph, node, node.inputs[0])
        elif node.outputs[0] in vectors:
            if node.op_type.startswith("Reduce"):
                node.attributes["keepdims"] = ir.AttrInt64("keepdims", 1)
            elif node.op_type in ("Gather", "MatMul"):
                node.replace_input_with(1, column(graph, node))
    for value in vectors:
        if value.shape is not None and len(value.shape) == 1:
            value.shape = ir.Shape([*value.shape, 1])


def is_vector(value: ir.Value) -> bool:
    """Whether it is one float per image."""
    return value.dtype == ir.DataType.FLOAT and value.shape is not None and len(value.shape) == 1 and not isinstance(value.shape[0], int)


def known(node: ir.Node, vectors: set[ir.Value], stacks: list[ir.Node]) -> bool:
    """Whether a node goes on to mean the same when the vectors it reads and writes become columns."""
    reads, writes = vectors & {value for value in node.inputs if value is not None}, vectors & set(node.outputs)
    if not reads and not writes:
        return True
    if node in stacks:
        return [user.op_type for user in node.outputs[0].consumers()] == ["Reshape"]
    if node.op_type == "Unsqueeze":
        return not writes and holds(node.inputs[1], ([1], [-1]))
    if node.op_type in ELEMENTWISE:
        return bool(writes) and all(value in vectors or is_scalar(value) for value in node.inputs if value is not None)
    if node.op_type.startswith("Reduce"):
        return not reads
    return node.op_type in ("Gather", "MatMul") and not reads and node.inputs[1] is not None and node.inputs[1].const_value is not None


def is_scalar(value: ir.Value) -> bool:
    return value.const_value is not None and value.const_value.size == 1


def holds(value: ir.Value | None, allowed: tuple[object, ...]) -> bool:
    """Whether it is a constant, and one of these."""
    return value is not None and value.const_value is not None and value.const_value.numpy().tolist() in allowed


def column(graph: ir.Graph, node: ir.Node) -> ir.Value:
    """The constant second input with one dimension more: an index (1,) for a scalar one, weights (K, 1) for (K,)."""
    old = node.inputs[1]
    assert old is not None
    assert old.const_value is not None
    return constant(graph, f"{node.outputs[0].name}.{old.name}", np.expand_dims(old.const_value.numpy(), -1))


def negate_once(graph: ir.Graph, stack: ir.Node) -> None:
    """Most scores end in a change of sign: one product with a row of signs instead of a node for each."""
    signs = np.ones((1, len(stack.inputs)), np.float32)
    for i, value in enumerate(stack.inputs):
        last = value.producer() if value is not None else None
        if last is None or len(list(last.outputs[0].uses())) > 1:
            continue
        if last.op_type == "Neg" or (last.op_type == "Mul" and holds(last.inputs[1], (-1,))):
            signs[0, i] = -1
            stack.replace_input_with(i, last.inputs[0])
            graph.remove(last, safe=True)
    out = stack.outputs[0]
    product = ir.node("Mul", [ir.Value(), constant(graph, f"{out.name}.signs", signs)], name=f"{out.name}.signed")
    product.outputs[0].shape, product.outputs[0].type = out.shape, out.type
    graph.insert_after(stack, product)
    take_over(graph, out, product.outputs[0])
    product.replace_input_with(0, out)


def constant(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    graph.register_initializer(value)
    return value


def replace(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Takes a node of one output out of the graph; what read it reads `value`."""
    take_over(graph, node.outputs[0], value)
    graph.remove(node, safe=True)


def take_over(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Everything that read `old` reads `new`; if the graph gave it out, then under the same name."""
    if old.is_graph_output():
        graph.outputs[list(graph.outputs).index(old)] = new
        old.name, new.name = f"{old.name}.former", old.name
    old.replace_all_uses_with(new)
