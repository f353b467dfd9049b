"""Prints the messages in the demo's dead-letter queue, a line each, and leaves them there.

AWS_ENDPOINT_URL_SQS says where SQS is, if not where make demo has it.
"""

import json
import os

from event_source_mapping import DEAD_LETTER_QUEUE, sqs_client

LOCAL = {
    "AWS_ENDPOINT_URL_SQS": "http://127.0.0.1:9324",
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "local",
}


def main() -> None:
    """Print message id, trace context and body of each message."""
    for name, value in LOCAL.items():
        os.environ.setdefault(name, value)
    sqs = sqs_client("us-east-1")
    url = sqs.get_queue_url(QueueName=DEAD_LETTER_QUEUE)["QueueUrl"]
    options = {"MaxNumberOfMessages": 10, "VisibilityTimeout": 0, "MessageAttributeNames": ["All"]}
    for message in sqs.receive_message(QueueUrl=url, **options).get("Messages", []):
        context = {name: value.get("StringValue") for name, value in message.get("MessageAttributes", {}).items()}
        print(json.dumps({"message_id": message["MessageId"], **context, "body": message["Body"]}))


if __name__ == "__main__":
    main()
