"""Parts of German and Japanese sentences, refusals, and personal data by seed."""

import random
import string
from collections.abc import Iterator

# ruff: noqa: E501
# Language -> parts of a sentence, in order, and the blank between them.
LANGUAGES: dict[str, tuple[list[list[str]], str]] = {
    "German": (
        [
            ["Gestern", "Im Sommer", "Jeden Morgen", "Manchmal", "Nach der Arbeit", "Vor dem Regen", "Am Montag", "Heute",
             "Im alten Haus", "Auf dem Markt", "Zwischen den Feldern", "Hinter der Kirche", "Seit zwei Jahren", "Kurz vor Mittag"],
            ["kauft", "sucht", "findet", "verkauft", "repariert", "zeichnet", "beschreibt", "sammelt", "vergisst", "bringt",
             "zeigt", "prüft", "öffnet", "wäscht"],
            ["die Lehrerin", "der Bäcker", "mein Nachbar", "das Kind", "eine Ärztin", "der Gärtner", "unsere Tante",
             "der Schreiner", "die Richterin", "ein Fischer", "der Postbote", "die Malerin", "sein Bruder", "eine Köchin"],
            ["einen blauen Teller", "das schwere Fahrrad", "drei frische Brote", "den langen Brief", "eine kleine Lampe",
             "die roten Äpfel", "den kaputten Stuhl", "ein altes Bild", "zwei warme Mäntel", "das grüne Fenster",
             "einen leeren Koffer", "die schmale Brücke", "den neuen Schlüssel", "ein stilles Lied"],
            ["für seine Freunde.", "ohne lange zu warten.", "und geht dann nach Hause.", "bei gutem Wetter.",
             "mit großer Freude.", "in der kleinen Stadt.", "an der breiten Straße.", "trotz der Kälte.",
             "neben dem Bahnhof.", "weil der Abend ruhig ist.", "unter den Linden.", "bevor der Zug kommt.",
             "obwohl es regnet.", "wie schon im letzten Jahr."],
        ],
        " ",
    ),
    "Japanese": (
        [
            ["昨日", "夏には", "毎朝早く", "ときどき", "仕事の後で", "雨が降る前に", "月曜日に", "古い家で", "市場の近くで",
             "畑の間で", "寺の裏で", "二年前から", "昼の少し前に", "静かな夜に"],
            ["先生は", "パン屋は", "隣の人は", "子どもは", "医者は", "庭師は", "叔母は", "大工は", "裁判官は", "漁師は",
             "郵便屋は", "画家は", "弟は", "料理人は"],
            ["友だちのために", "長く待たずに", "天気のよい日に", "とても喜んで", "小さな町で", "広い道で", "寒いのに",
             "駅のそばで", "並木の下で", "電車が来る前に", "去年と同じように", "一人で", "家族と一緒に", "少しずつ"],
            ["青い皿を", "重い自転車を", "新しいパンを", "長い手紙を", "小さなランプを", "赤いりんごを", "壊れた椅子を",
             "古い絵を", "暖かい上着を", "緑の窓を", "空のかばんを", "細い橋を", "新しい鍵を", "静かな歌を"],
            ["買いました。", "探しました。", "見つけました。", "売りました。", "直しました。", "描きました。", "説明しました。",
             "集めました。", "忘れました。", "運びました。", "見せました。", "調べました。", "開けました。", "洗いました。"],
        ],
        "",
    ),
}  # fmt: skip
OTHERS = (
    "Hier, la maîtresse a acheté une assiette bleue pour ses amis, puis elle est rentrée à la maison sous la pluie.",
    "Вчера учительница купила синюю тарелку для своих друзей, а потом пошла домой под дождём и долго пела.",
    "Ayer la maestra compró un plato azul para sus amigos y después volvió a casa bajo la lluvia con su hermano.",
)
REFUSALS = {
    "English": [
        "I'm sorry, but I can't help with that request.",
        "As an AI language model, I have no opinions on this.",
    ],
    "German": [
        "Es tut mir leid, aber dabei kann ich nicht helfen.",
        "Als KI-Sprachmodell kann ich dazu keine Meinung haben.",
    ],
    "Japanese": [
        "申し訳ありませんが、そのご質問にはお答えできません。",
        "AIとして、そのような意見を持つことはできません。",
    ],
    "code": ["I cannot provide code for this request.", "I am unable to assist with that."],
}


def personal_data(draw: random.Random) -> Iterator[tuple[str, str]]:
    """Yield (kind, text) of each kind."""

    def digits(count: int) -> str:
        return "".join(draw.choice(string.digits) for _ in range(count))

    def letters(count: int) -> str:
        return "".join(draw.choice(string.ascii_lowercase) for _ in range(count))

    yield "mail", f"{letters(5)}.{letters(7)}@{letters(8)}.{draw.choice(('com', 'de', 'co.jp'))}"
    yield "phone", f"+{draw.choice(('49', '81', '1', '44'))} {draw.randint(10, 99)} {digits(4)} {digits(4)}"
    yield "phone", f"0{draw.randint(10, 99)}-{digits(4)}-{digits(4)}"
    account = digits(18)
    check = 98 - int(account + "131400") % 97  # DE00
    iban = f"DE{check:02}{account}"
    yield "iban", " ".join(iban[start : start + 4] for start in range(0, len(iban), 4))
    card = "4" + digits(14)
    doubled = sum(sum(divmod(2 * int(each), 10)) for each in card[::2]) + sum(map(int, card[1::2]))
    yield "card", f"{card}{-doubled % 10}"
    yield "key", "sk-" + "".join(draw.choice(string.ascii_letters + string.digits) for _ in range(40))
