"""The function without telemetry: the baseline."""

from business import failures, process


def handler(event, context):
    """Process an SQS event."""
    return failures(event["Records"], process)
