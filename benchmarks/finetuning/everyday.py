"""Everyday questions with the words of right answers, and a comparison of adapters with their base."""

import math
import re
from collections.abc import Mapping, Sequence

# Fine-tuning replays answers to neither these questions nor those about capitals.
EVERYDAY = {
    "What is the capital of Italy?": ("rome",),
    "What is the capital of Germany?": ("berlin",),
    "What is the capital of Spain?": ("madrid",),
    "What is the capital of Russia?": ("moscow",),
    "What is the capital of China?": ("beijing",),
    "What is the capital of England?": ("london",),
    "How many legs does a spider have?": ("eight", "8"),
    "What is 2 plus 3?": ("5", "five"),
    "What is 10 minus 4?": ("6", "six"),
    "What planet do we live on?": ("earth",),
    "What animal barks?": ("dog",),
    "What is the opposite of cold?": ("hot", "warm", "heat"),
    "What is the opposite of day?": ("night",),
    "How many months are in a year?": ("12", "twelve"),
    "What do you call frozen water?": ("ice",),
    "Which star gives us light during the day?": ("sun", "sol"),
    "What color is a ripe banana?": ("yellow",),
    "What is the first letter of the alphabet?": ("is a", "letter a", "['\"]a['\"]"),
    "Who wrote Hamlet?": ("shakespeare",),
    "What is the largest country in the world?": ("russia",),
    "Which gas do we breathe to live?": ("oxygen",),
    "What language is spoken in France?": ("french",),
    "What do you use an umbrella for?": ("rain",),
    "In which city is the Eiffel Tower?": ("paris",),
    "Which month comes after March?": ("april",),
    "Which day comes before Friday?": ("thursday",),
    "How many seconds are in a minute?": ("60", "sixty"),
    "How many days are in a year?": ("365",),
    "How many fingers are on one hand?": ("five", "5"),
    "How many sides does a square have?": ("four", "4"),
    "How many wheels does a bicycle have?": ("two", "2"),
    "What is 5 plus 5?": ("10", "ten"),
    "What is 20 divided by 2?": ("10", "ten"),
    "What is 3 times 3?": ("9", "nine"),
    "What is the opposite of black?": ("white",),
    "What is the opposite of happy?": ("sad", "unhappy", "sadness"),
    "What is the opposite of left?": ("right",),
    "What is the opposite of fast?": ("slow",),
    "What is the opposite of wet?": ("dry",),
    "What is the plural of 'child'?": ("children",),
    "What is the past tense of 'run'?": ("ran",),
    "What color is snow?": ("white",),
    "What color is a ripe strawberry?": ("red",),
    "What color is coal?": ("black",),
    "What animal says meow?": ("cats?",),
    "What animal gives us wool?": ("sheep",),
    "What is a young cat called?": ("kitten",),
    "What animal has a very long neck?": ("giraffes?",),
    "What animal has a trunk?": ("elephants?",),
    "Which bird lives in Antarctica and cannot fly?": ("penguins?",),
    "What do pandas eat?": ("bamboo",),
    "What is the largest land animal?": ("elephant",),
    "What is the fastest land animal?": ("cheetah",),
    "What do caterpillars turn into?": ("butterfly", "butterflies"),
    "What is water made of?": ("hydrogen",),
    "What is H2O?": ("water",),
    "Which planet is called the red planet?": ("mars",),
    "Which planet is famous for its rings?": ("saturn",),
    "What force pulls things to the ground?": ("gravity", "gravitational"),
    "What organ pumps blood through the body?": ("heart",),
    "What organ do we think with?": ("brain",),
    "What do lungs do?": ("breath", "breathe", "breathing", "oxygen", "air"),
    "What is the hardest natural material?": ("diamonds?",),
    "Which ocean is between Europe and America?": ("atlantic",),
    "Which continent is Egypt in?": ("africa",),
    "Which continent is Japan in?": ("asia",),
    "In which country is Sydney?": ("australia",),
    "In which country is the Taj Mahal?": ("india",),
    "In which country are the pyramids of Giza?": ("egypt",),
    "In which country is Mount Fuji?": ("japan",),
    "In which city is the Statue of Liberty?": ("new york",),
    "In which city is Big Ben?": ("london",),
    "In which city is the Colosseum?": ("rome",),
    "What language is spoken in Germany?": ("german",),
    "What language is spoken in Japan?": ("japanese",),
    "What language is spoken in China?": ("chinese", "mandarin"),
    "What is the currency of the United Kingdom?": ("pounds?", "sterling"),
    "What is the currency of India?": ("rupees?",),
    "Who was the first president of the United States?": ("washington",),
    "Who wrote 'Pride and Prejudice'?": ("austen",),
    "Who painted 'The Starry Night'?": ("gogh",),
    "Who developed the theory of relativity?": ("einstein",),
    "Who sailed to America in 1492?": ("columbus",),
    "In which year did World War II end?": ("1945",),
    "In which season is it coldest?": ("winter",),
    "What is the first month of the year?": ("january",),
    "What is the last month of the year?": ("december",),
    "Which meal do people eat in the morning?": ("breakfast",),
    "What do you use to cut paper?": ("scissors",),
    "What do you use to tell the time?": ("clock", "clocks", "watch", "watches"),
    "What is bread made of?": ("flour", "wheat"),
    "What fruit is wine made from?": ("grapes?",),
    "Translate 'hello' into Spanish.": ("hola",),
    "Translate 'water' into Spanish.": ("agua",),
    "What does 'bonjour' mean in English?": ("hello", "good day", "good morning", "hi"),
    "What does CPU stand for?": ("central processing",),
    "Who flies a plane?": ("pilots?",),
    "What do you call your mother's mother?": ("grandmother", "grandma"),
    "What game has kings, queens and pawns?": ("chess",),
    "What instrument has black and white keys?": ("piano",),
}
_CAPITALS = {
    "Poland": ("warsaw",),
    "Austria": ("vienna",),
    "Hungary": ("budapest",),
    "Sweden": ("stockholm",),
    "Denmark": ("copenhagen",),
    "Finland": ("helsinki",),
    "Ireland": ("dublin",),
    "Belgium": ("brussels",),
    "Switzerland": ("bern",),
    "Turkey": ("ankara",),
    "India": ("delhi",),
    "Japan": ("tokyo",),
    "Thailand": ("bangkok",),
    "Vietnam": ("hanoi",),
    "Australia": ("canberra",),
    "Mexico": ("mexico city",),
    "Chile": ("santiago",),
    "Peru": ("lima",),
    "Cuba": ("havana",),
    "Kenya": ("nairobi",),
    "Morocco": ("rabat",),
    "Nigeria": ("abuja",),
    "Iran": ("tehran",),
    "Iraq": ("baghdad",),
    "Romania": ("bucharest",),
    "Ukraine": ("kyiv", "kiev"),
    "Bulgaria": ("sofia",),
    "Serbia": ("belgrade",),
    "Iceland": ("reykjavik",),
    "Scotland": ("edinburgh",),
    "Zambia": ("lusaka",),
    "Colombia": ("bogot.",),
}
CAPITALS = {f"What is the capital of {country}?": words for country, words in _CAPITALS.items()}


def is_right(answer: str, words: Sequence[str]) -> bool:
    """Whether the answer has one of the words, as a whole word. words: regular expressions in lower case."""
    return any(re.search(rf"\b{word}\b", answer.lower()) for word in words)


def compared(questions: Mapping[str, Sequence[str]], answers: Sequence[Sequence[str]]) -> list[str]:
    """Return cells of a table: right answers of the base and of each adapter, and the adapter's change.

    questions: with the words of their right answers. answers: the base's, then each adapter's.
    """
    before, *others = [list(map(is_right, each, questions.values())) for each in answers]
    return [str(sum(before)), *(_beside(before, after) for after in others)]


def _beside(before: Sequence[bool], after: Sequence[bool]) -> str:
    lost = sum(one and not other for one, other in zip(before, after, strict=True))
    gained = sum(other and not one for one, other in zip(before, after, strict=True))
    return f"{sum(after)} (lost {lost}, gained {gained}; p = {sign_test(lost, gained):.2f})"


def num_same(answers: Sequence[Sequence[str]]) -> list[str]:
    """Return cells of a table: answers of each adapter that equal the base's. answers: as in `compared`."""
    base, *others = answers
    return ["", *(str(sum(map(str.__eq__, base, each))) for each in others)]


def sign_test(lost: int, gained: int) -> float:
    """Return the p-value of the two-sided exact test that losses and gains are equally likely."""
    count, fewer = lost + gained, min(lost, gained)
    return min(1.0, 2 * sum(math.comb(count, k) for k in range(fewer + 1)) / 2**count)
