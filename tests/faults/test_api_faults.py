"""What happens to the API itself, under load."""

import pytest

slow = pytest.mark.slow


@slow
def test_api_worker_ended_in_order_under_load(drill):
    with drill.traffic(threads=4):
        drill.load(10)
        with drill.fault(seconds=2):
            first, _ = drill.workers()
            first.terminate()
        drill.load(10)
    row = drill.account()
    assert (row.accepted, row.ambiguous, row.lost) == (row.processed, 0, 0)


def test_api_worker_killed_under_load(drill):
    with drill.traffic(threads=4, pause=0.02):
        drill.load(10)
        with drill.fault("onboarding-api", seconds=2):
            first, _ = drill.workers()
            first.kill()
        drill.load(10)
    row = drill.account()
    assert row.accepted <= row.processed <= row.accepted + row.ambiguous
    assert row.dropped.keys() <= {"died with process"}


@slow
def test_api_restarted_in_order_under_load(drill):
    with drill.traffic(threads=4):
        drill.load(10)
        with drill.fault():
            drill.restart(drill.stack.api)
        drill.load(10)
    row = drill.account()
    assert row.accepted <= row.processed <= row.accepted + row.ambiguous
    assert row.lost == 0
