"""What the shipped function does to a message, without anything of its telemetry; the other variants share it."""

import json
import logging
import re

IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,64}")

log = logging.getLogger("onboarding-lambda")
log.setLevel(logging.INFO)


def process(message):
    """Validate one SQS message and log it, as process() in onboarding-lambda/app.py."""
    customer = json.loads(message["body"])
    if not isinstance(customer, dict):
        raise ValueError("the body is not a JSON object")
    for key in ("customer_id", "request_id"):
        if not (isinstance(customer.get(key), str) and IDENTIFIER.fullmatch(customer[key])):
            raise ValueError(f"{key} is not a string of 1 to 64 characters out of A-Z, a-z, 0-9, _ and -")
    ids = (customer["customer_id"], customer["request_id"], message["messageId"])
    log.info("onboarded customer_id=%s request_id=%s message_id=%s", *ids)


def failures(records, process_record):
    """Return the partial batch response after process_record was called with every record."""
    failed = []
    for record in records:
        try:
            process_record(record)
        except Exception as error:
            log.error("failed message_id=%s: %r", record["messageId"], error)
            failed.append(record["messageId"])
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in failed]}
