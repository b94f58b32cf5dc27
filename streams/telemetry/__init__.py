"""What a worker says of itself: metrics, whether it is ready, and samples of both kept in ClickHouse."""
