"""The words of the abstracts: eight fields of science, each with its topics, causes, effects, methods and sites.

The tables of a field are named `SYMBOL@field`; a topic's column `kind` leads to them.
"""

TOPICS = {
    "ecology": """coral reefs; oak trees; salt marshes; bumblebees; river otters; alpine meadows; kelp forests;
        earthworms; seabird nests; peat bogs""",
    "astronomy": """galaxies; red giants; binary stars; comets; pulsars; hot planets; star clusters; gas clouds;
        meteor showers; quasars""",
    "materials": """glass fibres; steel alloys; thin films; ceramic tiles; solar cells; carbon foams; rubber seals;
        stone beams; copper wires; batteries""",
    "medicine": """broken hips; asthma patients; newborn infants; new kidneys; nurses; chronic wounds; older dancers;
        nurses at night; heart valves; farm workers""",
    "computing": """hash tables; neural nets; sorting rules; web servers; compilers; chess programs; search trees;
        file systems; routers; spam filters""",
    "linguistics": """young readers; vowels; street signs; verb endings; lullabies; sign poems; proverbs;
        spelling slips; whispered words; loanwords""",
    "geology": """volcanoes; limestone caves; sand dunes; glaciers; faults; river deltas; hot springs; clay soils;
        stone cliffs; geysers""",
    "economics": """small firms; rice markets; street vendors; pension funds; coffee growers; railway fares;
        house prices; young couples; village banks; harbour towns""",
}

CAUSES = {
    "CAUSE@ecology": """drought; warmer water; night lighting; road noise; heavy grazing; acid rain; shore crabs;
        early snowmelt""",
    "CAUSE@astronomy": """strong tides; stellar wind; dark matter; thick dust; rapid rotation; a nearby companion;
        hard braking; repeated flares""",
    "CAUSE@materials": """slow cooling; trapped moisture; harsh light; constant load; fine grains; added carbon;
        polishing; salt spray""",
    "CAUSE@medicine": """poor sleep; daily walking; extra vitamins; early discharge; loud wards; group talks;
        high pollen; late treatment""",
    "CAUSE@computing": """larger caches; random seeding; packet loss; shared memory; sparse input; parallel threads;
        lazy code; wrong labels""",
    "CAUSE@linguistics": """city accents; text messaging; frequent reading; musical training; short vowels;
        foreign travel; older siblings; background chatter""",
    "CAUSE@geology": """frequent quakes; rising groundwater; wind erosion; melting ice; deep faulting; winter frost;
        ocean waves; magma flow""",
    "CAUSE@economics": """higher wages; cheap loans; road tolls; mobile banking; rising rents; longer contracts;
        new motorways; local taxes""",
}

EFFECTS = {
    "EFFECT@ecology": """species richness; breeding success; root depth; seed dispersal; feeding time; body size;
        chick survival; nest density""",
    "EFFECT@astronomy": """orbit time; surface brightness; iron content; spin rate; star formation; disc mass;
        radio noise; tail length""",
    "EFFECT@materials": """tensile strength; crack growth; heat storage; resistance; surface hardness; pore size;
        service life; light absorption""",
    "EFFECT@medicine": """recovery time; blood pressure; lung capacity; pain intensity; hospital stay; reaction speed;
        infection risk; daily dosage""",
    "EFFECT@computing": """running time; memory use; test accuracy; power demand; error rate; lookup speed; code size;
        queue length""",
    "EFFECT@linguistics": """word recall; sentence length; speech tempo; word choice; tone contrast; reading fluency;
        rhyming skill; pause duration""",
    "EFFECT@geology": """sediment thickness; slope stability; mineral content; surface uplift; water salinity;
        grain roundness; gas release; flow velocity""",
    "EFFECT@economics": """household savings; export trade; labour supply; market share; job turnover; price volatility;
        capital spending; food demand""",
}

METHODS = {
    "METHOD@ecology it a": """diver survey | a ~; camera trap | a ~; pollen count | a ~; tagging study | a ~;
        drone census | a ~; soil assay | a ~""",
    "METHOD@astronomy it a": """radio mirror | a ~; spectrograph | a ~; sky survey | a ~; infrared camera | an ~;
        tidal model | a ~; light curve archive | a ~""",
    "METHOD@materials it a": """microscope | a ~; bending test | a ~; furnace trial | a ~; laser scanner | a ~;
        diffraction rig | a ~; lattice model | a ~""",
    "METHOD@medicine it a": """blinded trial | a ~; cohort study | a ~; sleep diary | a ~; blood panel | a ~;
        telephone poll | a ~; chart review | a ~""",
    "METHOD@computing it a": """benchmark suite | a ~; cycle simulator | a ~; code profiler | a ~; formal proof | a ~;
        log replay | a ~; grid search | a ~""",
    "METHOD@linguistics it a": """picture task | a ~; speech corpus | a ~; eye tracker | an ~; listening test | a ~;
        dialect atlas | a ~; reading task | a ~""",
    "METHOD@geology it a": """drill core | a ~; seismic array | a ~; satellite radar | a ~; carbon clock | a ~;
        field map | a ~; flume trial | a ~""",
    "METHOD@economics it a": """panel survey | a ~; lottery game | a ~; tax register | a ~; auction game | an ~;
        trade model | a ~; price index | a ~""",
}

UNITS = {
    "UNIT@ecology": "plots; transects; ponds; nests; hectares; traps",
    "UNIT@astronomy": "spectra; images; orbits; nights; fields; targets",
    "UNIT@materials": "parts; batches; joints; samples; coatings; cycles",
    "UNIT@medicine": "patients; clinics; volunteers; wards; scans; visits",
    "UNIT@computing": "machines; programs; datasets; queries; kernels; traces",
    "UNIT@linguistics": "speakers; tapes; villages; letters; pupils; talks",
    "UNIT@geology": "boreholes; outcrops; valleys; profiles; stations; quarries",
    "UNIT@economics": "households; towns; shops; contracts; farms; banks",
}

GROUPS = {
    "GROUP@ecology": "wet years; shaded sites; young stands; coastal bays; spring; shallow bays",
    "GROUP@astronomy": "old systems; the outer halo; crowded fields; faint sources; the spiral arms; cold gas",
    "GROUP@materials": "thin layers; hot ovens; pure melts; coarse powders; bonded edges; pressed sheets",
    "GROUP@medicine": "smokers; rural areas; women; mild cases; winter; tall adults",
    "GROUP@computing": "small inputs; idle nodes; nested loops; mobile chips; dense graphs; cold starts",
    "GROUP@linguistics": "rapid speech; stressed words; rural schools; tense clauses; formal letters; older texts",
    "GROUP@geology": "steep slopes; dry basins; young basalt; deep water; old fjords; porous rock",
    "GROUP@economics": "poor districts; family firms; port cities; boom years; service jobs; remote valleys",
}

USES = {
    "USE@ecology": "reserves must grow; mowing can wait; rivers need shade; fishing should stop",
    "USE@astronomy": "new images will help; old distances are wrong; star lists need care; planet counts may be biased",
    "USE@materials": "bridges get cheaper; coatings can be thinner; kilns can run cooler; scrap can be used",
    "USE@medicine": "advice must change; tests could start early; doses can be lowered; wards need more staff",
    "USE@computing": "old settings can go; smaller chips suffice; old code can stay; hardware can stay simple",
    "USE@linguistics": "teachers should listen; word lists can grow; grammar can wait; tests should be oral",
    "USE@geology": "hazard maps need redrawing; wells should be moved; dams can be safer; tunnels need better drainage",
    "USE@economics": """subsidies could be smaller; forecasts need caution; rules should be simpler;
        loans should be local""",
}

NUMBERS = {
    "COUNT": "24; 28; 32; 36; 40; 45; 48; 54; 56; 60; 64; 70; 72; 75; 80; 84; 90; 96; 108; 112; 120; 144; 150; 180",
    "PERCENT": "; ".join(map(str, range(11, 43))),
    "SHARE": "; ".join(map(str, range(51, 83))),
    "DIGIT": "0; 1; 2; 3; 4; 5; 6; 7; 8; 9",
    "FEW": "two; three; four; five; six; seven; eight; nine",
    "SPAN": """two weeks; six weeks; three months; five months; eight months; one year; two years; three years;
        four years; six years; ten years; twelve years""",
    "COUNTRY": """Norway; Kenya; Peru; Japan; Spain; Chile; Iceland; Ghana; Canada; Vietnam; Portugal; Finland; Mexico;
        Nepal; Morocco; Estonia; Brazil; Turkey; Poland; Greece; Cuba; Wales; Malta; Oman""",
}

TURNS = {
    "TURN it did undid": """rise | rose | fell; grow | grew | shrank; drop | dropped | climbed;
        decline | declined | increased; improve | improved | worsened; weaken | weakened | strengthened;
        recover | recovered | collapsed; increase | increased | decreased""",
    "DOUBT": """small samples; lost records; seasonal drift; poor scales; selection bias; bad wiring; random error;
        old habits; old software; changing weather; rounding; chance""",
}

PHRASES = {
    "UNCLEAR": "debated; unclear; hard to say; a riddle; open; puzzling; in doubt; a mystery",
    "EXPECTED": "expected; trusted; assumed; wanted; believed; forecast; supposed; required",
    "OFTEN": "in theory; on paper; by and large; on the whole; in general; by luck; in short; as a rule",
    "SELDOM": "seldom; rarely; hardly ever; poorly; too little; never; scarcely; only now",
    "MODEL": "model; theory; equation; pilot; textbook; teacher; handbook; formula",
    "TESTED": "tested; asked; examined; checked; wondered; studied; measured; noted",
    "FOLLOWED": "followed; watched; tracked; sampled; selected; visited; inspected; surveyed",
    "GAVE": "gave us; found; covered; yielded; reached; sorted; mapped; traced",
    "RUN": "run; used; tried; repeated; applied; piloted; funded; extended",
    "FORESEEN": "expected; foreseen; feared; assumed; hoped; promised; suggested; proposed",
    "ABOVEALL": "above all; mainly; chiefly; even; notably; first; best; mostly",
    "INDEED": "Indeed; Clearly; In fact; Plainly; As ever; Reliably; Duly; Of course",
    "INSTEAD": "Instead; However; In contrast; Oddly; Sadly; All the same; But no; Yet again",
    "SURPRISE": "surprise; regret; relief; dismay; delight; horror; amazement; confusion",
    "EXPLAIN": "explain; account for; produce; mimic; hide; undo; cause; distort",
    "RULEDOUT": "ruled out; cut; removed; handled; detected; absorbed; found; dismissed",
    "STILL": "still; openly; clearly; again; reliably; freely; also; visibly",
    "THUS": "thus; hence; therefore; all in all,; overall,; it seems that; in sum,; evidently",
    "SHAPE": "shape; harm; alter; protect; disturb; govern; help; change",
    "CONFIRM": "confirm; support; refine; sharpen; defend; underline; complete; settle",
    "REJECT": "reject; abandon; question; dismiss; withdraw; oppose; doubt; retire",
}

TOPIC = {
    "TOPIC it kind": ";".join(f"{topic} | {kind}" for kind, topics in TOPICS.items() for topic in topics.split(";"))
}

TABLES = TOPIC | PHRASES | CAUSES | EFFECTS | METHODS | UNITS | GROUPS | USES | NUMBERS | TURNS
