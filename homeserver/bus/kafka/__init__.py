"""The bus over Apache Kafka: `bus.KafkaBus`. Imported only where `bus.uri` says kafka.

What other programs read from it is a public contract: `docs/kafka.md` and `schemas/kafka/`.
"""
