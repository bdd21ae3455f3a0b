"""Describes failures of the network for error messages."""


def describe_failure(error: Exception, timeout_s: float) -> str:
    """Describe what `requests` raised, without the address, which the caller's message names."""
    import requests  # slow to import, and few corpora need it

    if isinstance(error, requests.Timeout):
        return f"no answer within {timeout_s:g} s"
    if isinstance(error, requests.HTTPError):
        return f"HTTP status {error.response.status_code}"
    inner = error.args[0] if isinstance(error, requests.RequestException) and error.args else error
    return str(getattr(inner, "reason", inner))
