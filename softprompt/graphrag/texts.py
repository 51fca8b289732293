"""The words of our prompts and of our questions to the model: written for this project, none of them taken over."""

TASK = """\
Read the text and write down the knowledge graph that it states.
First the entities: every person, thing, place or idea that the text names, is of one of the given types, and has \
something said about it. Write a name once, as the text has it, in its longest form; leave out pronouns and mere dates \
and numbers.
Then the relationships: every pair of those entities between which the text itself states a connection. Name both ends \
exactly as in their entity records.
Use nothing that the text does not say."""

SUMMARY = """\
Below are several descriptions of the same entity, or of the same relationship, collected from different passages.
Merge them into one description in the third person that names what it describes, keeps every fact that any of them \
states, and says each once. Where they contradict each other, say so, or give what most of them support. Add nothing."""

REPORT = """\
Below are the entities and relationships of one group within a larger graph. Write a report of it for readers who have \
not seen the data: what holds the group together, who and what matter most in it, and what follows."""

REPORT_SHAPE = """\
{
    "title": "<a short name with the most important entities>",
    "summary": "<what the group is and how its members are connected>",
    "rating": <a number from 0 to 10>,
    "rating_explanation": "<one sentence>",
    "findings": [
        {"summary": "<one insight>", "explanation": "<what supports it, with references>"}
    ]
}"""

REPORT_RULES = """\
Give 3 to 10 findings. Support every statement by the records it rests on, in the form \
[Data: Entities (4, 9); Relationships (12, 30, +more)]: ids as in the data, five at most in one reference, then \
"+more". Leave out what no record supports."""

RATING = "how much the group matters to the text as a whole"
ROLE = "an analyst who knows the texts behind the graph"
OWN_LANGUAGE = "the language of the text"

EXAMPLE_TYPES = ("PERSON", "ORGANIZATION", "PLACE")
EXAMPLE_TEXT = """\
The ferry to Lundsey is late again. Harbour master Ida Brandt said on Tuesday that Nordlinie, which runs it, has been \
warned twice. The company was founded in Lundsey and still has its office there."""
EXAMPLE_ENTITIES = (
    ("IDA BRANDT", "PERSON", "Ida Brandt is the harbour master who says that Nordlinie has been warned twice"),
    ("NORDLINIE", "ORGANIZATION", "Nordlinie runs the ferry to Lundsey, which is late again"),
    ("LUNDSEY", "PLACE", "Lundsey is where the ferry goes and where Nordlinie was founded and has its office"),
)
EXAMPLE_RELATIONS = (
    ("IDA BRANDT", "NORDLINIE", "Ida Brandt says that Nordlinie has been warned twice", 7.0, "supervision, warning"),
    ("NORDLINIE", "LUNDSEY", "Nordlinie was founded in Lundsey and has its office there", 9.0, "origin, location"),
)

ASK_DOMAIN = "Name the subject that these passages share, in at most eight words. Answer with the subject alone."
ASK_LANGUAGE = "Name the language that these passages are written in. Answer with its English name alone."
ASK_PERSONA = """\
Who would be best suited to find who and what is connected to whom in texts about {domain}? Describe that expert in \
two or three sentences that begin with "You are". Answer with the description alone."""
ASK_ROLE = """\
A report about groups of connected entities in texts about {domain} is to be written. Name the author that its readers \
would trust most, as a role in at most twelve words, beginning with "a" or "an". Answer with the role alone."""
ASK_RATING = """\
Groups of connected entities in texts about {domain} are to be rated from 0 to 10. Say in one sentence what the rating \
should express for readers in this field. Answer with the sentence alone."""
ASK_TYPES = """\
Which types of entities matter in these passages? List at most {cap} of them, the most useful first: each one or two \
words in the singular, none a synonym or a special case of another. Answer with a JSON list of strings alone."""
ASK_TASK = """\
A model is given the instructions below, a format, examples and a text, and writes the knowledge graph of the text. \
What it wrote for other texts was checked.

Instructions now:
<task>
{task}
</task>

Shares from 0 to 1: {scores}
What was wrong:
{faults}

Write better instructions for the same task: clear, general, at most {limit} characters, without examples, without \
words of the texts, and without any output format, which is given elsewhere. Answer with them between <task> and \
</task>."""
