"""What every cluster is: some servers that keep the same data, each of which can be harmed alone."""

from collections.abc import Iterable
from pathlib import Path

from benchmarks.faults.keeper import Server


class Cluster:
    """
    Nodes that `keeper.py` keeps as it keeps one server. *folder* is theirs alone.

    A method is a word of the keeper's, with the numbers of nodes behind it: `kill 1`, `freeze 0 2`. Without numbers it
    is meant for all. A subclass makes its nodes, and has more words.
    """

    title = ""
    note = ""  # for the page: how the nodes are set up, and what the planted bugs are
    size = 3

    def __init__(self, folder: Path) -> None:
        self.nodes: list[Server] = []
        for number in range(self.size):
            own = folder / str(number)
            own.mkdir()
            self.nodes.append(self.make(number, own))

    def make(self, number: int, folder: Path) -> Server:
        """A node, which is not started. Those with a lower number are in `nodes`. Raises `Missing`."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        return ",".join(node.url for node in self.nodes)

    def version(self) -> str:
        return self.nodes[0].version()

    def chosen(self, numbers: Iterable[int]) -> list[Server]:
        return [self.nodes[number] for number in numbers] or self.nodes

    def start(self, *numbers: int) -> None:
        for node in self.chosen(numbers):
            node.start()

    def stop(self, *numbers: int) -> None:
        for node in self.chosen(numbers):
            node.stop()

    def kill(self, *numbers: int) -> None:
        for node in self.chosen(numbers):
            node.kill()

    def freeze(self, *numbers: int) -> None:
        for node in self.chosen(numbers):
            node.freeze()

    def thaw(self, *numbers: int) -> None:
        for node in self.chosen(numbers):
            node.thaw()
