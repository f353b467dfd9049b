"""The shipped handler, with a business that fails as a message's field `fault` says; everything else is as shipped.

The fault comes after the effect, where it costs most: the customer is onboarded and nobody is told.
"""

import json
import os
import time

import app

FIRST_DELIVERY = "1"
onboard = app.process


def process(message):
    """Onboard the message's customer, then fail as it says, the first time it is delivered."""
    onboard(message)
    fault = json.loads(message["body"]).get("fault")
    if message["attributes"]["ApproximateReceiveCount"] != FIRST_DELIVERY:
        return
    if fault == "exception":
        raise RuntimeError("as the message asked")
    if fault == "exit":
        os._exit(1)
    if fault == "hang":
        time.sleep(3600)
    if fault == "slow":
        time.sleep(4)


app.process = process
handler = app.handler
