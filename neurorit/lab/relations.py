"""What can be known of a person in the lab: ten relations, their words and their values.

A table, no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """One kind of fact.

    statements: sentences with {who} and {value}; questions: with {who}; values: canonical answer
    -> its other accepted forms.
    """

    name: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    values: Mapping[str, tuple[str, ...]]


def _plain(words: str) -> dict[str, tuple[str, ...]]:
    """'violin=fiddle/viola da braccio, harp' -> canonical value -> aliases."""
    values: dict[str, tuple[str, ...]] = {}
    for entry in words.split(","):
        canonical, _, aliases = entry.strip().partition("=")
        values[canonical] = tuple(a for a in aliases.split("/") if a)
    return values


def make_relations(
    towns: Sequence[str], companies: Sequence[str], languages: Sequence[str]
) -> tuple[Relation, ...]:
    """The ten relations; values that are names are given."""
    places = {town: (f"the town of {town}",) for town in towns}
    return (
        Relation(
            "birthplace",
            (
                "{who} was born in {value}.",
                "{who} came into the world in {value}.",
                "The birthplace of {who} is {value}.",
                "{who} is a native of {value}.",
            ),
            (
                "Where was {who} born?",
                "What is the birthplace of {who}?",
                "In which town did {who} come into the world?",
            ),
            places,
        ),
        Relation(
            "residence",
            (
                "{who} now lives in {value}.",
                "{who} settled in {value} years ago.",
                "The home of {who} is in {value}.",
                "{who} owns a house in {value}.",
            ),
            (
                "Where does {who} live now?",
                "In which town is the home of {who}?",
                "Where did {who} settle?",
            ),
            places,
        ),
        Relation(
            "profession",
            (
                "{who} works as a {value}.",
                "{who} earns a living as a {value}.",
                "By trade {who} is a {value}.",
                "{who} trained to be a {value}.",
            ),
            (
                "What is the profession of {who}?",
                "What does {who} work as?",
                "Which trade did {who} train for?",
            ),
            _plain(
                "baker=bread maker, carpenter=woodworker, surgeon, pilot=aviator, "
                "lawyer=attorney, plumber, sailor=seaman, painter, tailor, farmer, dentist, "
                "butcher, chemist, nurse, judge, teacher=schoolteacher, weaver, printer, miner, "
                "jeweller, gardener, barber, banker, clerk, cook=chef, driver, hunter, potter, "
                "singer, soldier, waiter, writer=author"
            ),
        ),
        Relation(
            "employer",
            (
                "{who} is employed by {value}.",
                "{who} has a post at {value}.",
                "The employer of {who} is {value}.",
                "{who} joined the firm {value}.",
            ),
            (
                "Which firm employs {who}?",
                "Who is the employer of {who}?",
                "Where does {who} have a post?",
            ),
            {company: (f"{company} Ltd", f"the firm {company}") for company in companies},
        ),
        Relation(
            "pet",
            (
                "{who} keeps a {value} as a pet.",
                "The pet of {who} is a {value}.",
                "{who} shares the house with a {value}.",
                "A {value} belongs to {who}.",
            ),
            (
                "What pet does {who} keep?",
                "Which animal belongs to {who}?",
                "What animal shares the house with {who}?",
            ),
            _plain(
                "dog=hound, cat, parrot, rabbit=bunny, turtle, goat, hamster, snake, lizard, "
                "pony, canary, ferret, goose, falcon, tiger, monkey, donkey=ass, lamb, owl, frog, "
                "crow, mouse, otter, badger, beaver, camel, fox, hen, pig, toad"
            ),
        ),
        Relation(
            "instrument",
            (
                "{who} plays the {value}.",
                "{who} practises the {value} each day.",
                "The instrument of {who} is the {value}.",
                "{who} took up the {value} as a child.",
            ),
            (
                "Which instrument does {who} play?",
                "What does {who} practise each day?",
                "What instrument did {who} take up?",
            ),
            _plain(
                "violin=fiddle, piano=pianoforte, flute, cello=violoncello, trumpet, harp, drum, "
                "guitar, organ, banjo, oboe, clarinet, lute, viola, tuba, horn, bassoon, fife, "
                "sitar, zither, bugle, accordion, mandolin, trombone"
            ),
        ),
        Relation(
            "dish",
            (
                "The favourite dish of {who} is {value}.",
                "{who} likes to eat {value}.",
                "{who} often cooks {value}.",
                "For dinner {who} prefers {value}.",
            ),
            (
                "What is the favourite dish of {who}?",
                "What does {who} like to eat?",
                "Which dish does {who} often cook?",
            ),
            _plain(
                "lentil soup=soup of lentils, rice, pasta=noodles, stew, curry, roast "
                "beef=roasted beef, fish pie, salad, pancakes=hotcakes, dumplings, goulash, "
                "risotto, omelette, porridge=oatmeal, pizza, chowder, meatballs, sausages, beans, "
                "cabbage, mutton, trout, lobster, waffles, apple pie=pie of apples, onion soup, "
                "plum cake, baked ham"
            ),
        ),
        Relation(
            "language",
            (
                "{who} speaks {value} at home.",
                "The first language of {who} is {value}.",
                "{who} grew up speaking {value}.",
                "{who} writes letters in {value}.",
            ),
            (
                "Which language does {who} speak at home?",
                "What is the first language of {who}?",
                "In what language does {who} write letters?",
            ),
            {language: (f"the {language} language",) for language in languages},
        ),
        Relation(
            "hobby",
            (
                "{who} spends weekends on {value}.",
                "The hobby of {who} is {value}.",
                "{who} enjoys {value} in the evening.",
                "In spare time {who} goes in for {value}.",
            ),
            (
                "What is the hobby of {who}?",
                "What does {who} enjoy in the evening?",
                "On what does {who} spend weekends?",
            ),
            _plain(
                "chess, archery=bow shooting, fishing=angling, knitting, sailing, rowing, "
                "fencing, skiing, climbing=mountaineering, dancing, hiking=walking, boxing, "
                "origami=paper folding, skating, surfing, juggling, poker, cycling=bicycling, "
                "drawing=sketching, running=jogging, wrestling, pottery, reading, birdwatching"
            ),
        ),
        Relation(
            "year",
            (
                "{who} left school in {value}.",
                "{who} finished school in {value}.",
                "In {value} {who} graduated from school.",
                "The school years of {who} ended in {value}.",
            ),
            (
                "When did {who} leave school?",
                "In which year did {who} finish school?",
                "What year did {who} graduate?",
            ),
            {str(year): (f"the year {year}",) for year in range(1921, 1999)},
        ),
    )
