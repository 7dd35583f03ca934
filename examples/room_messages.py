"""Prints the messages of a room as they are sent: room_messages.py KAFKA ROOM_ID [TOPIC_PREFIX]

    pip install aiokafka
    python room_messages.py localhost:9092 '!room:example.org'

What the topic holds, and what a program that keeps messages must do about redactions: docs/kafka.md
"""

import asyncio
import json
import sys

from aiokafka import AIOKafkaConsumer


async def main(bootstrap: str, room_id: str, prefix: str = "weft") -> None:
    seen: dict[int, int] = {}
    senders: dict[str, str] = {}
    consumer = AIOKafkaConsumer(
        f"{prefix}.room-log",
        bootstrap_servers=bootstrap,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=8 * 1024 * 1024,
    )
    async with consumer:
        async for message in consumer:
            record = json.loads(message.value)
            # A record may come again: its number tells.
            if record["seq"] <= seen.get(record["shard"], 0):
                continue
            seen[record["shard"]] = record["seq"]
            if record.get("room_id") != room_id:
                continue
            match record["kind"], record.get("type"):
                case "event", "m.room.message":
                    senders[record["event_id"]] = record["sender"]
                    text = record.get("event", {}).get("content", {}).get("body", "")
                    print(f"{record['sender']}: {text}", flush=True)
                case "event", "m.room.redaction":
                    event = record["event"]
                    gone(senders, event.get("redacts") or event["content"].get("redacts"))
                case "rewritten", _:
                    gone(senders, record["target"])


def gone(senders: dict[str, str], event_id: str) -> None:
    if sender := senders.pop(event_id, None):
        print(f"(a message of {sender} is gone)", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
