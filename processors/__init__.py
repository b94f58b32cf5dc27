"""Pure columnar stages. Nothing here knows Kafka, the clock, the network or a random number."""
