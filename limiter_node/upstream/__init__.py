"""What answers an admitted request: the interface and its implementations. Knows neither the limiter nor our HTTP."""
