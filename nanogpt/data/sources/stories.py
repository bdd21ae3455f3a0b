"""Short stories for children, drawn from a grammar: who they are about, one of ten plots, and a bedtime.

What is chosen early comes back late (names, a pet and its voice, a place, a thing, the day), so a model
that only sees the last few words pays again for what one that reads the whole story knows.
"""

from nanogpt.data.sources.grammar import Grammar
from nanogpt.data.sources.story_words import TABLES

PLOT = ["{LOST}", "{BROKEN}", "{NEWCOMER}", "{SHARED}", "{AFRAID}", "{CAKE}", "{RAINY}", "{GARDEN}", "{RACE}", "{MAP}"]
OPENING = {
    "TEXT": ["{OPENING}\n\n{PLOT}\n\n{BEDTIME}"],
    "OPENING": [
        "{hero=HERO}, a {trait=TRAIT} {hero.child} fond of {DOING}, lived in {HOME} {WHERE} with {kin=KIN} and"
        " {pet=PET.a} called {call=PETNAME}.",
        "{^ONCE} there was a {trait=TRAIT} {hero=HERO.child} named {hero}. {^hero.his} home was {HOME} {WHERE}, and"
        " {hero.he} shared it with {kin=KIN} and {pet=PET.a} called {call=PETNAME}. {^hero.he} loved {DOING}.",
        "In {HOME} {WHERE} lived {kin=KIN} and a {trait=TRAIT} {hero=HERO.child}. The {hero.child} was {hero}, who"
        " liked {DOING}, and {hero.he} had {pet=PET.a} called {call=PETNAME}.",
        "{^pet=PET.a} called {call=PETNAME} belonged to {hero=HERO}, a {trait=TRAIT} {hero.child} good at {DOING}."
        " They lived with {kin=KIN} in {HOME} {WHERE}.",
    ],
    "PLOT": PLOT,
    "BEDTIME": [
        "That night the {pet} {SLEPT} {BED} and dreamed of {FRUIT}, and {hero} felt {MOOD}.",
        'Over some {FRUIT} that night {kin} {SAID}, "{MORAL}." {^hero.he} {HUGGED} {call} and felt {MOOD}.',
        '{kin} tucked the {trait} {hero.child} in under {COLOUR.a} blanket. "{MORAL}," {hero.he} {SAID}, and the'
        " {pet} {pet.sound} {LOUDLY}.",
        'At bedtime, over {COLOUR.a} plate of {FRUIT}, {hero.he} told {kin} about {friend}. "{MORAL}." It had been a'
        " {GOOD} {day}.",
    ],
}

PLOTS = {
    "LOST": [
        "One {SKY} {day=DAY} {hero.he} could not find {hero.his} {COLOUR} {toy=TOY}. {SEARCHED} {HELPER} {^THEN}"
        " the {pet} {STIRRED} and {RAN} to {PLACE}. There, by the {LANDMARK}, {toy.was} the {toy}, {STATE}! {THANKED}",
    ],
    "SEARCHED": [
        "{^hero.he} {LOOKED} {SPOT} and {CORNER}, but found only {JUNK}.",
        "{^hero.he} {LOOKED} {CORNER} and then {SPOT}, where there was nothing but {JUNK}.",
    ],
    "HELPER": [
        "{friend=FRIEND}, who was {DOING} next door, came to help.",
        '"I want my {toy}!" {hero.he} {SAID} to {friend=FRIEND}, who was {DOING}.',
    ],
    "THANKED": [
        "{^hero.he} put {toy.them} {SPOT}, thanked {friend}, and {GAVE} {friend.him} {JUNK}.",
        "{friend} {SMILED}, and the {pet} got some {CREAM} for finding {toy.them}.",
    ],
    "BROKEN": [
        "{^hero.he} loved {hero.his} {COLOUR} {thing=BREAKABLE}. But one {SKY} {day=DAY}, {USE}, the {thing.part}"
        " {SNAP}. {CARRIED} The {mender} took {TOOL} and some {SUPPLY}, and {mender.he} worked on the {thing.part}"
        " for {SPAN}. {WORKED}",
    ],
    "CARRIED": [
        '"Do not cry," {SAID} {friend=FRIEND}, who was {DOING}. They took the {thing} to the {mender=MENDER} near'
        " {PLACE}.",
        "{friend=FRIEND} stopped {DOING} and knew what to do: the {mender=MENDER} by {PLACE} could mend the {thing}.",
    ],
    "WORKED": [
        "{^THEN} the {thing} was whole again, and {hero.he} paid with {JUNK} and {SHARD}.",
        '"Good as new," {SAID} the {mender}, and {hero.he} kept it {SPOT} from then on.',
    ],
    "NEWCOMER": [
        "One {SKY} {day=DAY} a new {friend=FRIEND.child} came to school. {^friend.his} name was {friend} and"
        " {friend.he} came from {FROM}. {LONELY} {^friend.he} showed {hero.him} {friend.his} {COLOUR} {toy=TOY}, and"
        " {hero.he} found {toy.them} {VERY} fine. {PLAYED}",
    ],
    "LONELY": [
        "{^friend.he} stood alone at {PLACE}, {DOING}, until the {pet} {STIRRED} and {RAN} up.",
        "Nobody spoke to {friend.him}. {^THEN} {hero.he} saw {friend.him} {DOING} at {PLACE} and {GAVE} {friend.him}"
        " {JUNK}.",
    ],
    "PLAYED": [
        "They played {game=GAME} {USE} {UNTIL}. Now the two play {game} every {day}.",
        '"Do you know {game=GAME}?" {SAID} {friend}. They tried it {USE} {UNTIL}, and the {toy} {toy.was} the prize.',
    ],
    "SHARED": [
        "One {SKY} {day=DAY} {kin} {GAVE} {hero.him} {number=NUMBER} {fruit=FRUIT} in {COLOUR.a} bag. {HUNGRY}"
        ' {^hero.he} {WANTED} to keep all {number} {fruit}. But {kin} used to say, "{PROVERB}." {HALVED}',
    ],
    "HUNGRY": [
        "At {PLACE} {hero.he} met {friend=FRIEND}, who was {DOING} and had nothing to eat.",
        "{friend=FRIEND} was {DOING} near {PLACE} and looked {VERY} hungry.",
    ],
    "HALVED": [
        "So {friend} got {number.half} {fruit} and {hero.he} kept {number.half}. They ate them {USE} {UNTIL}.",
        "{^hero.he} opened the bag, and {friend} took {number.half}. They sat there {UNTIL}, and the {pet} {STIRRED}.",
    ],
    "AFRAID": [
        "{^hero.he} was afraid of {fear=FEAR}. One {SKY} {day=DAY} {hero.he} was {DOING} at {PLACE} with"
        ' {friend=FRIEND}, who {WANTED} to {fear.face}. {HELD} "{ADVICE}," {SAID} {friend}. {DARED}',
    ],
    "HELD": [
        "{^hero.he} hid behind {hero.his} {COLOUR} {toy=TOY} and {SHOOK}.",
        "{^hero.he} held {hero.his} {COLOUR} {toy=TOY} tight and {SHOOK}.",
    ],
    "DARED": [
        'It took {SPAN}, but then {hero.he} dropped the {toy} and did it too. "{CRY}!" {SAID} {kin}. "You can'
        ' {fear.face}!"',
        "{call} {STIRRED}, and after {SPAN} {hero.he} put the {toy} {SPOT}. Now {hero.he} can {fear.face} and is not"
        " afraid at all.",
    ],
    "CAKE": [
        "{day=DAY} was the birthday of {friend=FRIEND}, and {hero.he} and {kin} baked {friend.him} a cake. It was a"
        " {flavour=FLAVOUR} cake with {topping=TOPPING}. They stirred {POWDER} and {CREAM} in {COLOUR.a} bowl for"
        " {SPAN}. {HIDDEN} {GUEST}",
    ],
    "HIDDEN": [
        "They hid the cake {SPOT}, but the {pet} licked the {topping}.",
        "While it stood {SPOT}, the {pet} {pet.sound} {LOUDLY} at the {topping}.",
    ],
    "GUEST": [
        '{friend} had been {DOING} at {PLACE} and knew nothing. "{CRY}!" {friend.he} {SAID}. "A {flavour} cake!"',
        "When {friend} came in from {DOING} and saw the {topping}, {friend.he} {GAVE} them {JUNK} and {SAID},"
        ' "{CRY}! I love {flavour}!"',
    ],
    "RAINY": [
        "One {day=DAY} it rained and rained, and {hero.he} could not go to {PLACE}. {BORED} They built a"
        " {building=BUILDING} out of {STUFF} and {CLOTH}. Inside the {building} they were {role=ROLE} and guarded"
        " {hero.his} {COLOUR} {toy=TOY}. {STOPPED}",
    ],
    "BORED": [
        "{friend=FRIEND} knocked with {JUNK} in {friend.his} hand and water in {friend.his} shoes.",
        "{friend=FRIEND} stood at the door, as wet as the {pet} and tired of {DOING}.",
    ],
    "STOPPED": [
        "{^UNTIL} they watched the {toy}, and the {pet} {STIRRED}. {^THEN} it was dry, but nobody went out.",
        "{^THEN} the rain stopped, and the two {role} {LOOKED} {CORNER} for {JUNK} {UNTIL}.",
    ],
    "GARDEN": [
        "One {SKY} {day=DAY} {kin} {GAVE} {hero.him} {number=NUMBER} {plant=PLANT} seeds."
        " {hero} planted them {CORNER} and watered them from {COLOUR.a} can. {WAITED} {^THEN} all {number} came up,"
        " and one {plant} plant grew as high as {TALL}. {COOKED}",
    ],
    "WAITED": [
        'For {WEEKS} nothing grew. "{ADVICE}," {SAID} {friend=FRIEND}, who was {DOING} by the fence.',
        "{friend=FRIEND} liked {DOING} better than waiting, but {hero.he} {LOOKED} {USE} every {day} for {WEEKS}.",
    ],
    "COOKED": [
        "With {CREAM} and {GREENS} they made {plant} {plant.dish}, and {friend} had two bowls.",
        "{friend} helped to cook {plant} {plant.dish} with {GREENS} for {kin}, and the {pet} {STIRRED}.",
    ],
    "RACE": [
        "{^hero.he} {WANTED} to win the {contest=CONTEST} at {PLACE}. The prize was {prize=PRIZE}. {TRAINED} On"
        " {day=DAY} {friend=FRIEND} in {COLOUR.a} scarf did best, but something {SNAP} and {friend.he} fell. {STOOD}",
    ],
    "TRAINED": [
        "Each day after {DOING}, {hero.he} practised for {SPAN} {USE}.",
        "For {WEEKS} {hero.he} got up early to practise {CORNER}, with the {pet} for company.",
    ],
    "STOOD": [
        '{^hero.he} stopped and helped {friend.him} up. "{CRY}!" {SAID} {kin}. Nobody cared who got {prize}.',
        "{^hero.he} tied the scarf round {friend.his} knee. They lost the {contest}, but {friend.he} {GAVE} {hero.him}"
        " {JUNK} {USE}.",
    ],
    "MAP": [
        "One {SKY} {day=DAY} {hero.he} found a map {SPOT}, drawn in {colour=COLOUR} ink. {READ} {DUG}",
    ],
    "READ": [
        '"Walk {number=NUMBER} steps from the {mark=LANDMARK} to the {LANDMARK}," {SAID} {friend=FRIEND}, who was'
        " good at {DOING}.",
        '{friend=FRIEND} stopped {DOING} to look. It said, "{^number=NUMBER} steps past the {mark=LANDMARK}, near'
        ' {PLACE}."',
    ],
    "DUG": [
        "They counted {number} steps from the {mark} and dug for {SPAN}. The {pet} {STIRRED}: there was {TREASURE},"
        " {STATE}! {^hero.he} {GAVE} it to {kin}.",
        "{^THEN} the {pet} scratched the ground by the {mark}, and they dug {UNTIL}. They found {JUNK}, {SHARD}"
        " and {TREASURE}. The {colour} map had not lied.",
    ],
}

GRAMMAR = Grammar(OPENING | PLOTS, TABLES)
