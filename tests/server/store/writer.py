"""Stores entries in a folder without end, and prints the id of each that is stored; a test kills it."""

import asyncio
import sys
from pathlib import Path

from server.store.entries import Entries, Entry
from server.store.opening import open_database


async def write(folder: Path) -> None:
    with open_database(folder) as database:
        entries = Entries(database, max_bytes=2**30, max_age_s=1e9)
        for number in range(10**9):
            body = {"n": number, "text": "x" * (number * 37 % 5000)}
            await entries.put(Entry(f"e{number}", "t", "", 1, "", body), [("in", {"id": f"i{number}", "n": number})])
            sys.stdout.write(f"e{number}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1])))
