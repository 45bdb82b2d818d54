"""What is asked of an agent in a session of many turns: a small project, and tasks whose results can be checked."""

from dataclasses import dataclass

FILES = {
    "inventory.py": """\
class Inventory:
    def __init__(self):
        self.items = {}

    def add(self, name, quantity):
        self.items[name] = quantity

    def remove(self, name, quantity):
        self.items[name] -= quantity
""",
    "test_inventory.py": """\
import unittest

from inventory import Inventory


class InventoryTest(unittest.TestCase):
    def test_add(self):
        inventory = Inventory()
        inventory.add("nail", 2)
        self.assertEqual(inventory.items["nail"], 2)


if __name__ == "__main__":
    unittest.main()
""",
}


@dataclass(frozen=True, slots=True)
class Task:
    """check: a program in the project's folder that ends without an error if the task is done."""

    name: str
    text: str
    check: str


_STOCKED = """\
import inventory
s = (getattr(inventory, "Stock", None) or inventory.Inventory)()
s.add("nail", 2)
"""
_TESTS = """\
import subprocess, sys
run = subprocess.run([sys.executable, "-m", "unittest"], capture_output=True, text=True)
assert run.returncode == 0, run.stderr
"""

TASKS = (
    Task(
        "fix a bug",
        "In inventory.py, add forgets the quantity that was there before. Fix it: add must add to the old quantity.",
        _STOCKED + "s.add('nail', 3); assert s.items['nail'] == 5",
    ),
    Task(
        "add a method",
        "Add a method total to Inventory that returns the sum of all quantities.",
        _STOCKED + "s.add('screw', 4); assert s.total() == 6",
    ),
    Task(
        "add a test",
        "Add a test of total to test_inventory.py.",
        _TESTS + "assert 'total' in open('test_inventory.py').read()",
    ),
    Task(
        "raise an error",
        "Make remove raise ValueError if there are fewer of the item than should be removed.",
        _STOCKED + "try: s.remove('nail', 3)\nexcept ValueError: pass\nelse: raise SystemExit(1)",
    ),
    Task(
        "rename a class",
        "Rename the class Inventory to Stock in inventory.py and in test_inventory.py.",
        _TESTS + "import inventory; inventory.Stock; assert not hasattr(inventory, 'Inventory')",
    ),
    Task(
        "write docstrings",
        "Give each method of Stock in inventory.py a docstring of one line.",
        "from inventory import Stock; assert all(getattr(Stock, name).__doc__ for name in ('add', 'remove', 'total'))",
    ),
    Task(
        "add a function",
        "Add a function load(path) to inventory.py, outside the class. It reads a JSON object of quantities from the"
        " file and returns a Stock with them.",
        "import inventory, json; json.dump({'nail': 3}, open('stock.json', 'w')); "
        "assert inventory.load('stock.json').items == {'nail': 3}",
    ),
    Task(
        "add type hints",
        "Add type hints to the parameters and results of all methods of Stock in inventory.py.",
        "from inventory import Stock; assert Stock.add.__annotations__ and Stock.remove.__annotations__",
    ),
    Task(
        "remove a function",
        "Remove the function load from inventory.py again.",
        _TESTS + "import inventory; assert not hasattr(inventory, 'load')",
    ),
    Task(
        "answer a question",
        "Which methods does Stock have now? Answer in one sentence.",
        "",
    ),
)
