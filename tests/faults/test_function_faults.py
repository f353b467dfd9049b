"""What the function does: its business raises, hangs or takes the whole process with it."""


def test_business_raises(drill):
    with drill.stack.mapping.disabled():
        drill.load(4)
        drill.load(1, fault="exception")
    row = drill.account()
    assert (row.processed, row.lost) == (5, 0)


def test_runtime_exits(drill):
    with drill.stack.mapping.disabled():
        drill.load(4)
        drill.load(1, fault="exit")
    with drill.fault("onboarding-lambda"):
        drill.settle()
    row = drill.account()
    assert (row.processed, row.lost) == (5, 0)
