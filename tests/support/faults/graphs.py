"""Random graphs of tasks with known answers."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from distributed import Client, Future

from support.faults import tasks

#: Ways to compute a node, and how often each is drawn.
WAYS = {
    tasks.node: 12,
    tasks.slow_node: 6,
    tasks.node_on_loop: 2,
    tasks.node_that_secedes: 1,
    tasks.node_by_client: 1,
    tasks.node_of_array: 4,
}


@dataclass
class Node:
    salt: int
    size: int
    way: object
    inputs: list[int]
    answer: int
    priority: int


@dataclass
class Graph:
    """Nodes in the order in which they can be computed; a node that no other one uses is a sink."""

    name: str
    nodes: list[Node] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)
    """Indices of the nodes whose results the client keeps: the sinks and some others."""

    def submit(self, client: Client) -> dict[int, Future]:
        """Futures of the wanted nodes; the others are let go at once."""
        futures: list[Future] = []
        for i, node in enumerate(self.nodes):
            futures.append(
                client.submit(
                    node.way,
                    node.salt,
                    node.size,
                    *(futures[j] for j in node.inputs),
                    key=f"{self.name}-{i}",
                    priority=node.priority,
                )
            )
        return {i: futures[i] for i in self.wanted}


def draw_graph(name: str, chance: random.Random) -> Graph:
    """A graph of some dozens of nodes; payloads from nothing to some hundred kilobytes."""
    graph = Graph(name)
    n_nodes = chance.randrange(30, 120)
    width = chance.choice([2, 8, 30])
    heavy = chance.choice([1_000, 50_000, 400_000])
    used: set[int] = set()
    for i in range(n_nodes):
        n_inputs = min(i, chance.choice([0, 1, 1, 2, 2, 3, 5]))
        inputs = chance.sample(range(max(0, i - width), i), min(n_inputs, width, i))
        salt = chance.randrange(tasks.PRIME)
        (way,) = chance.choices(list(WAYS), list(WAYS.values()))
        answer = tasks.combine(salt, [graph.nodes[j].answer for j in inputs])
        size = chance.choice([0, 10, chance.randrange(heavy)])
        graph.nodes.append(Node(salt, size, way, inputs, answer, chance.choice([0, 0, 0, 1])))
        used.update(inputs)
    graph.wanted = [i for i in range(n_nodes) if i not in used or chance.random() < 0.1]
    return graph
