"""make picture: screen.svg, the terminal of a demo that runs, for the front page."""

import contextlib
import io
import re
import time
from functools import partial

from rich.console import Console

import demo
import live
from stack import Stack, poll_until
from trace_viewer import Feed, TraceViewer

FILE = demo.shipped.ROOT / "infrastructure/local/screen.svg"


def main() -> None:
    """Run the demo, send some requests and one that fails once, and draw the screen when all of it is there."""
    console = Console(record=True, file=io.StringIO(), width=80, height=24, force_terminal=True)
    with contextlib.ExitStack() as started:
        feed = started.enter_context(Feed())
        stack = started.enter_context(Stack(demo.RUN_DIR, demo.ports(), 1, viewer_address=feed.address))
        programs = (stack.api, stack.function)
        logs = [live.Log(program.name, started.enter_context(program.log_file.open())) for program in programs]
        viewer = started.enter_context(TraceViewer(feed, demo.RUN_DIR, demo.show_one_request(stack)))
        poll_until(lambda: viewer.page, "the trace viewer", 900)
        source = live.Source(stack, viewer)
        screen = live.Screen(console, source, live.hint(stack))

        def processed(records: int) -> bool:
            """Take what is new; return whether the RED metrics have counted so many records."""
            time.sleep(1)  # between two updates, as in the demo: rates are about the last ten
            source.update()
            screen.add_lines([line for log in logs for line in log.lines()])
            return records <= sum(int(row[3]) for row in source.red.rows() if row[1] == "sqs.process")

        for number in range(2, 12):
            failing = {"simulate": "failure_once"} if number == 11 else {}
            last = demo.post(f"{stack.url}/telemetry/smoke", {"customer_id": f"TEST-{number:03}", **failing})
            poll_until(partial(processed, number), f"record {number} in RED")
        poll_until(partial(processed, 12), "the second delivery")
        console.print(screen.render(source.trace(), source.viewer_state(last["trace_id"])))
    picture = console.export_svg(title="make demo")
    # Without the fonts that it would fetch: a picture in a page may fetch nothing.
    FILE.write_text(re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL))


if __name__ == "__main__":
    main()
