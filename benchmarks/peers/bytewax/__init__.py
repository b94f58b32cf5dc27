"""Bytewax: the job as a dataflow of batches, one worker."""
