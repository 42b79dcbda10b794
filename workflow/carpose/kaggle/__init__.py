"""The competition's files. No other package reads or writes PredictionString.

Nothing is imported here, so that the workflow can import `identity` quickly when it starts.
"""
