"""The words of the stories: tables for `nanogpt.data.sources.grammar`, each row as likely as its neighbours."""

GIRLS = "Lily Mia Anna Clara Nora Ella Ruby Daisy Alice Emma Hazel Zoe"
BOYS = "Tom Ben Sam Max Leo Jack Finn Oscar Henry Theo Adam Hugo"
OTHER_GIRLS = "Kate Maya Lucy Amira Pia Olga Priya Sofia Rosa Tara"
OTHER_BOYS = "Paul Omar Kai Ravi Dan Emil Ivan Otto Jamal Yusuf"


def _children(girls: str, boys: str) -> str:
    rows = [f"{name} | she | her | her | girl" for name in girls.split()]
    rows += [f"{name} | he | him | his | boy" for name in boys.split()]
    return ";".join(rows)


def _things(one: str, several: str) -> str:
    rows = [f"{thing} | was | it" for thing in one.split(", ")]
    rows += [f"{thing} | were | them" for thing in several.split(", ")]
    return ";".join(rows)


PEOPLE = {
    "HERO it he him his child": _children(GIRLS, BOYS),
    "FRIEND it he him his child": _children(OTHER_GIRLS, OTHER_BOYS),
    "KIN": """Mama; Papa; Grandma; Grandpa; Aunt Rose; Uncle Fred; Aunt Polly; Uncle Walter; Cousin Edith; Nanny Brown;
        Captain Grey; Doctor Bloom""",
    "TRAIT": """kind; brave; shy; curious; clever; cheerful; patient; quiet; lively; gentle; dreamy; careful; bold;
        merry; polite; stubborn""",
    "MENDER it he": """smith | he; carpenter | she; clockmaker | he; tailor | she; miller | he; sailmaker | she;
        cobbler | he; tinker | she; saddler | he; potter | she; locksmith | he; weaver | she""",
    "PET it a sound": """puppy | a ~ | yapped; kitten | a ~ | mewed; pony | a ~ | neighed; lamb | a ~ | bleated;
        duckling | a ~ | quacked; parrot | a ~ | squawked; piglet | a ~ | squealed; rabbit | a ~ | stamped;
        hamster | a ~ | squeaked; goose | a ~ | honked; donkey | a ~ | brayed; hen | a ~ | clucked;
        frog | a ~ | croaked; turtle | a ~ | blinked; crow | a ~ | cawed; owl | an ~ | hooted;
        squirrel | a ~ | chattered; hedgehog | a ~ | snuffled; monkey | a ~ | whooped; otter | an ~ | whistled""",
    "PETNAME": """Biscuit; Button; Pepper; Muffin; Clover; Pickle; Patch; Dot; Bramble; Waffle; Nutmeg; Thimble; Sparky;
        Bubbles; Marble; Ginger; Pudding; Whisker; Tango; Domino""",
}

PLACES = {
    "HOME": """a small cottage; a tall house; a cosy flat; a farmhouse; an old mill; a wooden cabin; a houseboat;
        a lighthouse; a caravan; a brick house; a crooked tower; a round hut""",
    "WHERE": """by the sea; near the forest; at the edge of town; on a green hill; beside a lake; behind the bakery;
        in a narrow street; across from the school; above the harbour; next to the railway; under tall trees;
        in a sunny valley""",
    "PLACE": """the park; the old barn; the river; the market; the library; the orchard; the station; the duck pond;
        the meadow; the playground; the castle ruin; the church; the post office; the beach; the village well;
        the stone bridge""",
    "SPOT": """under the bed; behind the door; in the cupboard; on the shelf; inside the piano; under the stairs;
        behind the curtain; in the kitchen drawer; beneath the sofa; on top of the wardrobe; in the laundry basket;
        behind the stove; inside the trunk; under the rug; in the pantry; behind the mirror""",
    "CORNER": """in the garden; in the shed; up in the attic; down in the cellar; along the fence; among the roses;
        by the gate; on the porch; near the compost heap; round the back; in the hayloft; beside the henhouse""",
    "BED": """in a slipper; on a cushion; in an old hat; by the fire; under a blanket; at the window; in a basket;
        on the doormat; behind the clock; in a drawer; on a sack of flour; among the socks""",
    "FROM": """the city; the mountains; an island; the far north; the desert; a fishing village; the big forest;
        another country; the south coast; a mining town; the plains; a circus""",
}

THINGS = {
    "COLOUR it a": """red | a ~; blue | a ~; green | a ~; yellow | a ~; orange | an ~; purple | a ~; silver | a ~;
        golden | a ~; white | a ~; black | a ~; pink | a ~; brown | a ~; grey | a ~; striped | a ~; spotted | a ~;
        crimson | a ~""",
    "TOY it was them": _things(
        "kite, ball, doll, drum, whistle, scarf, hat, train, puppet, lantern, bucket, teddy bear, book, flute, bell, "
        "purse, cup, cap, spade, horn",
        "mittens, marbles, boots, skates, beads, blocks, gloves, slippers",
    ),
    "BREAKABLE it part": """wagon | wheel; sledge | runner; clock | spring; chair | leg; music box | lid; cello | bow;
        guitar | string; umbrella | handle; lamp | shade; sailing boat | mast; rocking horse | ear; bicycle | chain;
        swing | rope; teapot | spout; banjo | neck; bookcase | shelf""",
    "STATE": """covered in mud; wet but whole; half buried in leaves; shining in the sun; full of sand;
        warm from the sun; caught on a twig; beside a mushroom; wrapped in ivy; dusty with pollen; under a sleepy cat;
        tangled in grass""",
    "JUNK": """a button; an old sock; three pencils; a spider; a rusty key; a comb; two coins; a feather; a dry leaf;
        a candle; a postcard; a cork; a thimble; a marble; a ticket; a pine cone""",
    "SHARD": "a bent spoon; a broken cup; a fish bone; an empty tin; a snail shell; a horseshoe; a brick; a worm",
    "TOOL": """a hammer; a file; a needle; a saw; a brush; a chisel; a drill; a ruler; a clamp; a knife; a screwdriver;
        an awl""",
    "SUPPLY": "glue; wire; wax; oil; nails; thread; string; paint; leather; varnish; screws; tape",
    "STUFF": "chairs; boxes; brooms; ladders; crates; planks; barrels; baskets; tables; stools; trunks; benches",
    "CLOTH": """sheets; pillows; blankets; cushions; curtains; mattresses; towels; coats; rugs; sacks; tablecloths;
        scarves""",
    "BUILDING": """castle; ship; cave; tent; rocket; submarine; tunnel; palace; theatre; fort; zoo; hospital; bakery;
        spaceship; museum; nest""",
    "ROLE": """pirates; kings; bears; doctors; sailors; wizards; cooks; dragons; knights; explorers; robbers; giants;
        mermaids; teachers; astronauts; wolves""",
    "GAME": """hide and seek; tag; leapfrog; chess; hopscotch; catch; cards; skittles; checkers; football; dominoes;
        charades; snap; cricket; tennis; tug of war""",
    "TREASURE": """a chest of coins; a jar of pearls; a crown; a pocket watch; an old diary; a glass eye;
        a brass telescope; a bag of sweets; a ring; a silver spoon; a music box; a pirate flag; a wooden duck;
        a ship in a bottle; a bundle of letters; a clay pot""",
    "LANDMARK": """oak; windmill; boulder; signpost; scarecrow; fountain; statue; hollow log; chimney; beehive; stile;
        flagpole; haystack; pine; milestone; waterfall""",
}

FOOD = {
    "FRUIT": """apples; plums; cherries; pears; buns; biscuits; tarts; pancakes; peaches; figs; dumplings; pies;
        muffins; chestnuts; sausages; waffles""",
    "NUMBER it half": """four | two; six | three; eight | four; ten | five; twelve | six; fourteen | seven;
        sixteen | eight; eighteen | nine""",
    "FLAVOUR": """chocolate; lemon; honey; vanilla; poppy seed; coconut; banana; ginger; carrot; walnut; raspberry;
        caramel; cinnamon; cherry; hazelnut; plum""",
    "TOPPING": """candles; sprinkles; strawberries; sugar stars; whipped cream; paper flags; marzipan mice; blueberries;
        jelly beans; icing roses; nuts; mint leaves; tiny umbrellas; syrup; gumdrops; marshmallows""",
    "POWDER": "flour; sugar; yeast; salt; cocoa; oats; raisins; spice; semolina; breadcrumbs; seeds; cornmeal",
    "CREAM": "eggs; butter; milk; cream; jam; yoghurt; juice; syrup; cheese; oil; custard; water",
    "GREENS": "parsley; garlic; mint; basil; dill; thyme; chives; sage",
    "PLANT it dish": """pumpkin | soup; bean | stew; sunflower | bread; melon | salad; tomato | sauce; corn | porridge;
        radish | sandwiches; pea | soup; cucumber | salad; onion | pie; beetroot | stew; pepper | pizza""",
}

DAYS = {
    "SKY": "sunny; windy; grey; frosty; warm; misty; quiet; busy; bright; sleepy; golden; stormy",
    "DAY": "Monday; Tuesday; Wednesday; Thursday; Friday; Saturday; Sunday",
    "SPAN": """an hour; ten minutes; two hours; half a day; a whole evening; three hours; the whole morning;
        most of the night; half an hour; an afternoon; a long while; five minutes""",
    "UNTIL": """until sunset; until supper; until the stars came out; until the bells rang; until their legs ached;
        until the moon rose; until it got dark; until the street lamps glowed; until somebody yawned;
        until the kettle sang; until the shops closed; until dinner""",
    "WEEKS": "one week; two weeks; three weeks; four weeks; five weeks; six weeks; seven weeks; eight weeks",
    "TALL": """the fence; the kitchen window; the roof; the gate; the washing line; the shed; the bicycle;
        the wheelbarrow; the letter box; the chimney pots; the rain barrel; the garden wall""",
}

DEEDS = {
    "DOING": """reading; painting the fence; feeding ducks; flying paper planes; baking bread; picking berries;
        whistling; sweeping leaves; counting clouds; knitting; chopping wood; hanging up washing; digging;
        drawing maps; eating a pear; singing; fixing a net; washing a window; playing the violin;
        chasing butterflies""",
    "USE": """by the pond; on the path; in the yard; at school; on the hill; in the lane; at the fair; in the kitchen;
        at a picnic; on the pier; in the square; on the lawn""",
    "SNAP": """snapped; broke; came off; cracked; fell off; got stuck; bent; split; came loose; tore away; burst;
        gave way""",
    "FEAR it face": """the dark | sit in the dark; deep water | swim in deep water; thunder | sleep through thunder;
        ladders | climb ladders; the cellar | go down to the cellar; spiders | hold spiders;
        the rope bridge | cross the rope bridge; the stage | sing on the stage; trains | wave at trains;
        bees | stand among bees; the attic | play in the attic; big waves | jump over big waves; horses | ride horses;
        the dentist | smile at the dentist; the long slide | whoosh down the long slide;
        strangers | talk to strangers""",
    "ADVICE": """Take one small step; Breathe slowly; Count to ten; Hold my hand; Hum a little tune;
        Look straight ahead; Try it with me; Think of something funny; Keep your chin up; Squeeze a lucky stone;
        Whistle loudly; Start with the easy part""",
    "PROVERB": """Joy grows when it is cut in two; An open hand is never empty; Crumbs taste better in company;
        A full basket is heavy; Good things like to travel; Two spoons make a feast; Nobody laughs well alone;
        What you keep goes stale""",
    "CONTEST": """sack race; boat race; spelling contest; snowman contest; singing contest; kite race; pie contest;
        egg race; swimming race; dance contest; sandcastle contest; juggling contest""",
    "PRIZE": """a medal; a cake; a goldfish; a ribbon; a silver cup; a box of chocolates; a balloon; a toffee apple;
        a new bat; a basket of eggs; a paint box; a ham""",
    "MOOD": """proud; happy; warm inside; lucky; light as a feather; glad; calm; grateful; tired but content;
        ten feet tall; full of sunshine; at peace""",
    "CRY": """Hooray; Oh my; How lovely; Goodness; What a day; Look at that; I can hardly believe it; Wonderful;
        Thank you all; Well I never; My favourite; Bless you""",
    "MORAL": """Small paws find great things; Friends make light work; Every cloud passes; Slow hands do good work;
        Hearts are bigger than pockets; Brave is a thing you do; Luck likes company; Tomorrow needs a story;
        Kind words cost nothing; Even rain has a song; Gardens teach waiting; Ask and you may find""",
}

PHRASES = {
    "ONCE": "once upon a time; long ago; not long ago; in those days; some years ago; last year; far away; one summer",
    "THEN": "then; soon; at last; suddenly; a moment later; after a while; all at once; before long",
    "SAID": "said; whispered; called; murmured; replied; sang; muttered; answered",
    "SMILED": "laughed; smiled; grinned; nodded; giggled; clapped; winked; cheered",
    "LOOKED": "looked; searched; peeked; poked about; rummaged; hunted; peered; felt around",
    "RAN": "ran; trotted; hurried; dashed; raced; rushed; hopped; scampered",
    "STIRRED": "sneezed; blinked; jumped up; listened; turned round; looked up; wriggled; sat up",
    "WANTED": "wanted; hoped; longed; meant; planned; decided; tried; wished",
    "SHOOK": "shook; trembled; shivered; froze; sobbed; sighed; gulped; turned pale",
    "GAVE": "gave; handed; passed; brought; offered; bought; tossed; sent",
    "HUGGED": "hugged; kissed; patted; stroked; tickled; cuddled; scratched; brushed",
    "LOUDLY": "softly; loudly; twice; proudly; sleepily; gladly; merrily; three times",
    "SLEPT": "slept; snored; curled up; dozed; snuggled; lay down; rested; yawned",
    "GOOD": "good; fine; long; happy; splendid; lovely; strange; perfect",
    "VERY": "very; rather; quite; terribly; truly; a little; awfully; oddly",
}

TABLES = PEOPLE | PLACES | THINGS | FOOD | DAYS | DEEDS | PHRASES
