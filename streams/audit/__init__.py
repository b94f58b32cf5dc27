"""The audit: is everything that was offered stored or rejected once, counted once, and told?"""
