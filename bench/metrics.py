"""What replicas tell of themselves, read from their metrics."""

import asyncio
import re
import time
from collections.abc import Sequence

from bench.http1 import connect

HOST = "127.0.0.1"
_REQUEST = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_DIVIDED_SECONDS = 120.0

Metrics = dict[str, float]
"""The value of each name with its labels."""


async def metrics_at(port: int) -> Metrics:
    """All metrics of the replica that shows them there. Raises OSError."""
    connection = (await connect(HOST, port, 1))[0]
    try:
        response = await connection.request(_REQUEST)
    finally:
        connection.close()
    lines = (line.rpartition(" ") for line in response.body.decode().splitlines() if line[:1] != "#")
    return {name: float(value) for name, _, value in lines}


def shards(metrics: Metrics, name: str) -> dict[int, float]:
    """The sum of a metric over each shard."""
    sums: dict[int, float] = {}
    for key, value in metrics.items():
        if key.startswith(name + "{") and (found := re.search(r'shard="(\d+)"', key)):
            sums[int(found[1])] = sums.get(int(found[1]), 0.0) + value
    return sums


def owned(metrics: Metrics) -> set[int]:
    """The shards whose consumers run there: those that the replica owns."""
    return set(shards(metrics, "weft_consumer_lag"))


async def divided(ports: Sequence[int]) -> None:
    """Wait until these replicas own all shards, each of them one's alone. Raises TimeoutError."""
    stop = time.perf_counter() + _DIVIDED_SECONDS
    while True:
        every = [metrics for port in ports if (metrics := await metrics_at(port))["weft_bus_connected"]]
        own = [owned(metrics) for metrics in every]
        everything = set().union(*(shards(metrics, "weft_log_tail") for metrics in every))
        if (
            len(every) == len(ports)
            and all(own)
            and sum(map(len, own)) == len(set().union(*own)) == len(everything)
        ):
            return
        if time.perf_counter() > stop:
            raise TimeoutError("the shards are not divided among the replicas")
        await asyncio.sleep(0.1)
