"""Requests to a travel agent, made from our own frames and WordNet's cities, with their slots and aims."""

import random
import re
from collections.abc import Iterator

from scripts.pretrain.skills.corpus import Corpus, Slots
from scripts.pretrain.skills.slots import request
from scripts.pretrain.skills.wording import Wording, after
from scripts.pretrain.sources import Skill

AIM = Wording(
    (
        "What does the traveller ask for?",
        "What is the request about?",
        "What does the person want to know?",
        "Name the purpose of the request.",
        "Which service is wanted?",
        "travel request type",
    ),
    ("aim", "request", "intent", "wants"),
    ("traveller: {x}\nwants:", "{x}\nThe clerk should look up:", "{x}\nlook up:", "{x}\nsubject:"),
)
WORDINGS = {"aim": AIM}
_US = [
    "Boston",
    "Denver",
    "Dallas",
    "Atlanta",
    "Pittsburgh",
    "Baltimore",
    "Philadelphia",
    "Oakland",
    "San Francisco",
    "Washington",
    "New York",
    "Chicago",
    "Seattle",
    "Houston",
    "Detroit",
    "Cleveland",
    "Memphis",
    "Phoenix",
    "Las Vegas",
    "Los Angeles",
    "Miami",
    "Orlando",
    "Tampa",
    "Milwaukee",
    "Minneapolis",
    "Charlotte",
    "Nashville",
    "Indianapolis",
    "Kansas City",
    "Salt Lake City",
    "San Diego",
    "San Jose",
    "Saint Louis",
    "Toronto",
    "Montreal",
    "Newark",
    "Columbus",
    "Cincinnati",
    "London",
    "Paris",
    "Rome",
    "Berlin",
]
_TABLES: dict[str, list[str]] = {
    name: values.split(",")
    for name, values in {
        "day": "Monday,Tuesday,Wednesday,Thursday,Friday,Saturday,Sunday,tomorrow,today,next Monday,next Friday",
        "time": "5 pm,6 am,noon,8 o'clock,10 am,seven in the evening,midnight,4:30,nine,1130 am,2 pm",
        "part": "morning,afternoon,evening,night,early morning,late afternoon",
        "airline": "United,Delta,American Airlines,Continental,Lufthansa,Air Canada,British Airways,Northwest,KLM,TWA",
        "cls": "first class,business class,coach,economy,second class,economy class",
        "trip": "round trip,one way,return",
        "meal": "breakfast,lunch,dinner,a snack,a meal",
        "plane": "a 747,a jet,a 737,a DC10,a propeller plane,an Airbus",
        "number": "100,212,417,1028,73,505,8 11,3724",
        "money": "200 dollars,$350,500 dollars,1000 dollars,$99",
        "cost": "cheapest,lowest priced,least expensive,most expensive,cheap",
        "when": "before,after,around,at,by",
        "code": "Y,F,QX,B,M,AP,QW,H",
        "stop": "nonstop,direct,connecting,with one stop,without stops",
        "month": "January,March,April,May,June,July,August,October,December",
        "nth": "first,second,third,fifth,tenth,twelfth,fourteenth,twentieth,twenty first,thirtieth,4,16,28",
    }.items()
}
_SLOT = {
    "from": "departure city", "to": "arrival city", "via": "stop city", "day": "day", "date": "date", "time": "time",
    "part": "time of day", "airline": "airline", "cls": "class", "trip": "trip kind", "meal": "meal",
    "plane": "plane", "number": "flight number", "money": "price limit", "cost": "price", "code": "fare code",
    "stop": "stops", "in": "city", "when": "",
}  # fmt: skip
_OPEN = (
    "I would like", "I need", "show me", "list", "find me", "please find", "could you give me", "what about",
    "are there",
    "tell me about", "let me see", "I'm looking for", "do you have", "we want", "book me", "can I have", "give me",
)  # fmt: skip
_WHAT = (
    "a flight", "flights", "{cost} flight", "{trip} tickets", "a {stop} flight", "{airline} flights", "a {cls} seat",
    "all {airline} flights", "a {trip} flight on {airline}", "a {cls} ticket", "any plane", "the {cost} {trip} flight",
    "a {part} flight", "the first flight", "the last plane", "the {day} {part} flights", "something {stop}",
)  # fmt: skip
_ROUTE = (
    "from {from} to {to}", "to {to} from {from}", "leaving {from} for {to}", "between {from} and {to}", "to {to}",
    "that goes from {from} to {to} via {via}", "out of {from}", "{from} to {to}",
    "departing {from} and arriving in {to}",
    "from {from} to {to} with a stop in {via}",
)  # fmt: skip
_WHEN = (
    "on {day}", "on {date}", "{when} {time}", "{day} {part}", "in the {part}", "on {day} {when} {time}", "",
    "that arrives {when} {time}", "leaving on {date} {when} {time}", "coming back on {day}", "which serves {meal}",
    "for less than {money}", "on {plane}", "in {cls}", "",
)  # fmt: skip
AIMS: dict[str, tuple[str, ...]] = {
    "flights": ("{open} {what} {route} {time_}", "{open} {what} {route} {time_}", "{what} {route} {time_} please"),
    "fares": (
        "how much is {what} {route}", "what does {what} {route} cost", "{open} the fares {route} {time_}",
        "what is the {cost} {trip} fare {route}", "price of {what} {route}", "{trip} fares {route} under {money}",
    ),
    "airlines": (
        "which airlines fly {route}", "what carrier goes {route} {time_}", "name the airlines that serve {in}",
        "does {airline} fly {route}", "who flies {route} {time_}", "airlines with {stop} service {route}",
    ),
    "ground transport": (
        "how do I get from the airport into {in}", "is there a bus to downtown {in}", "{open} a rental car in {in}",
        "what ground transport is there in {in}", "taxi from the airport of {in} to the centre",
        "limousine in {in} {time_}",
    ),
    "fare code": (
        "what does fare code {code} mean", "explain the code {code}", "what is restriction {code}",
        "what does {code} stand for on my ticket",
    ),
    "aircraft": (
        "what kind of plane flies {route}", "which aircraft is used on {airline} {number}", "is it {plane} {route}",
        "{open} the type of aircraft on the {part} flight {route}", "how many seats does {plane} have",
    ),
    "flight time": (
        "when does the {airline} flight {route} leave", "what time does flight {number} arrive in {in}",
        "how long is the flight {route}", "{open} departure times {route} on {day}", "schedule of flights {route}",
    ),
    "airport": (
        "how far is the airport from {in}", "which airports are near {in}", "where is the airport of {in}",
        "which airport does {airline} use in {in}", "name of the {in} airport",
    ),
    "meals": ("is {meal} served on flight {number}", "does {airline} {number} serve {meal}", "{open} meals {route}"),
    "flight number": ("what is the number of the {airline} flight {route}", "flight number {route} {time_}"),
}  # fmt: skip


class Trips:
    """Fills the frames and keeps track of the slots."""

    def __init__(self, corpus: Corpus) -> None:
        world = [
            name for name, kind in corpus.wordnet.names.items() if kind == "city" and name.isascii() and name.isalpha()
        ]
        self.cities = world

    def _value(self, rng: random.Random, field: str) -> str:
        if field in ("from", "to", "via", "in"):
            return rng.choice(_US if rng.random() < 0.6 else self.cities)
        if field == "date":
            return f"{rng.choice(_TABLES['month'])} {rng.choice(_TABLES['nth'])}"
        return rng.choice(_TABLES[field])

    def one(self, rng: random.Random) -> tuple[str, Slots, str]:
        """Make one request as (text, pieces with slot names, aim); half of them in lower case."""
        aim = rng.choices(list(AIMS), [5, 2, 2, 2, 1, 1, 2, 1, 1, 1])[0]
        frame = rng.choice(AIMS[aim]).replace("{open}", rng.choice(_OPEN)).replace("{what}", rng.choice(_WHAT))
        frame = frame.replace("{route}", rng.choice(_ROUTE)).replace("{time_}", rng.choice(_WHEN)).strip()
        lower = rng.random() < 0.6
        pieces: Slots = []
        for part in re.split(r"(\{\w+\})", frame):
            name = part[1:-1] if part.startswith("{") else ""
            text = (self._value(rng, name) if name else part).strip()
            if text:
                pieces.append((text.lower() if lower else text, _SLOT[name] if name else ""))
        return " ".join(text for text, _ in pieces), pieces, aim


def travel(corpus: Corpus, rng: random.Random) -> Iterator[Skill]:
    """Slots and aims of travel requests, without end."""
    trips = Trips(corpus)
    while True:
        text, pieces, aim = trips.one(rng)
        if rng.random() < 0.35:
            shown = text
            if rng.random() < 0.3:
                options = [*rng.sample([other for other in AIMS if other != aim], 3), aim]
                rng.shuffle(options)
                shown = f"{text}\n{rng.choice((', ', ' or ', ' / ')).join(options)}"
            prompt = AIM.prompt(rng, shown)
            yield Skill("templates", "travel aim", prompt, after(prompt, aim))
        else:
            yield from (
                Skill(skill.source, f"travel {skill.task}", skill.prompt, skill.answer)
                for skill in request(rng, "templates", text, pieces)
            )
