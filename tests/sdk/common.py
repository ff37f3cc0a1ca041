"""What every SDK's test needs: the demo's card, what arrived at the sandbox, and the settled row."""

import json
import sqlite3
import sys
import time
import urllib.request

card = json.loads(sys.argv[1])
database = sys.argv[2]


def arrived():
    with urllib.request.urlopen(card["sandbox_url"] + "/sandbox/requests?limit=1") as answer:
        return json.load(answer)["requests"][0]


def row_of(request_id):
    """The settled usage row, read from the database as an auditor would."""
    for _ in range(100):
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            connection.row_factory = sqlite3.Row
            query = "SELECT * FROM usage WHERE id = ? AND state <> 'pending'"
            row = connection.execute(query, (bytes.fromhex(request_id.replace("-", "")),)).fetchone()
        if row:
            return row
        time.sleep(0.05)
    raise AssertionError(f"no settled row for {request_id}")


def expect(error, code, call, code_of):
    """The call raises the SDK's own class with Keyward's code, at once, and nothing goes out."""
    before = arrived()["at"]
    started = time.monotonic()
    try:
        call()
    except error as caught:
        assert code_of(caught) == code, (code_of(caught), code)
        assert time.monotonic() - started < 0.4, "a refusal must not be retried"
        assert arrived()["at"] == before, "nothing may go out"
        return caught
    raise AssertionError(f"{error.__name__} was not raised")
