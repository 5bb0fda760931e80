"""The open-loop benchmark client; knows the limiter only by HTTP and by its command line."""
