"""Ends of answers: which short ones are cut off, and which need no sign at their end."""

import pytest

from server.data.rules.answer_ends import stops_early

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    "answer",
    [
        "The answer to the question is the",
        "The workshop mends tubes and",
        "Die Werkstatt öffnet um neun und",
        "We sell tires, chains,",
        "To mend a tube, take these steps:",
        "A: Ann Miller (",
        '"Comfort for your home with our',
        "No. A proxy server is not only used to conceal",
        "The workshop stores bicycles. Storage costs money in the winter",
        "Yeast is a type of fungus that plays a crucial role in the food industry, particularly in",
        "A thermostat is a part of a home that turns its heat on or off, so as to keep each room",
        "川は広くて船は古い。そして島の地図をたくさん持って",
        "That is it.\n```python\nprint(1)",
    ],
)
def test_an_answer_that_stops_within_a_sentence_is_cut_off(answer: str) -> None:
    assert stops_early(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Paris",
        "42",
        "32 euros",
        "B",
        "Option B",
        "The answer is a",
        "At 14 Mill Lane, behind the station",
        "Tuesday to Saturday, from 9 in the morning to 6 in the evening",
        "Ich rufe dich morgen an",
        "Yes, we mend electric bicycles, except for their motors and batteries",
        "Yes! Paris",
        "Each box has eight. So the boxes have together 24",
        "no worries. bring the keys to the shop and wait",
        "You will find all of it there. Please read more at https://example.org/shop",
        "J. R. R. Tolkien",
        "The U.S. Army Corps of Engineers",
        "It costs approx. 5 euros for each of the days",
        "red, green, blue, yellow, orange, violet, white, black, brown, pink, gray, cyan, teal, lime, gold, tan, plum",
        "In the Shadow of the City: A Tale of Unforeseen Financial Imperatives in the Last Days of a Northern Kingdom",
        "SELECT name FROM users WHERE age > 30 AND city = 'Paris' ORDER BY name DESC LIMIT 10 OFFSET 20 AND more of it",
        "I am sorry :(",
        "The river is wide.\n\nYours, Ann",
        "1. Take the tube out\n2. Mend it",
        "แม่น้ำกว้างและเรือเก่า",
        "東京です",
    ],
)
def test_an_answer_that_needs_no_sign_at_its_end_is_not_cut_off(answer: str) -> None:
    assert not stops_early(answer)
