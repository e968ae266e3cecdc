"""The work of the demo. Every stage knows the right answer and compares with it."""

from __future__ import annotations

import importlib.util
import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from distributed import Client, Future

from fastworker.demo.cluster import DemoError


class WrongResult(DemoError):
    """A stage computed something else than it should have."""


class Stage:
    """One piece of work. ``scale`` 1 is a second or two on two cores with distributed's workers."""

    name: ClassVar[str]
    #: modules that it takes, beside what fastworker itself depends on
    needs: ClassVar[tuple[str, ...]] = ()

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def missing(self) -> list[str]:
        """The modules that it takes and that are not installed."""
        return [module for module in self.needs if importlib.util.find_spec(module) is None]

    def start(self, client: Client) -> list[Future]:
        """Submit everything; the results of what it returns go to ``check``."""
        raise NotImplementedError

    def steps(self, client: Client) -> Iterator[list[Future]]:
        """Submit the work, step by step; the caller takes the results of each before the next.

        There is one step, unless a stage is about what comes between steps.
        """
        yield self.start(client)

    def check(self, results: Sequence[Any]) -> None:
        """Raise WrongResult unless ``results`` are right."""
        raise NotImplementedError

    def _compare(self, found: Any, expected: Any) -> None:
        if found != expected:
            raise WrongResult(f"{self.name}: wrong result: {found!r}, expected {expected!r}")


def collatz_steps(number: int) -> int:
    """How many steps it takes from ``number`` to 1, halving even and tripling odd numbers."""
    steps = 0
    while number != 1:
        number = number // 2 if number % 2 == 0 else 3 * number + 1
        steps += 1
    return steps


class Map(Stage):
    """Many small independent functions: little else than what a task itself costs."""

    name = "map"

    def start(self, client: Client) -> list[Future]:
        futures: list[Future] = client.map(collatz_steps, self._numbers(), pure=False)
        return futures

    def check(self, results: Sequence[Any]) -> None:
        for number, steps in zip(self._numbers(), results, strict=True):
            if steps != collatz_steps(number):
                raise WrongResult(
                    f"{self.name}: wrong result for {number}: {steps!r}, "
                    f"expected {collatz_steps(number)}"
                )

    def _numbers(self) -> range:
        return range(1, 1 + max(10, round(1000 * self.scale)))


def square(number: int) -> int:
    return number * number


class Submit(Stage):
    """One task after another, each submitted when the result of the last one is here."""

    name = "submit to result"

    def steps(self, client: Client) -> Iterator[list[Future]]:
        for number in range(self._tasks()):
            yield [client.submit(square, number, pure=False)]

    def check(self, results: Sequence[Any]) -> None:
        self._compare(list(results), [number * number for number in range(self._tasks())])

    def _tasks(self) -> int:
        return max(10, round(100 * self.scale))


class Chain(Stage):
    """Tasks that each take the result of the one before; the client asks for the last result."""

    name = "chain"

    def start(self, client: Client) -> list[Future]:
        last = client.submit(square, 0, pure=False)
        for number in range(1, self._length()):
            last = client.submit(operator.add, last, number, pure=False)
        return [last]

    def check(self, results: Sequence[Any]) -> None:
        self._compare(results[0], sum(range(self._length())))

    def _length(self) -> int:
        return max(10, round(200 * self.scale))


class Tree(Stage):
    """A reduction by pairs: every task waits for two others, many of them on another worker."""

    name = "tree reduction"

    def start(self, client: Client) -> list[Future]:
        level = client.map(square, range(self._leaves()), pure=False)
        while len(level) > 1:
            rest = level[len(level) // 2 * 2 :]
            level = client.map(operator.add, level[0:-1:2], level[1::2], pure=False) + rest
        return [level[0]]

    def check(self, results: Sequence[Any]) -> None:
        last = self._leaves() - 1
        self._compare(results[0], last * (last + 1) * (2 * last + 1) // 6)

    def _leaves(self) -> int:
        return max(10, round(400 * self.scale))


class Array(Stage):
    """A dask.array: transpose, subtract the mean of every column, sum the squares."""

    name = "dask.array"
    needs = ("numpy",)
    CHUNK = 200

    def start(self, client: Client) -> list[Future]:
        import dask.array as da

        n = self._side()
        x = da.arange(n * n, chunks=self.CHUNK * n).reshape((n, n))
        x = x.rechunk((self.CHUNK, self.CHUNK)) % 1000
        x = x + x.T
        x = (x - x.mean(axis=0)) ** 2
        futures: list[Future] = client.compute([x.sum(axis=0), x.max()])
        return futures

    def check(self, results: Sequence[Any]) -> None:
        import numpy as np

        n = self._side()
        x: Any = np.arange(n * n).reshape((n, n)) % 1000
        x = x + x.T
        x = (x - x.mean(axis=0)) ** 2
        columns, largest = results
        if not np.allclose(columns, x.sum(axis=0), rtol=1e-9):
            raise WrongResult(f"{self.name}: wrong sums of columns")
        if not np.isclose(largest, x.max(), rtol=1e-9):
            raise WrongResult(f"{self.name}: wrong result: {largest}, expected {x.max()}")

    def _side(self) -> int:
        return self.CHUNK * max(2, round(10 * math.sqrt(self.scale)))


def make_orders(part: int, rows: int) -> Any:
    """One part of the table of orders, the same wherever it is made (a pandas.DataFrame)."""
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(part)
    return pd.DataFrame(
        {
            "customer": random.integers(0, CUSTOMERS, rows),
            "amount": random.integers(1, 10_000, rows),
        }
    )


def make_customers(part: int, parts: int) -> Any:
    """One of ``parts`` parts of the table of customers (a pandas.DataFrame)."""
    import numpy as np
    import pandas as pd

    customers = np.arange(part, CUSTOMERS, parts)
    return pd.DataFrame({"customer": customers, "region": customers * 7919 % 12})


CUSTOMERS = 5000


class DataFrame(Stage):
    """A dask.dataframe: orders and customers are shuffled to meet, then summed by region."""

    name = "dask.dataframe"
    needs = ("pandas", "pyarrow")

    def start(self, client: Client) -> list[Future]:
        import dask.dataframe as dd

        parts, rows = self._size()
        orders = dd.from_map(make_orders, range(parts), rows=rows, meta=make_orders(0, 1))
        customers = dd.from_map(
            make_customers, range(parts), parts=parts, meta=make_customers(0, parts)
        )
        joined = orders.merge(customers, on="customer", shuffle_method="p2p", broadcast=False)
        return [client.compute(joined.groupby("region").amount.sum())]

    def check(self, results: Sequence[Any]) -> None:
        import pandas as pd

        parts, rows = self._size()
        orders = pd.concat([make_orders(part, rows) for part in range(parts)])
        customers = pd.concat([make_customers(part, parts) for part in range(parts)])
        expected = orders.merge(customers, on="customer").groupby("region").amount.sum()
        found = {int(region): int(amount) for region, amount in results[0].items()}
        self._compare(found, {int(region): int(amount) for region, amount in expected.items()})

    def _size(self) -> tuple[int, int]:
        """The numbers of parts of either table, and of orders in a part."""
        side = math.sqrt(self.scale)
        return max(2, round(12 * side)), max(100, round(40_000 * side))


STAGES: tuple[type[Stage], ...] = (Map, Submit, Chain, Tree, Array, DataFrame)
