"""The same job, written for other stream processors in the style their documentation recommends."""
