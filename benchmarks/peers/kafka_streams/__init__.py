"""Kafka Streams, in Java: `build` makes it, pom.xml says of what."""
