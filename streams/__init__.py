"""The running program: the only place that knows Faust, the environment and the clock."""
