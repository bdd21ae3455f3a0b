"""What the built-in grammars test: their phenomena, for `nanogpt.evaluation.grammar.minimal_pairs`."""

from nanogpt.data.sources import abstracts, stories
from nanogpt.data.sources.grammar import Grammar
from nanogpt.evaluation.grammar.minimal_pairs import Phenomena

STORIES = Phenomena(
    recalled={
        "pronouns": "hero.he hero.him hero.his friend.he friend.him friend.his mender.he",
        "names": "hero friend call kin",
        "objects": "pet toy thing mender topping flavour building role game plant prize contest mark colour",
        "numbers": "number",
        "halves": "number.half",
        "plurals": "toy.was toy.them",
        "belongings": "pet.sound thing.part plant.dish fear.face",
    },
    opposites={},
    events=[
        "SEARCHED CARRIED LONELY HUNGRY HELD HIDDEN BORED WAITED TRAINED READ",
        "THANKED WORKED PLAYED HALVED DARED GUEST STOPPED COOKED STOOD DUG",
    ],
)

ABSTRACTS = Phenomena(
    recalled={
        "objects": "topic cause effect method unit country",
        "numbers": "count",
        "verbs": "turn turn.did turn.undid",
    },
    opposites={"turn.did": "undid", "turn.undid": "did"},
    events=["AGREED DISAGREED"],
)

GRAMMARS: dict[str, tuple[Grammar, Phenomena]] = {
    "stories": (stories.GRAMMAR, STORIES),
    "abstracts": (abstracts.GRAMMAR, ABSTRACTS),
}


def known_source(source: str, bits: float | None, replaced: int) -> str | None:
    """The built-in source whose grammar drew texts as they are, or None; `bits` and `replaced` as in `bins.Counts`.

    A source of files may have the name of a built-in one, and no grammar draws characters that were replaced.
    """
    return source if source in GRAMMARS and bits is not None and not replaced else None
