"""SQS in memory, fast enough to be no limit: queue_server.py PORT null|queue.

"null" accepts and forgets messages; "queue" keeps and delivers them, with visibility timeouts, but no dead letters.
Wire format: AWS JSON 1.0, https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/
"""

import asyncio
import contextlib
import hashlib
import json
import sys
import time
import uuid
from collections import defaultdict, deque

VISIBILITY_SECONDS = 90


class _Queue:
    """The messages of one queue: waiting, and delivered but not deleted."""

    def __init__(self):
        self.waiting = deque()
        self.delivered = {}  # {receipt handle: (message, time.monotonic() when it is visible again)}
        self.arrived = asyncio.Event()

    def put(self, message):
        self.waiting.append(message)
        self.arrived.set()

    def take(self, count):
        now = time.monotonic()
        for handle in [handle for handle, (_, until) in self.delivered.items() if until < now]:
            self.put(self.delivered.pop(handle)[0])
        taken = [self.waiting.popleft() for _ in range(min(count, len(self.waiting)))]
        if not self.waiting:
            self.arrived.clear()
        for message in taken:
            message["ReceiptHandle"] = uuid.uuid4().hex
            attributes = message["Attributes"]
            attributes["ApproximateReceiveCount"] = str(int(attributes["ApproximateReceiveCount"]) + 1)
            self.delivered[message["ReceiptHandle"]] = (message, now + VISIBILITY_SECONDS)
        return taken


class _Sqs:
    """The operations; each gets and returns the JSON of one call."""

    def __init__(self, keep):
        self._keep = keep
        self._queues = defaultdict(_Queue)

    def _queue(self, call):
        return self._queues[call["QueueUrl"].rsplit("/", 1)[-1]]

    def SendMessage(self, call):
        body, attributes = call["MessageBody"], call.get("MessageAttributes", {})
        response = {"MessageId": str(uuid.uuid4()), "MD5OfMessageBody": hashlib.md5(body.encode()).hexdigest()}
        if attributes:
            response["MD5OfMessageAttributes"] = digest(attributes)
        if self._keep:
            now = str(int(time.time() * 1000))
            details = {"ApproximateReceiveCount": "0", "SentTimestamp": now, "SenderId": "local"}
            kept = {"MessageId": response["MessageId"], "Body": body, "MD5OfBody": response["MD5OfMessageBody"]}
            self._queue(call).put({**kept, "MessageAttributes": attributes, "Attributes": details})
        return response

    def SendMessageBatch(self, call):
        sent = [{**self.SendMessage({**call, **entry}), "Id": entry["Id"]} for entry in call["Entries"]]
        return {"Successful": sent, "Failed": []}

    async def ReceiveMessage(self, call):
        queue, count = self._queue(call), call.get("MaxNumberOfMessages", 1)
        if not (taken := queue.take(count)) and call.get("WaitTimeSeconds"):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(queue.arrived.wait(), call["WaitTimeSeconds"])
            taken = queue.take(count)
        return {"Messages": taken} if taken else {}

    def DeleteMessageBatch(self, call):
        for entry in call["Entries"]:
            self._queue(call).delivered.pop(entry["ReceiptHandle"], None)
        return {"Successful": [{"Id": entry["Id"]} for entry in call["Entries"]], "Failed": []}

    def GetQueueAttributes(self, call):
        queue = self._queue(call)
        attributes = {
            "QueueArn": f"arn:aws:sqs:us-east-1:{0:012}:{call['QueueUrl'].rsplit('/', 1)[-1]}",
            "ApproximateNumberOfMessages": str(len(queue.waiting)),
            "ApproximateNumberOfMessagesNotVisible": str(len(queue.delivered)),
        }
        return {"Attributes": {name: attributes[name] for name in call["AttributeNames"]}}


def digest(attributes):
    """Return the MD5 of message attributes of the type String.

    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html
    """
    pieces = hashlib.md5()
    for name, attribute in sorted(attributes.items()):
        for number, text in enumerate((name, attribute["DataType"], attribute["StringValue"])):
            pieces.update(b"\x01" if number == 2 else b"")
            pieces.update(len(text.encode()).to_bytes(4, "big") + text.encode())
    return pieces.hexdigest()


async def serve(sqs, reader, writer):
    """Serve the requests of one connection."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            response = {}
            if target := headers.get("x-amz-target"):
                operation = next(name for name in dir(sqs) if name.lower() == target.rsplit(".", 1)[-1])
                response = getattr(sqs, operation)(json.loads(body))
                response = await response if asyncio.iscoroutine(response) else response
            content = b"" if head.startswith("head") else json.dumps(response).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\nx-amzn-requestid: 0\r\ncontent-type: application/x-amz-json-1.0\r\n"
                b"content-length: %d\r\n\r\n%s" % (len(content), content)
            )
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main(port, mode):
    """Serve until the process is ended."""
    sqs = _Sqs(mode == "queue")
    server = await asyncio.start_server(lambda *ends: serve(sqs, *ends), "127.0.0.1", port, limit=2**21)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
