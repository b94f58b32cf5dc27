"""Files of an integrator: read, judged as a worker would, published; and what an integrator is given to read."""
